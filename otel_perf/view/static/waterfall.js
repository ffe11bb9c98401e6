// One trace: its spans as bars, the critical path in them, its findings, lines, and any span in full.
import { unlessLeft } from "./api.js";
import { details, fill, h } from "./dom.js";
import { count, counted, duration, kindName, moment, seconds, serviceColor, severity, shortPath } from "./format.js";
import { dot, source } from "./findings.js";
import { link, note } from "./route.js";

const ROW = 28; // px, as in style.css

export async function trace(page) {
  const found = await page.ask("trace", { trace: page.argument, from: "", to: "", service: "" });
  if (found.missing) return [h("h1", {}, "Trace"), h("p", { class: "empty" }, "This trace is not here: it may not be indexed yet, or have been deleted.")];
  for (const span of found.list) Object.assign(span, found.names[span.op]);
  const total = Math.max(1, found.took);
  const panel = h("aside", { class: "panel", "aria-label": "Span", "aria-live": "polite" });
  const bySpan = Map.groupBy ? Map.groupBy(found.lines, (line) => line.span) : group(found.lines);
  const faults = group(found.faults);
  const onPath = found.list.reduce((sum, span) => sum + (span.path || []).reduce((all, [, length]) => all + length, 0), 0);

  let latest = 0;
  const show = async (span, focus = true) => {
    latest += 1;
    const mine = latest;
    const put = (...content) => { if (mine === latest) fill(panel, ...content); }; // answers may come in another order
    for (const row of rows.querySelectorAll("[aria-current]")) row.removeAttribute("aria-current");
    rows.querySelector(`[data-span="${span.span}"]`)?.setAttribute("aria-current", "true");
    if (focus) note({ span: span.span });
    await unlessLeft(() => inFull(page, put, span, faults.get(span.span) || [], bySpan.get(span.span) || []),
      (text) => put(h("p", { class: "problem", role: "alert" }, text)));
  };
  const rows = waterfall(found, total, faults, bySpan, show);
  const chosen = found.list.find((span) => span.span === page.query.span)
    || found.list.find((span) => span.span === found.faults[0]?.span) || found.list[0];
  if (chosen) {
    rows.reveal(found.list.indexOf(chosen));
    show(chosen, false);
  }
  return [
    h("div", { class: "title" }, h("h1", {}, dot(found.service), found.name),
      h("p", { class: "meta" }, h("b", {}, duration(found.took)), ` · ${counted(found.spans, "span")} · ${found.errors ? `${found.errors} failed · ` : ""}${moment(found.start)} · `,
        h("code", {}, found.trace))),
    found.faults.length ? h("ul", { class: "faults", "aria-label": "Findings in this trace" }, found.faults.map((fault) =>
      h("li", {}, h("button", { type: "button", "data-row": true, onclick: () => {
        const span = found.list.find((one) => one.span === fault.span) || found.list[0];
        rows.reveal(found.list.indexOf(span));
        show(span);
      } }, h("span", { class: `kind ${fault.kind}` }, kindName(fault.kind)), h("span", {}, fault.evidence),
      h("b", {}, seconds(fault.cost)))))) : null,
    h("p", { class: "legend" }, h("i", { class: "swatch path" }), `critical path: what the end waited for (${Math.round(Math.min(1, onPath / total) * 100)} %) `,
      h("i", { class: "swatch line" }), "log line ", found.list.some((span) => span.signal) ? [h("i", { class: "swatch wait" }), "waits for a signal ", h("i", { class: "swatch emit" }), "emits one "] : null, found.cut ? h("span", { class: "tag" }, `${count(found.cut)} more spans are not shown`) : null),
    h("div", { class: "split" }, rows, panel),
    lines(found.lines, found.logs, (line) => {
      const span = found.list.find((one) => one.span === line.span);
      if (span) { rows.reveal(found.list.indexOf(span)); show(span); }
    }),
  ];
}

function group(items) {
  const found = new Map();
  for (const item of items) {
    if (!found.has(item.span)) found.set(item.span, []);
    found.get(item.span).push(item);
  }
  return found;
}

