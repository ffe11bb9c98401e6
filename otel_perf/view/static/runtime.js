// Memory, garbage collection, caches and event loops over time; and any other metric.
import { fill, h, table } from "./dom.js";
import { draw, forget } from "./chart.js";
import { inUnit, moment } from "./format.js";
import { dot } from "./findings.js";
import { change } from "./route.js";

const FAR = 4; // times the highest reading

export async function runtime(page) {
  const name = page.query.metric || "";
  const [found, metrics, one] = await Promise.all([
    page.ask("charts"), page.ask("metrics", { from: "", to: "" }), name ? page.ask("metric", { name }) : null,
  ]);
  const choose = (range) => change({ range });
  const marks = found.marks.map((mark) => ({ ...mark, time: Number(mark.time) / 1e6 }));
  const boxes = [];
  const last = (line) => line.points[line.points.length - 1]?.[1] ?? 0;
  const chart = (panel, answer) => {
    const box = h("div", { class: "chart" });
    const isLimit = (line) => line.label.endsWith(" limit"); // it is drawn, and is no reading
    const used = panel.lines.filter((line) => !isLimit(line));
    const high = Math.max(0, ...used.map(last));
    // Of a machine's whole memory a process would be a line along the bottom, in which nothing is seen to grow.
    const most = Math.max(0, ...used.flatMap((line) => line.points.map(([, value]) => value)));
    const far = used.length ? panel.lines.filter((line) => isLimit(line) && last(line) > FAR * most) : [];
    boxes.push([box, { ...panel, lines: panel.lines.filter((line) => !far.includes(line)) }, answer]);
    return h("section", { class: "chart-card", "data-panel": panel.key, "aria-label": panel.title },
      h("h2", {}, panel.title, " ", h("span", { class: "now", "data-now": panel.key }, panel.lines.length ? inUnit(panel.unit)(high) : "")),
      box,
      far.length ? h("p", { class: "quiet" }, `The limit, ${inUnit(panel.unit)(Math.min(...far.map(last)))}, is far above.`) : null,
      panel.more ? h("p", { class: "quiet" }, `and ${panel.more} more`) : null);
  };
  const content = [
    h("h1", {}, "Runtime"),
    found.panels.length ? null : h("p", { class: "empty" }, "No figures yet: a process tells them once a minute (OTEL_METRIC_EXPORT_INTERVAL)."),
    h("div", { class: "charts" }, found.panels.map((panel) => chart(panel, found))),
    h("section", {}, h("h2", {}, "Any metric"),
      h("form", { class: "filters", onsubmit: (event) => event.preventDefault() },
        h("label", {}, "Metric ", h("select", { onchange: (event) => change({ metric: event.target.value }) },
          h("option", { value: "" }, "choose…"),
          metrics.metrics.map((metric) => h("option", { value: metric.name, selected: metric.name === name }, `${metric.name} (${metric.series})`))))),
      one ? chart(one.panels[0], one) : null),
    h("section", {}, h("h2", {}, "Pressure, tuning, starts and deploys"), table("Marks", [
      { head: "When", cell: (mark) => moment(Number(mark.time) * 1e6) },
      { head: "What", cell: (mark) => [h("span", { class: "tag" }, mark.kind), ` ${mark.text}`] },
      { head: "Service", cell: (mark) => [dot(mark.service), mark.service] },
    ], marks.slice(0, 100), { empty: "None." })),
  ];
  page.shown = () => {
    forget();
    for (const [box, panel, answer] of boxes) draw(fill(box), panel, answer.begin, answer.step, marks, choose);
  };
  return content;
}
