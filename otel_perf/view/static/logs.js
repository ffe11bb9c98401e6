// Log lines with filters, live at their end; and their templates.
import { unlessLeft } from "./api.js";
import { details, fill, h, table } from "./dom.js";
import { count, day, moment, severity, time } from "./format.js";
import { dot } from "./findings.js";
import { change, link } from "./route.js";
import { choice } from "./traces.js";

const MOST = 2000; // lines on the page
const TAIL = 500; // lines of one answer

export async function logs(page) {
  const { query } = page;
  const filters = { q: query.q, severity: query.severity, logger: query.logger, template: query.template, event: query.event, own: query.own };
  const [found, known] = await Promise.all([page.ask("lines", filters), page.ask("templates")]);
  const list = h("ol", { class: "log-lines", "aria-label": "Log lines, the newest first" });
  let newest = found.newest;
  let oldest = found.cursor;
  list.append(...found.lines.map((line) => row(page, line)));
  let end = null; // the last line before those that were taken away to make room
  const more = h("button", { type: "button", hidden: !found.more, onclick: () => unlessLeft(async () => {
    let older;
    more.disabled = true;
    try {
      do { // anew if room was made meanwhile
        while (end && list.lastElementChild !== end) list.lastElementChild.remove(); // they come again, in their place
        end = null;
        older = await page.ask("lines", { ...filters, before: oldest });
      } while (end);
    } finally {
      more.disabled = false;
    }
    oldest = older.cursor;
    list.append(...older.lines.map((line) => row(page, line)));
    empty.hidden = list.childElementCount > 0;
    looked(older);
    const isFull = older.more && list.childElementCount > 5 * MOST;
    more.hidden = !older.more || isFull;
    if (isFull) { fill(cut, `These are ${count(list.childElementCount)} lines; a shorter time or more words show older ones.`); cut.hidden = false; }
  }, (text) => { fill(cut, text); cut.hidden = false; }) }, "Older lines");
  // Few lines are like that: the server stops after some time, and says how far back it was.
  const cut = h("p", { class: "quiet cut", role: "status", hidden: true });
  const looked = (answer) => {
    cut.hidden = !answer.cut;
    fill(cut, answer.cut ? `Looked through all lines back to ${moment(Number(answer.cursor.split("-")[0]))}; older ones may be like that as well.` : null);
  };
  looked(found);
  // Live: what came since, put on top, without touching what somebody reads. One at a time: a second call while the first
  // waits for its answer would ask for the same lines.
  let tailing = null;
  page.tail = () => {
    if (query.range && /-/.test(query.range)) return null;
    tailing = tailing || catchUp().finally(() => { tailing = null; });
    return tailing;
  };
  const catchUp = async () => {
    for (let came = 0; ; ) {
      const fresh = await page.ask("lines", { ...filters, after: newest, from: "", to: "", limit: TAIL });
      newest = Math.max(newest, fresh.upto);
      came += fresh.lines.length;
      put(fresh.lines.map((line) => row(page, line, true)));
      if (!fresh.more) return;
      if (came >= MOST) {
        skip(fresh.newest - newest);
        newest = fresh.newest;
        return;
      }
    }
  };
  const put = (rows) => {
    if (!rows.length) return;
    const scrolled = list.scrollTop;
    list.prepend(...rows);
    if (scrolled > 4) list.scrollTop = scrolled + rows.reduce((sum, one) => sum + one.offsetHeight, 0);
    for (let last = list.lastElementChild; list.childElementCount > MOST && last;) {
      const before = last.previousElementSibling;
      if (!last.querySelector("[aria-expanded=true]")) { // what somebody reads stays
        // What was read once lies below the end, and says nothing of what is left above.
        if (!end || !(end.compareDocumentPosition(last) & Node.DOCUMENT_POSITION_FOLLOWING)) end = before;
        last.remove();
      }
      last = before;
    }
    while (end && !end.dataset.cursor) end = end.previousElementSibling;
    if (end) {
      oldest = end.dataset.cursor;
      more.hidden = false;
    }
    empty.hidden = true;
  };
  const skip = (number) => put([h("li", { class: "log skipped" }, h("button", { type: "button", "data-row": true, onclick: () => page.again() },
    `${count(number)} lines came at once and are not here: show the newest`))]);
  const empty = h("p", { class: "empty", hidden: found.lines.length > 0 }, "No line is like that.");
  const chosen = known.templates.find((one) => String(one.id) === query.template);
  return [
    h("h1", {}, "Logs"),
    h("form", { class: "filters", onsubmit: (event) => { event.preventDefault(); change({ q: event.target.elements.words.value.trim() }); } },
      h("label", {}, "Words ", h("input", { type: "search", name: "words", value: query.q || "", "data-filter": true })),
      choice("At least", "severity", query.severity || "", [["", "any level"], ["5", "DEBUG"], ["9", "INFO"], ["13", "WARN"], ["17", "ERROR"]]),
      choice("Logger", "logger", query.logger || "", [["", "any"], ...known.loggers.map((name) => [name, name || "(none)"])]),
      h("label", {}, h("input", { type: "checkbox", checked: Boolean(query.own), onchange: (event) => change({ own: event.target.checked ? 1 : "" }) }), " otel-perf's own events"),
      query.template ? h("button", { type: "button", class: "quiet-button", onclick: () => change({ template: "" }) }, chosen ? `like “${chosen.words.slice(0, 60)}” ✕` : "of one template ✕") : null,
      query.event ? h("button", { type: "button", class: "quiet-button", onclick: () => change({ event: "" }) }, `event ${query.event} ✕`) : null),
    h("div", { class: "logs" }, list, empty, cut, more),
    h("section", {}, h("h2", {}, "Templates"), h("p", { class: "quiet" }, "Lines that differ only in numbers, ids and names, since the store began."), table("Templates of lines", [
      { head: "Template", cell: (one) => h("a", { href: link("logs", "", { template: one.id }), "data-row": true }, one.words) },
      { head: "Level", cell: (one) => h("span", { class: `tag ${one.severity}` }, one.severity) },
      { head: "Lines", class: "number", cell: (one) => count(one.count) },
      { head: "Logger", cell: (one) => [dot(one.service), one.logger] },
      { head: "Last", cell: (one) => moment(one.last) },
    ], known.templates.slice(0, 100), { empty: "None yet." })),
  ];
}

