// Readiness signals, health, and the audit trail.
import { bar, details, h, table } from "./dom.js";
import { count, moment, seconds, stored, time } from "./format.js";
import { dot } from "./findings.js";
import { link } from "./route.js";

const key = (row) => (row.key ? ` [${row.key}]` : "");

export async function signals(page) {
  const found = await page.ask("signals");
  const rows = [
    ...found.waits.map((wait) => ({ at: wait.start_ns, who: wait.service, what: `waits for ${wait.names.join(", ")}${key(wait)}`, took: wait.seconds, trace: wait.trace_id, bad: wait.outcome !== "ready",
      end: wait.outcome === "ready" ? `${wait.last} by ${wait.emitter}` : `${wait.outcome}${wait.missing.length ? `: ${wait.missing.join(", ")} missing` : wait.last ? `: ${wait.last} by ${wait.emitter}` : ""}` })),
    ...found.emissions.map((one) => ({ at: one.time_ns, who: one.agent || one.service, what: `emits ${one.name}${key(one)}`, took: null, trace: one.trace_id, bad: one.state !== "ready", end: one.state === "ready" ? "" : `${one.state}: ${one.reason}` })),
  ].sort((a, b) => a.at - b.at);
  const first = rows[0]?.at || 0;
  const whole = Math.max(1, ...rows.map((row) => row.at - first + (row.took || 0) * 1e9));
  return [
    h("h1", {}, "Signals"),
    found.chain.length > 1 ? h("section", {}, h("h2", {}, "What decided when all was ready"), h("ol", { class: "chain" }, found.chain.map((step) =>
      h("li", {}, h("b", {}, step.service), ` emits ${step.name} `, step.waited || step.worked ? h("span", { class: "quiet" }, `waited ${seconds(step.waited)}, then ${seconds(step.worked)} of its own`) : null)))) : null,
    table("Timeline of signals", [
      { head: "At", cell: (row) => h("a", { href: link("trace", row.trace), "data-row": true }, time(row.at)) },
      { head: "Who", cell: (row) => [dot(row.who), row.who] },
      { head: "What", cell: (row) => row.what },
      { head: "Timeline", class: "lane", cell: (row) => h("span", { class: "track" }, h("span", { class: row.took === null ? "tick emit" : `span${row.bad ? " bad" : ""}`, style: { left: `${(row.at - first) / whole * 100}%`, width: row.took === null ? "6px" : `max(2px, ${row.took * 1e9 / whole * 100}%)` } })) },
      { head: "Waited", class: "number", cell: (row) => (row.took === null ? "" : seconds(row.took)) },
      { head: "End", cell: (row) => (row.bad ? h("span", { class: "tag bad" }, row.end) : row.end) },
    ], rows, { empty: "No signal was emitted or waited for in this time." }),
  ];
}

const WORDS = { pass: "healthy", warn: "degraded", fail: "unhealthy" };

export async function health(page) {
  const [found, audit] = await Promise.all([page.ask("health"), page.ask("audit", { all: page.query.all })]);
  return [
    h("h1", {}, "Health"),
    found.homes.length ? found.homes.map((home) => [
      h("h2", {}, h("span", { class: `tag ${home.document.status}` }, WORDS[home.document.status] || home.document.status), ` ${home.home}`),
      h("p", { class: "quiet" }, home.processes.map((one) => `${one.service} (process ${one.pid})`).join(", ")),
      table("Checks", [
        { head: "Check", cell: (row) => row.name }, { head: "Process", class: "number", cell: (row) => row.componentId },
        { head: "Status", cell: (row) => h("span", { class: `tag ${row.status}` }, WORDS[row.status] || row.status) },
        { head: "Why", cell: (row) => row.output || "" },
      ], Object.entries(home.document.checks || {}).flatMap(([name, entries]) => entries.map((entry) => ({ ...entry, name })))),
    ]) : h("p", { class: "empty" }, "No process that runs now says in these homes how it is."),
    h("h1", {}, "Audit trail"),
    audit.homes.length ? audit.homes.map((one) => h("section", {}, verdict(one))) : h("p", { class: "empty" }, "There is no audit trail: perf.audit_event(…) begins one."),
    h("h1", {}, "Stores"),
    details({ shown: page.about.homes.join("\n"), "takes OTLP at": page.about.receive || "no (otel-perf view --receive)", items: stored(page.state.items || {}) }),
  ];
}

function verdict(one) {
  if (one.problem) return [h("h2", {}, h("span", { class: "tag bad" }, "cannot be read"), ` ${one.home}`), h("p", {}, one.problem)];
  if (one.long) return [h("h2", {}, one.home), h("p", {}, `${count(one.records)} records. `, h("a", { href: link("health", "", { all: 1 }) }, "Verify them all now"), ", or use otel-perf audit verify.")];
  const found = one.verdict;
  return [
    h("h2", {}, h("span", { class: `tag ${found.good ? "pass" : "bad"}` }, found.good ? "whole" : "BROKEN"), ` ${one.home}`),
    h("p", {}, found.good ? `${count(found.records)} records, chained and ${found.signed ? "signed" : "not signed"}; the last one of ${moment(found.last_time)}` : `record ${found.first_bad}: ${found.reason}`),
    found.notes.map((note) => h("p", { class: "quiet" }, note)),
  ];
}

export { bar };
