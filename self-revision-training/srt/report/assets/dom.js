"use strict";
/* Small helpers that all scripts of a page share. Text is always set as text, never as markup. */

/* dom("p", { className: "soft" }, "text", node): an element with its properties and children. */
function dom(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("data-") || name.startsWith("aria-")) node.setAttribute(name, value);
    else node[name] = value;
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/* The JSON value in the element #data-<name> of a document; null if it has none. */
function pageData(name, page = document) {
  const node = page.getElementById(`data-${name}`);
  return node ? JSON.parse(node.textContent) : null;
}

function cssColor(variable) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${variable}`).trim();
}

/* A labeled <select>; entries: [value, text] pairs. */
function choice(label, entries, value, onChange) {
  const select = dom("select", { onchange: () => onChange(select.value) });
  select.append(...entries.map(([key, text]) => dom("option", { value: key, textContent: text })));
  select.value = value;
  return dom("label", {}, `${label} `, select);
}

function button(text, title, onClick) {
  return dom("button", { type: "button", textContent: text, title, onclick: onClick });
}
