// Where the time goes: operations, monitored functions, and a flame graph of the slowest traces.
import { bar, fill, h, table } from "./dom.js";
import { count, duration, seconds, serviceColor } from "./format.js";
import { dot } from "./findings.js";
import { change, link } from "./route.js";

export async function functions(page) {
  const sort = page.query.sort || "self";
  const q = page.query.q || "";
  const [found, monitored, flames] = await Promise.all([
    page.ask("operations", { sort, q }), page.ask("functions", { q }), page.ask("flame", { operation: page.query.operation }),
  ]);
  const most = Math.max(1, ...found.operations.map((row) => row.self));
  const longest = Math.max(1e-9, ...monitored.functions.map((row) => row.self));
  const onsort = (key) => change({ sort: key });
  return [
    h("h1", {}, "Functions and operations"),
    h("form", { class: "filters", onsubmit: (event) => event.preventDefault() },
      h("label", {}, "Name ", h("input", { type: "search", value: q, "data-filter": true, onchange: (event) => change({ q: event.target.value.trim() }) }))),
    h("section", {}, h("h2", {}, "Flame graph"), h("p", { class: "quiet" }, `Where the ${flames.traces} slowest traces of this time spent it. Click a frame to look closer.`), flame(flames)),
    h("section", {}, h("h2", {}, "Operations"), found.more ? h("p", { class: "quiet" }, `The first ${found.operations.length}; a name finds others.`) : null, table("Operations", [
      { head: "Operation", cell: (row) => h("a", { href: link("traces", "", { operation: row.op, service: "" }), "data-row": true }, dot(row.service), row.name) },
      { head: "Own time", key: "self", class: "number", cell: (row) => [duration(row.self), bar(row.self / most, `own time ${duration(row.self)}`)] },
      { head: "Total", key: "total", class: "number", cell: (row) => duration(row.total) },
      { head: "Count", key: "count", class: "number", cell: (row) => count(row.count) },
      { head: "p50", class: "number", cell: (row) => duration(row.p50) },
      { head: "p99", class: "number", cell: (row) => duration(row.p99) },
      { head: "Longest", key: "longest", class: "number", cell: (row) => (row.trace ? h("a", { href: link("trace", row.trace) }, duration(row.longest)) : duration(row.longest)) },
      { head: "Failed", key: "errors", class: "number", cell: (row) => (row.errors ? h("span", { class: "tag bad" }, count(row.errors)) : "") },
    ], found.operations, { sort, onsort, empty: "No spans in this time." })),
    h("section", {}, h("h2", {}, "Monitored functions"),
      h("p", { class: "quiet" }, `Every call of @monitored and OTEL_PERF_CALLS_WATCH, since their processes started${monitored.all > monitored.functions.length ? `; the first ${monitored.functions.length} of ${monitored.all}, a name finds others` : ""}.`),
      table("Monitored functions", [
        { head: "Function", cell: (row) => [dot(row.service), h("code", {}, row.name)] },
        { head: "Own time", class: "number", cell: (row) => [seconds(row.self), bar(row.self / longest, `own time ${seconds(row.self)}`)] },
        { head: "Total", class: "number", cell: (row) => seconds(row.total) },
        { head: "Calls", class: "number", cell: (row) => count(row.calls) },
        { head: "p50", class: "number", cell: (row) => seconds(row.p50) },
        { head: "p99", class: "number", cell: (row) => seconds(row.p99) },
        { head: "Raised", class: "number", cell: (row) => (row.errors ? h("span", { class: "tag bad" }, count(row.errors)) : "") },
      ], monitored.functions, { empty: "No function is monitored: @perf.monitored, or OTEL_PERF_CALLS_WATCH=\"shop.*\" without a change of code." })),
  ];
}

// Frames are [operation, number, total, own, children]; a row of buttons for each depth.
function flame({ tree, names }) {
  const box = h("div", { class: "flame", role: "group", "aria-label": "Flame graph" });
  const whole = [null, 0, tree.reduce((sum, frame) => sum + frame[2], 0), 0, tree];
  const paint = (root, above) => {
    const rows = [];
    const place = (frame, depth, left, width) => {
      if (width < 0.25 || depth > 40) return;
      rows[depth] = rows[depth] || [];
      const name = frame[0] === null ? { name: "all", service: "" } : names[frame[0]];
      rows[depth].push(h("button", {
        type: "button", style: { left: `${left}%`, width: `${width}%`, "--frame": frame[0] === null ? "var(--line)" : serviceColor(name.service) },
        title: `${name.name} (${name.service}): ${duration(frame[2])} in all, ${duration(frame[3])} of its own, ${count(frame[1])}×`,
        onclick: () => paint(frame, frame === root ? [] : [...above, root]),
      }, width > 2 ? name.name : ""));
      const sum = Math.max(frame[2], frame[4].reduce((all, child) => all + child[2], 0)) || 1;
      let at = left;
      for (const child of frame[4]) {
        const share = child[2] / sum * width;
        place(child, depth + 1, at, share);
        at += share;
      }
    };
    place(root, 0, 0, 100);
    fill(box, above.length ? h("button", { type: "button", class: "back", onclick: () => paint(above[above.length - 1], above.slice(0, -1)) }, "← back") : null,
      rows.map((row) => h("div", { class: "depth" }, row)));
  };
  if (!tree.length) return h("p", { class: "empty" }, "No traces in this time.");
  paint(whole, []);
  return box;
}
