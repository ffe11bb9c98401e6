// The first screen: what costs the most, where it is, and the trace that shows it.
import { bar, details, fill, h } from "./dom.js";
import { ask, unlessLeft } from "./api.js";
import { bars } from "./chart.js";
import { count, duration, kindName, moment, seconds, serviceColor, shortPath } from "./format.js";
import { change, link } from "./route.js";

export async function findings(page) {
  const [found, timeline, operations, errors] = await Promise.all([
    page.ask("findings"), page.ask("timeline"), page.ask("operations", { limit: 8 }), page.ask("errors", { limit: 8 }),
  ]);
  const list = found.findings;
  const worst = list[0]?.cost || 0;
  const { count: requests, errors: failed } = timeline;
  const open = page.query.open;
  return [
    h("section", { class: "strip", "aria-label": "In short" },
      figure(count(list.length), list.length === 1 ? "bottleneck" : "bottlenecks", list.length ? "bad" : "good"),
      figure(list.length ? seconds(list.reduce((sum, one) => sum + one.cost, 0)) : "–", "could be saved"),
      figure(count(requests), "requests"),
      figure(requests ? `${(failed / requests * 100).toFixed(failed ? 1 : 0)} %` : "–", "failed", failed ? "bad" : ""),
      h("div", { class: "over" }, bars(timeline.slots, timeline.width, `${count(requests)} requests over time, ${count(failed)} failed`, (range) => change({ range })))),
    h("h1", {}, "What to mend first"),
    list.length
      ? h("ol", { class: "findings" }, list.map((one) => card(page, one, worst, one.kind + one.spot + one.service === open)))
      : h("p", { class: "empty" }, page.state.items?.traces
        ? "No bottleneck was found in this time. The slowest operations are below."
        : "Nothing is stored yet: start a program with opentelemetry-instrument, or send OTLP with --receive."),
    h("div", { class: "two" },
      h("section", {}, h("h2", {}, "Most own time"), h("ul", { class: "plain" }, operations.operations.map((one) =>
        h("li", {}, h("a", { href: link("traces", "", { operation: one.op, service: "" }), "data-row": true }, dot(one.service), one.name),
          h("span", { class: "quiet" }, `${duration(one.self)} · p99 ${duration(one.p99)}`)))),
        operations.operations.length ? null : h("p", { class: "empty" }, "No spans.")),
      h("section", {}, h("h2", {}, "Errors"), h("ul", { class: "plain" }, errors.errors.map((one) =>
        h("li", {}, h("a", { href: one.trace ? link("trace", one.trace) : link("logs", "", { severity: 17 }), "data-row": true },
          h("b", {}, one.type), " ", one.spot), h("span", { class: "quiet", title: one.message }, `${count(one.count)}× · ${one.message}`)))),
        errors.errors.length ? null : h("p", { class: "empty" }, "None."))),
  ];
}

const figure = (value, label, kind = "") => h("div", { class: `figure ${kind}` }, h("b", {}, value), h("span", {}, label));

export const dot = (service) => h("i", { class: "dot", title: service, style: { background: serviceColor(service) } });

function card(page, one, worst, isOpen) {
  const body = h("div", { class: "inside", hidden: !isOpen });
  const toggle = h("button", {
    type: "button", class: "quiet-button", "aria-expanded": String(isOpen), onclick: async () => {
      const opening = body.hidden;
      body.hidden = !opening;
      toggle.setAttribute("aria-expanded", String(opening));
      if (opening && !body.childElementCount) await inside(page, body, one);
    },
  }, "Lines and traces");
  if (isOpen) inside(page, body, one);
  return h("li", { class: "card" },
    h("div", { class: "headline" },
      h("span", { class: `kind ${one.kind}` }, kindName(one.kind)),
      h("span", { class: "cost" }, h("b", {}, seconds(one.cost)), bar(worst ? one.cost / worst : 0, `costs ${seconds(one.cost)} in all`, "bad"))),
    h("p", { class: "evidence" }, one.trace
      ? h("a", { href: link("trace", one.trace), "data-row": true }, one.evidence || one.culprit)
      : one.evidence || one.culprit),
    h("p", { class: "meta" },
      dot(one.service), `${one.service} · `,
      one.path ? h("code", {}, `${shortPath(one.path)}:${one.line}${one.function ? ` in ${one.function}` : ""}`) : h("code", {}, one.culprit),
      ` · ${count(one.count)}× in ${count(one.traces)} ${one.traces === 1 ? "trace" : "traces"} · worst ${seconds(one.worst)} · last ${moment(one.last)} `, toggle),
    body);
}

const inside = (page, body, one) => unlessLeft(() => linesAndTraces(page, body, one), (text) => fill(body, h("p", { class: "problem", role: "alert" }, text)));

async function linesAndTraces(page, body, one) {
  fill(body, h("p", { class: "quiet" }, "…"));
  const [group, lines] = await Promise.all([
    page.ask("finding", { service: one.service, kind: one.kind, spot: one.spot }), source(one.path, one.line),
  ]);
  fill(body, lines, h("h3", {}, "Its costliest traces"),
    h("ul", { class: "plain" }, group.traces.filter((row) => row.trace).slice(0, 10).map((row) =>
      h("li", {}, h("a", { href: link("trace", row.trace), "data-row": true }, h("code", {}, row.trace.slice(0, 12)), ` ${moment(row.time)}`),
        h("span", { class: "quiet" }, `${seconds(row.cost)} · ${row.evidence}`)))));
}

// The lines around one, if the file is here and may be shown.
export async function source(path, line) {
  if (!path) return null;
  let found;
  try {
    found = await ask("source", { path, line });
  } catch {
    return null;
  }
  if (found.missing) return h("p", { class: "quiet" }, `${path}:${line} (the file is not here; --source DIR names its folder)`);
  return h("figure", { class: "source" },
    h("figcaption", {}, `${path}:${line}`),
    h("pre", { tabindex: "0", role: "region", "aria-label": `Source of ${path} around line ${line}` }, found.lines.map(([number, text]) =>
      h("div", { class: number === line ? "line hit" : "line", "aria-current": number === line ? "true" : null },
        h("span", { class: "number" }, String(number)), text))));
}

export { details };
