// Where the page is, as its address says: #/view/argument?service=…&range=…; every screen is a link to itself.

export const RANGES = [["", "All time"], ["5m", "Last 5 min"], ["15m", "Last 15 min"], ["1h", "Last hour"], ["6h", "Last 6 hours"], ["24h", "Last 24 hours"]];
const UNITS = { m: 60e3, h: 3600e3, d: 86400e3 };
const KEPT = ["service", "range"]; // along from screen to screen

export function here() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const parts = path.split("/").map((part) => { try { return decodeURIComponent(part); } catch { return part; } });
  return { view: parts[0] || "findings", argument: parts[1] || "", query: Object.fromEntries(new URLSearchParams(query)) };
}

export function link(view, argument = "", query = {}, { keep = true } = {}) {
  const all = new URLSearchParams();
  const now = keep ? here().query : {};
  for (const name of KEPT) if (now[name]) all.set(name, now[name]);
  for (const [name, value] of Object.entries(query)) {
    if (value === "" || value === null || value === undefined || value === false) all.delete(name);
    else all.set(name, value);
  }
  const text = all.toString();
  return `#/${view}${argument ? `/${encodeURIComponent(argument)}` : ""}${text ? `?${text}` : ""}`;
}

// The same screen with other parameters.
export function change(query) {
  const now = here();
  const target = link(now.view, now.argument, { ...now.query, ...query });
  if (target !== location.hash) location.hash = target;
}

// The address alone: what it says is on the screen already.
export function note(query) {
  const now = here();
  history.replaceState(null, "", link(now.view, now.argument, { ...now.query, ...query }));
}

// From and to in ms for the server. "1h" is the last hour of what there is; "A-B" are two moments in ms.
export function times(range, lastNs) {
  const relative = /^(\d+)([mhd])$/.exec(range || "");
  if (relative && !lastNs) return {}; // nothing is here yet
  if (relative) {
    const end = Math.ceil(Number(lastNs) / 1e6) + 1;
    return { from: end - Number(relative[1]) * UNITS[relative[2]], to: end };
  }
  const absolute = /^(\d+)-(\d+)$/.exec(range || "");
  return absolute ? { from: absolute[1], to: absolute[2] } : {};
}
