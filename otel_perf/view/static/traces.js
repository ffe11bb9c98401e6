// Traces in a list.
import { h, table } from "./dom.js";
import { count, duration, moment, seconds } from "./format.js";
import { dot } from "./findings.js";
import { change, link } from "./route.js";

export async function traces(page) {
  const { query } = page;
  const sort = query.sort || "slowest";
  const answer = await page.ask("traces", { sort, operation: query.operation, failed: query.failed, least: query.least, q: query.q, skip: query.skip });
  const skip = Number(query.skip || 0);
  return [
    h("h1", {}, "Traces"),
    h("form", { class: "filters", onsubmit: (event) => event.preventDefault() },
      choice("Order", "sort", sort, [["slowest", "Slowest"], ["newest", "Newest"], ["costliest", "Costliest findings"]]),
      choice("Took at least", "least", query.least || "", [["", "any"], ["10", "10 ms"], ["100", "100 ms"], ["1000", "1 s"], ["10000", "10 s"]]),
      h("label", {}, h("input", { type: "checkbox", checked: Boolean(query.failed), onchange: (event) => change({ failed: event.target.checked ? 1 : "", skip: "" }) }), " failed only"),
      h("label", {}, "Span name or trace id ", h("input", {
        type: "search", value: query.q || "", "data-filter": true, onchange: (event) => change({ q: event.target.value.trim(), skip: "" }),
      })),
      query.operation ? h("button", { type: "button", class: "quiet-button", onclick: () => change({ operation: "" }) }, "of one operation ✕") : null),
    answer.slowest ? h("p", { class: "quiet" }, `Of very many: the traces of the ${count(answer.slowest)} slowest spans. A shorter time has all of its own.`) : null,
    table("Traces", [
      { head: "Trace", cell: (row) => h("a", { href: link("trace", row.trace), "data-row": true }, dot(row.service), row.name || "(no name)", row.errors ? h("span", { class: "tag bad" }, `${row.errors} failed`) : null) },
      { head: "Took", class: "number", cell: (row) => duration(row.took) },
      { head: "When", cell: (row) => moment(row.start) },
      { head: "Spans", class: "number", cell: (row) => count(row.spans) },
      { head: "Lines", class: "number", cell: (row) => count(row.logs) },
      { head: "Findings", class: "number", cell: (row) => (row.findings ? h("span", { class: "tag bad" }, `${row.findings} · ${seconds(row.cost)}`) : "") },
    ], answer.traces, { empty: query.service ? `No trace that begins in ${query.service} is like that.` : "No trace is like that." }),
    h("nav", { class: "pager", "aria-label": "Pages of traces" },
      skip ? h("button", { type: "button", onclick: () => change({ skip: Math.max(0, skip - 50) || "" }) }, "← Before") : null,
      answer.more ? h("button", { type: "button", onclick: () => change({ skip: skip + 50 }) }, "More →") : null),
  ];
}

export const choice = (label, name, value, options, also = { skip: "" }) =>
  h("label", {}, `${label} `, h("select", { onchange: (event) => change({ ...also, [name]: event.target.value }) },
    // Of an address that was kept: what is filtered by has to be seen.
    (options.some(([key]) => key === value) ? options : [...options, [value, value]]).map(([key, text]) => h("option", { value: key, selected: key === value }, text))));
