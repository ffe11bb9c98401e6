// The box at the top: a few of everything that has these words.
import { fill, h } from "./dom.js";
import { ask } from "./api.js";
import { kindName, time } from "./format.js";
import { dot } from "./findings.js";
import { link } from "./route.js";

const everywhere = { service: "", range: "" }; // as it was looked for

export function search(input, box) {
  let asked = 0;
  let waiting = 0;
  const close = () => { box.hidden = true; input.setAttribute("aria-expanded", "false"); };
  const open = () => { box.hidden = false; input.setAttribute("aria-expanded", "true"); };
  const look = async () => {
    const q = input.value.trim();
    const mine = asked += 1;
    if (!q) { close(); return; }
    let found;
    try {
      found = await ask("search", { q });
    } catch (problem) {
      if (mine === asked) { fill(box, h("p", { class: "empty" }, problem.message)); open(); }
      return;
    }
    if (mine !== asked) return;
    const groups = [
      ["Traces", found.traces.map((tid) => h("a", { href: link("trace", tid) }, h("code", {}, tid)))],
      ["Findings", found.findings.map((one) => h("a", { href: link("findings", "", { open: one.kind + one.spot + one.service, ...everywhere }) }, dot(one.service), `${kindName(one.kind)} · ${one.spot || one.culprit}`))],
      ["Operations", found.operations.map((one) => h("a", { href: link("traces", "", { operation: one.op, ...everywhere }) }, dot(one.service), one.name))],
      ["Lines", found.lines.map((line) => h("a", { href: link("logs", "", { q, ...everywhere }) }, dot(line.service), `${time(line.time)} ${line.text}`))],
    ].filter(([, links]) => links.length);
    fill(box, groups.length ? groups.map(([name, links]) => [h("h2", {}, name), h("ul", { class: "plain" }, links.map((one) => h("li", {}, one)))]) : h("p", { class: "empty" }, "Nothing has these words."));
    open();
  };
  input.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(look, 150); });
  input.addEventListener("focus", () => { if (input.value.trim()) look(); });
  input.addEventListener("keydown", (event) => {
    if (event.key === "Escape") { close(); input.blur(); event.stopPropagation(); }
    if (event.key === "Enter" || event.key === "ArrowDown") { event.preventDefault(); box.querySelector("a")?.focus(); }
  });
  box.addEventListener("keydown", (event) => {
    const links = [...box.querySelectorAll("a")];
    const at = links.indexOf(document.activeElement);
    if (event.key === "ArrowDown") { event.preventDefault(); links[Math.min(links.length - 1, at + 1)]?.focus(); }
    if (event.key === "ArrowUp") { event.preventDefault(); (links[at - 1] || input).focus(); }
    if (event.key === "Escape") { close(); input.focus(); event.stopPropagation(); }
  });
  box.addEventListener("click", (event) => { if (event.target.closest("a")) close(); });
  document.addEventListener("click", (event) => { if (!box.contains(event.target) && event.target !== input) close(); });
}
