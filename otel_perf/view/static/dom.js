// Makes elements. Text is always a text node: whatever a span is called, nothing of it is markup.

export function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "style") for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  add(element, children);
  return element;
}

function add(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

export function fill(element, ...children) {
  element.replaceChildren();
  add(element, children);
  return element;
}

// A table: columns are {head, cell(row), class, key}; a row is opened by the link in its first cell. With `sort`, heads
// that have a key are buttons.
export function table(caption, columns, rows, { sort, onsort, empty = "Nothing here.", rowClass } = {}) {
  if (!rows.length) return h("p", { class: "empty" }, empty);
  const head = columns.map((column) =>
    h("th", { scope: "col", class: column.class, "aria-sort": column.key && column.key === sort ? "descending" : null },
      column.key && onsort
        ? h("button", { class: "sort", type: "button", onclick: () => onsort(column.key) }, column.head, column.key === sort ? " ↓" : "")
        : column.head));
  const body = rows.map((row) =>
    h("tr", { class: rowClass ? rowClass(row) : null },
      columns.map((column) => h("td", { class: column.class, "data-head": typeof column.head === "string" ? column.head : null }, column.cell(row)))));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {}, h("caption", { class: "unseen" }, caption), h("thead", {}, h("tr", {}, head)), h("tbody", {}, body)));
}

export function bar(share, label, kind = "") {
  return h("span", { class: `meter ${kind}`, role: "img", "aria-label": label },
    h("span", { style: { width: `${Math.max(0, Math.min(100, share * 100))}%` } }));
}

export function details(pairs) {
  const entries = Object.entries(pairs || {});
  if (!entries.length) return h("p", { class: "empty" }, "None.");
  return h("dl", { class: "pairs" }, entries.map(([name, value]) => [
    h("dt", {}, name), h("dd", {}, typeof value === "string" ? value : JSON.stringify(value)),
  ]));
}
