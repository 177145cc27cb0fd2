"use strict";
/* Saving a figure: its picture as SVG and PNG, its data as CSV. */

/* What decides how a part of a picture looks: a file of its own has no style sheet, and no variables. */
const STYLES = [
  "fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-family", "font-size", "font-weight",
  "text-anchor",
];

const exporting = {
  save(name, blob) {
    const link = dom("a", { href: URL.createObjectURL(blob), download: name });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  },

  /* rows: lists of strings, numbers and nulls. */
  csv(rows) {
    const cell = (value) => {
      const text = value === null || value === undefined ? "" : String(value);
      return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return rows.map((row) => row.map(cell).join(",") + "\n").join("");
  },

  saveCsv(name, rows) {
    exporting.save(`${name}.csv`, new Blob([exporting.csv(rows)], { type: "text/csv" }));
  },

  saveSvg(name, svg) {
    exporting.save(`${name}.svg`, new Blob([svg], { type: "image/svg+xml" }));
  },

  async savePng(name, svg, width, height) {
    exporting.save(`${name}.png`, await exporting.png(svg, width, height));
  },

  /* The picture at twice its size, so that it is sharp in print. */
  async png(svg, width, height, scale = 2) {
    const image = new Image();
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
    await image.decode();
    const canvas = dom("canvas", { width: width * scale, height: height * scale });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  },

  escape(text) {
    return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");
  },

  /* An <svg> of the page as a file of its own: with the page's style, a size, a background and a font. */
  standalone(node) {
    const [, , width, height] = node.getAttribute("viewBox").split(" ").map(Number);
    const copy = node.cloneNode(true);
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    copy.setAttribute("width", 2 * width);
    copy.setAttribute("height", 2 * height);
    const drawn = node.querySelectorAll("*");
    copy.querySelectorAll("*").forEach((part, index) => {
      const style = getComputedStyle(drawn[index]);
      for (const name of STYLES) part.style.setProperty(name, style.getPropertyValue(name));
    });
    const background = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    for (const [name, value] of [["width", "100%"], ["height", "100%"], ["fill", cssColor("page")]])
      background.setAttribute(name, value);
    copy.prepend(background);
    return [new XMLSerializer().serializeToString(copy), 2 * width, 2 * height];
  },

  /* The buttons of a figure; picture() returns [svg, width, height], rows() the table. */
  buttons(name, picture, rows) {
    return [
      button("PNG", "save the plot as PNG", () => exporting.savePng(name, ...picture())),
      button("SVG", "save the plot as SVG", () => exporting.saveSvg(name, picture()[0])),
      button("CSV", "save the data as CSV", () => exporting.saveCsv(name, rows())),
    ];
  },

  /* Pictures that the page already holds as <svg>, with their data in an attribute. */
  mount(root) {
    for (const node of root.querySelectorAll("figure[data-picture]")) {
      if (node.querySelector(".tools")) continue; // a live page replaces figures whose data has changed
      const tools = dom("div", { className: "tools" });
      const picture = () => exporting.standalone(node.querySelector("svg"));
      tools.append(...exporting.buttons(node.dataset.picture, picture, () => JSON.parse(node.dataset.rows)));
      node.append(tools);
    }
  },
};
