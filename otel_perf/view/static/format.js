// Numbers, durations and times as people read them.

export const count = (value) => Number(value || 0).toLocaleString("en-US");

export const counted = (value, thing) => `${count(value)} ${thing}${Number(value) === 1 ? "" : "s"}`;

// What is stored, in words. A reading of metrics is what a process tells at once, or a point that was received.
export const stored = (items) => [counted(items.traces, "span"), counted(items.logs, "line"), counted(items.metrics, "reading")].join(" · ");

export function duration(ns) {
  const value = Number(ns || 0);
  if (value < 1e3) return `${Math.round(value)} ns`;
  if (value < 1e6) return `${digits(value / 1e3)} µs`;
  if (value < 1e9) return `${digits(value / 1e6)} ms`;
  if (value < 120e9) return `${digits(value / 1e9)} s`;
  if (value < 7200e9) return `${digits(value / 60e9)} min`;
  return `${digits(value / 3600e9)} h`;
}

export const seconds = (value) => duration(Number(value || 0) * 1e9);

export function digits(value) {
  if (value >= 100) return value.toFixed(0);
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

export function bytes(value) {
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (Math.abs(value) >= size) return `${digits(value / size)} ${unit}`;
  }
  return `${Math.round(value)} B`;
}

const two = (value) => String(value).padStart(2, "0");

export function time(ns, fractions = true) {
  const at = new Date(Number(ns) / 1e6);
  const clock = `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  return fractions ? `${clock}.${String(at.getMilliseconds()).padStart(3, "0")}` : clock;
}

export function day(ns) {
  const at = new Date(Number(ns) / 1e6);
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
}

export function moment(ns) {
  return `${day(ns)} ${time(ns, false)}`;
}

export const inUnit = (unit) => (value) => {
  if (value === null || value === undefined) return "";
  if (unit === "By") return bytes(value);
  if (unit === "s") return seconds(value);
  if (unit === "share") return `${Number((value * 100).toPrecision(3))} %`;
  if (Math.abs(value) >= 1000) return count(Math.round(value));
  const text = Number(value.toPrecision(3)).toString();
  return unit && unit !== "1" && !unit.startsWith("{") ? `${text} ${unit}` : text;
};

const KINDS = {
  n_plus_one: "N+1 queries", serial_io: "I/O one by one", slow_io: "Slow I/O", fan_out: "Fan-out",
  self_time: "Own time", cpu_bound: "CPU-bound", cpu_starved: "CPU starved", gil_wait: "Waits for the GIL",
  gc_pause: "GC pause", loop_block: "Blocks the event loop", pool_wait: "Waits for a pool", lock_wait: "Waits for a lock",
  regression: "Got slower", memory_growth: "Memory growth",
};
export const kindName = (kind) => KINDS[kind] || kind;

export function severity(number) {
  if (number >= 21) return "FATAL";
  if (number >= 17) return "ERROR";
  if (number >= 13) return "WARN";
  if (number >= 9) return "INFO";
  return number >= 5 ? "DEBUG" : number ? "TRACE" : "–";
}

// The same colour for a service everywhere: its place among the services, else a hash.
const known = [];
export function setServices(services) {
  for (const service of services) if (!known.includes(service)) known.push(service);
}
export function serviceColor(service) {
  let at = known.indexOf(service);
  if (at < 0) at = [...service].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) % 997, 7);
  return `var(--series-${(at % 8) + 1})`;
}

export const shortPath = (path) => path.split(/[\\/]/).slice(-2).join("/");
