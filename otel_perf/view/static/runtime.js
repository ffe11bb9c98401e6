// Memory, garbage collection, caches and event loops over time; and any other metric.
import { fill, h, table } from "./dom.js";
import { draw, forget } from "./chart.js";
import { inUnit, moment } from "./format.js";
import { dot } from "./findings.js";
import { change } from "./route.js";

export async function runtime(page) {
  const name = page.query.metric || "";
  const [found, metrics, one] = await Promise.all([
    page.ask("charts"), page.ask("metrics", { from: "", to: "" }), name ? page.ask("metric", { name }) : null,
  ]);
  const choose = (range) => change({ range });
  const marks = found.marks.map((mark) => ({ ...mark, time: Number(mark.time) / 1e6 }));
  const boxes = [];
  const chart = (panel, answer) => {
    const box = h("div", { class: "chart" });
    boxes.push([box, panel, answer]);
    const used = panel.lines.filter((line) => !line.label.endsWith(" limit")); // a limit is drawn, and is no reading
    const values = used.map((line) => line.points[line.points.length - 1]?.[1]).filter((value) => value !== undefined && value !== null);
    const high = Math.max(0, ...values);
    return h("section", { class: "chart-card", "data-panel": panel.key, "aria-label": panel.title },
      h("h2", {}, panel.title, " ", h("span", { class: "now", "data-now": panel.key }, panel.lines.length ? inUnit(panel.unit)(high) : "")),
      box, panel.more ? h("p", { class: "quiet" }, `and ${panel.more} more`) : null);
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
