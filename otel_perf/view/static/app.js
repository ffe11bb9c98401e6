// The shell: which screen, of which service and time, live or not, and the keyboard.
import { fill, h } from "./dom.js";
import { ask, Problem, unlessLeft } from "./api.js";
import { forget } from "./chart.js";
import { count, moment, setServices, stored } from "./format.js";
import { findings } from "./findings.js";
import { functions } from "./functions.js";
import { logs } from "./logs.js";
import { health, signals } from "./others.js";
import { RANGES, change, here, link, times } from "./route.js";
import { runtime } from "./runtime.js";
import { search } from "./search.js";
import { traces } from "./traces.js";
import { trace } from "./waterfall.js";

const VIEWS = {
  findings: ["Findings", findings, 3], traces: ["Traces", traces, 3], functions: ["Functions", functions, 10],
  runtime: ["Runtime", runtime, 3], logs: ["Logs", logs, 0], signals: ["Signals", signals, 3], health: ["Health", health, 5],
  trace: ["Trace", trace, 0],
};
const TABS = Object.keys(VIEWS).filter((name) => name !== "trace");
const HELP = [
  ["1 … 7", "the screens, from left to right"], ["j, k", "next and previous row"], ["Enter", "open the row"], ["Esc", "back"],
  ["/", "search"], ["f", "filter of this screen"], ["l", "live on and off"], ["s", "service"], ["t", "time"], ["d", "dark or light"], ["?", "this list"],
];

const $ = (id) => document.getElementById(id);
let state = { items: {}, services: [] };
let about = { homes: [], receive: "" };
let page = null;
let live = true;
let drawnAt = 0;
let missed = null; // news that came while a screen was on its way, and whether they were the first

class Page {
  constructor(route) {
    Object.assign(this, route);
    this.gone = new AbortController();
    this.state = state;
    this.about = about;
  }

  // The same once more.
  again() { return show({ quiet: true }); }

  // A question with the page's service and time, given up when the page is left.
  ask(name, parameters = {}) {
    const range = times(this.query.range, state.last);
    return ask(name, { service: this.query.service, ...range, ...parameters }, this.gone.signal);
  }
}

async function show({ quiet = false } = {}) {
  const route = here();
  const next = new Page(route);
  const [title, view] = VIEWS[route.view] || VIEWS.findings;
  const main = $("main");
  page?.gone.abort();
  page = next;
  mark(route);
  if (!quiet) main.setAttribute("aria-busy", "true");
  next.isDrawn = false;
  try {
    const content = await view(next);
    if (page !== next) return;
    const focused = quiet ? keyOf(document.activeElement) : null;
    const top = quiet ? window.scrollY : 0;
    forget();
    fill(main, content);
    next.shown?.();
    document.title = `${title} · otel-perf`;
    window.scrollTo(0, top);
    if (focused) find(focused)?.focus({ preventScroll: true });
    else if (!quiet) main.querySelector("[data-row]")?.setAttribute("data-first", "");
  } catch (problem) {
    if (page !== next || problem.name === "AbortError") return;
    if (!(problem instanceof Problem)) console.error(problem);
    if (!quiet) fill(main, h("p", { class: "problem", role: "alert" }, problem instanceof Problem ? problem.message : `This could not be shown: ${problem.message}`));
  } finally {
    next.isDrawn = true;
    if (page === next) {
      main.removeAttribute("aria-busy");
      main.dataset.shown = `${location.hash}#${Date.now()}`;
      drawnAt = Date.now();
      if (missed !== null) {
        const isFirst = missed;
        missed = null;
        news(true, isFirst);
      }
    }
  }
}

const keyOf = (element) => (element?.matches?.("a[data-row]") ? `a[data-row][href="${CSS.escape(element.getAttribute("href"))}"]` : null);
const find = (selector) => $("main").querySelector(selector);

function mark(route) {
  const current = route.view === "trace" ? "traces" : route.view;
  fill($("tabs"), TABS.map((name, at) => h("a", {
    href: link(name), "aria-current": name === current ? "page" : null, title: `${at + 1}`,
  }, VIEWS[name][0])));
  const services = $("service");
  fill(services, h("option", { value: "" }, "All services"), state.services.map((name) =>
    h("option", { value: name, selected: name === route.query.service }, name)),
    // Of an address that was kept: what is filtered by has to be seen.
    route.query.service && !state.services.includes(route.query.service) ? h("option", { value: route.query.service, selected: true }, route.query.service) : null);
  const absolute = /^(\d+)-(\d+)$/.exec(route.query.range || "");
  fill($("range"), RANGES.map(([key, text]) => h("option", { value: key, selected: key === (route.query.range || "") }, text)),
    absolute ? h("option", { value: route.query.range, selected: true }, `${moment(absolute[1] * 1e6)} – ${moment(absolute[2] * 1e6)}`) : null);
}

