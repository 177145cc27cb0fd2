"use strict";
/* Draws the page, and draws it again in other colors when the system changes between light and dark. */

function mountAll(page = document) {
  charts.mount(pageData("charts", page));
  exporting.mount(document);
  browse.mount(pageData("widgets", page));
}

mountAll();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => charts.redraw());
if (typeof live !== "undefined") live.start();