// Only the rows that can be seen are made: a trace may have thousands.
function waterfall(found, total, faults, bySpan, show) {
  const inner = h("div", { class: "rows", style: { height: `${found.list.length * ROW}px` } });
  const box = h("div", { class: "waterfall", role: "group", "aria-label": `Waterfall of ${counted(found.list.length, "span")}` }, inner);
  const made = new Map();
  const paint = () => {
    const first = Math.max(0, Math.floor(box.scrollTop / ROW) - 10);
    const last = Math.min(found.list.length, Math.ceil((box.scrollTop + (box.clientHeight || 600)) / ROW) + 10);
    for (const [at, row] of made) if ((at < first || at >= last) && row !== document.activeElement) { row.remove(); made.delete(at); }
    let before = null;
    for (let at = last - 1; at >= first; at -= 1) {
      if (!made.has(at)) made.set(at, row(found.list[at], at));
      const element = made.get(at);
      if (element.parentNode !== inner) inner.insertBefore(element, before);
      before = element;
    }
  };
  const percent = (value) => `${Math.max(0, Math.min(100, value / total * 100))}%`;
  const row = (span, at) => {
    const marks = bySpan.get(span.span) || [];
    const bad = faults.get(span.span);
    return h("button", {
      type: "button", class: `row${span.path ? " on-path" : ""}${span.failed ? " failed" : ""}`, "data-span": span.span, "data-row": true,
      style: { top: `${at * ROW}px` }, onclick: () => show(span),
      title: `${span.service}: ${span.name}`,
    },
    h("span", { class: "name", style: { "padding-inline-start": `${Math.min(span.depth, 24) * 12 + 4}px` } },
      dot(span.service), bad ? h("span", { class: "tag bad" }, kindName(bad[0].kind)) : null, span.failed ? h("span", { class: "tag bad" }, "failed") : null,
      span.signal ? h("span", { class: `tag signal${span.signal.bad ? " bad" : ""}` }, saysSignal(span.signal)) : null, span.name),
    h("span", { class: "track" },
      h("span", { class: `span${span.signal?.waits ? " wait" : ""}`, style: { left: percent(span.start), width: `max(2px, ${percent(span.took)})`, background: serviceColor(span.service) } }),
      span.signal && !span.signal.waits ? h("span", { class: "tick emit", style: { left: percent(span.start), width: "6px" } }) : null,
      (span.path || []).map(([start, length]) => h("span", { class: "path", style: { left: percent(start), width: `max(1px, ${percent(length)})` } })),
      marks.slice(0, 20).map((line) => h("span", { class: `tick ${severity(line.severity)}`, style: { left: percent(line.at) } }))),
    h("span", { class: "took" }, duration(span.took)));
  };
  box.addEventListener("scroll", () => requestAnimationFrame(paint), { passive: true });
  requestAnimationFrame(paint);
  paint();
  box.reveal = (at) => {
    const top = at * ROW;
    const place = () => {
      if (top < box.scrollTop || top > box.scrollTop + box.clientHeight - 2 * ROW) box.scrollTop = Math.max(0, top - box.clientHeight / 3);
      paint();
    };
    place();
    requestAnimationFrame(place);
  };
  return box;
}

function saysSignal(signal) {
  return signal.waits ? `waits for ${signal.names.join(", ")}` : `emits ${signal.names.join(", ")}`;
}

// Who waited for whom, and how it ended.
function signalOf({ signal }) {
  if (!signal) return null;
  return [h("h3", {}, "Signal"), h("p", {}, saysSignal(signal), signal.end ? [": ", signal.bad ? h("span", { class: "tag bad" }, signal.end) : signal.end] : null, " ",
    h("a", { href: link("signals") }, "All signals"))];
}

async function inFull(page, put, span, faults, lines) {
  const head = [
    h("h2", {}, dot(span.service), span.name),
    h("p", { class: "meta" }, `${span.service} · ${span.kind.toLowerCase()} · `, h("b", {}, duration(span.took)), ` from ${duration(span.start)}`,
      span.path ? ` · ${duration(span.path.reduce((sum, [, length]) => sum + length, 0))} on the critical path` : " · not on the critical path"),
  ];
  put(head, h("p", { class: "quiet" }, "…"));
  const [full, sources] = await Promise.all([
    page.ask("span", { place: span.at[0], pos: span.at[1], from: "", to: "", service: "" }),
    Promise.all(faults.slice(0, 4).map((fault) => source(fault.path, fault.line))),
  ]);
  const attributes = { ...full.attributes };
  put(head, signalOf(span),
    faults.slice(0, 4).map((fault, at) => h("div", { class: "fault" },
      h("p", {}, h("span", { class: `kind ${fault.kind}` }, kindName(fault.kind)), ` ${fault.evidence}`),
      fault.path ? h("p", { class: "meta" }, h("code", {}, `${shortPath(fault.path)}:${fault.line} in ${fault.function}`)) : null, sources[at])),
    full.gone
      ? h("p", { class: "empty" }, "Its attributes are gone: this batch was delivered and deleted. OTEL_PERF_STORE_KEEP=on keeps a copy.")
      : [full.status ? h("p", { class: "tag bad" }, full.status) : null, h("h3", {}, "Attributes"), details(attributes),
        full.events.length ? [h("h3", {}, "Events"), full.events.map((event) => h("details", {}, h("summary", {}, event.name), details(event.attributes)))] : null,
        lines.length ? [h("h3", {}, "Lines"), h("ul", { class: "plain" }, lines.slice(0, 50).map((line) => h("li", { class: `log ${severity(line.severity)}` }, line.text)))] : null,
        h("details", {}, h("summary", {}, "Resource and scope"), details({ scope: full.scope, ...full.resource }))]);
}

function lines(all, number, open) {
  if (!all.length) return h("p", { class: "empty" }, "No log line has the id of this trace.");
  return h("section", {}, h("h2", {}, `Lines of this trace (${number > all.length ? `the first ${count(all.length)} of ${count(number)}` : count(all.length)})`),
    h("ol", { class: "log-lines" }, all.map((line) => h("li", { class: `log ${severity(line.severity)}` },
      h("button", { type: "button", "data-row": true, onclick: () => open(line) },
        h("span", { class: "at" }, `+${duration(Math.max(0, line.at))}`), h("span", { class: "severity" }, severity(line.severity)),
        line.event ? h("span", { class: "tag" }, line.event) : null, h("span", { class: "text" }, line.text))))));
}