function row(page, line, fresh = false) {
  const inside = h("div", { class: "inside", hidden: true });
  const button = h("button", { type: "button", "data-row": true, "aria-expanded": "false", onclick: () => unlessLeft(async () => {
    inside.hidden = !inside.hidden;
    button.setAttribute("aria-expanded", String(!inside.hidden));
    if (inside.hidden || inside.childElementCount) return;
    const full = await page.ask("line", { place: line.at[0], pos: line.at[1], from: "", to: "", service: "" });
    fill(inside,
      line.trace ? h("p", {}, h("a", { href: link("trace", line.trace, { span: line.span }) }, "Open its trace")) : null,
      full.gone ? h("p", { class: "empty" }, "The rest is gone: this batch was delivered and deleted.") : [
        h("pre", { tabindex: "0", role: "region", "aria-label": "The whole line" }, full.text || line.text), details({ logger: full.scope, ...full.attributes })]);
  }, (text) => fill(inside, h("p", { class: "problem", role: "alert" }, text))) },
  h("span", { class: "at", title: day(line.time) }, time(line.time)), h("span", { class: "severity" }, severity(line.severity)), dot(line.service),
  line.event ? h("span", { class: "tag" }, line.event) : null,
  h("span", { class: "text" }, line.text));
  return h("li", { class: `log ${severity(line.severity)}${fresh ? " fresh" : ""}`, "data-cursor": line.cursor }, button, inside);
}