function progress() {
  const items = state.items || {};
  const all = Object.values(items).reduce((sum, value) => sum + value, 0);
  const box = $("progress");
  const behind = state.behind || 0;
  box.hidden = !behind && !state.problem;
  fill(box, state.problem || null, behind ? [
    h("progress", { max: all + behind, value: all, "aria-label": "Indexed" }), ` indexing: ${count(all)} of ${count(all + behind)} items; what is here can be used`,
  ] : null);
  fill($("counts"), stored(items));
}

function listen() {
  const source = new EventSource("/api/live");
  source.addEventListener("message", (event) => {
    const before = state;
    state = { services: before.services, last: before.last, ...JSON.parse(event.data) }; // there may be no index for a moment
    setServices(state.services);
    progress();
    $("live").dataset.state = "on";
    if (String(before.services) !== String(state.services)) mark(here());
    news(JSON.stringify(before.items) !== JSON.stringify(state.items), !Object.keys(before.items || {}).length);
  });
  source.addEventListener("error", () => { $("live").dataset.state = "off"; });
}

// Something new is in the index.
async function news(isNew, isFirst) {
  if (!live || !isNew || !page || document.hidden) return;
  if (!page.isDrawn) {
    // Its answers are waited for: to ask anew at each news would never end where they take longer.
    missed = isFirst || missed === true;
    return;
  }
  page.state = state;
  if (page.tail) {
    try { await page.tail(); } catch (problem) { if (problem.name !== "AbortError") console.error(problem); }
    return;
  }
  const every = (VIEWS[page.view] || VIEWS.findings)[2];
  const busy = $("main").contains(document.activeElement) && document.activeElement.matches("input, select, [aria-expanded=true]");
  const read = $("main").querySelector(".card .inside:not([hidden])");
  if (every && !busy && !read && (isFirst || Date.now() - drawnAt > every * 1000)) await show({ quiet: true });
}

function setLive(value) {
  live = value;
  $("live").setAttribute("aria-pressed", String(live));
  if (live) show({ quiet: true });
}

function setTheme(value) {
  document.documentElement.dataset.theme = value;
  try { localStorage.setItem("otel-perf-theme", value); } catch { /* storage may be off */ }
  if (page?.view === "runtime") show({ quiet: true });
}
const isDark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";

function move(by) {
  const rows = [...$("main").querySelectorAll("[data-row]")].filter((row) => row.offsetParent !== null);
  if (!rows.length) return;
  const at = rows.indexOf(document.activeElement);
  const next = rows[at < 0 ? (by > 0 ? 0 : rows.length - 1) : Math.max(0, Math.min(rows.length - 1, at + by))];
  next.focus();
  next.scrollIntoView({ block: "nearest" });
}

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "Escape") {
    if ($("help").open) return;
    if (typing) event.target.blur();
    else if (page?.view === "trace") history.back();
    return;
  }
  if (typing) return;
  const actions = {
    j: () => move(1), k: () => move(-1), "/": () => $("search").focus(), f: () => $("main").querySelector("[data-filter]")?.focus(),
    l: () => setLive(!live), s: () => $("service").focus(), t: () => $("range").focus(), d: () => setTheme(isDark() ? "light" : "dark"), "?": () => $("help").showModal(),
  };
  const tab = TABS[Number(event.key) - 1];
  if (tab) location.hash = link(tab);
  else if (actions[event.key]) { event.preventDefault(); actions[event.key](); }
}

async function start() {
  let theme = null;
  try { theme = localStorage.getItem("otel-perf-theme"); } catch { /* storage may be off */ }
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  fill($("keys"), HELP.map(([name, what]) => [h("dt", {}, h("kbd", {}, name)), h("dd", {}, what)]));
  $("service").addEventListener("change", (event) => change({ service: event.target.value, skip: "", operation: "" }));
  $("range").addEventListener("change", (event) => change({ range: event.target.value, skip: "" }));
  $("live").addEventListener("click", () => setLive(!live));
  $("theme").addEventListener("click", () => setTheme(isDark() ? "light" : "dark"));
  $("help-button").addEventListener("click", () => $("help").showModal());
  search($("search"), $("found"));
  document.addEventListener("keydown", key);
  window.addEventListener("hashchange", () => show());
  let resizing = 0;
  window.addEventListener("resize", () => { clearTimeout(resizing); resizing = setTimeout(() => page?.shown?.(), 150); });
  // Of the two, "state" has no answer while the index is being made.
  await Promise.all([unlessLeft(async () => { state = await ask("state"); }, () => {}), unlessLeft(async () => { about = await ask("about"); }, () => {})]);
  setServices(state.services);
  progress();
  await show();
  listen();
}

start();
