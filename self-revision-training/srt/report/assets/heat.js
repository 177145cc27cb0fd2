"use strict";
/* Text whose tokens are tinted. style.css has the colors: --k, from 0 to 1, is the strength of a token's tint. */

const heat = {
  /* tokens: strings; levels: -1 to 1 for each token, negative ones in the second color, null untinted;
     titles: what a token says on hover, or null; marked: tokens to underline, such as those of the control phrase. */
  render(container, tokens, levels, titles = [], marked = []) {
    container.classList.add("heat");
    container.replaceChildren(
      ...tokens.map((token, index) => heat.token(token, levels[index], titles[index], marked[index])),
    );
  },

  token(text, level, title = null, marked = false) {
    const tinted = level !== null && Math.abs(level) >= 0.04;
    const node = document.createElement(tinted ? "b" : "span");
    // A line break alone would have no area to tint.
    node.textContent = tinted ? text.replaceAll("\n", "\u21b5\n") : text;
    if (tinted) {
      node.style.setProperty("--k", Math.min(Math.abs(level), 1).toFixed(2));
      if (level < 0) node.classList.add("cold");
    }
    if (marked) node.classList.add("marked");
    if (title !== null) node.title = title;
    return node;
  },

  /* The value below which `share` of the values lie; `floor` at least, so that noise alone is not tinted. */
  scale(values, share = 0.99, floor = 0.01) {
    const sorted = values.filter((value) => value !== null).sort((a, b) => a - b);
    const quantile = sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] : 0;
    return Math.max(quantile, floor);
  },

  /* A legend: from `low` to `high` in ten steps. */
  legend(low, high) {
    const node = document.createElement("div");
    node.className = "scale heat";
    const swatches = document.createElement("span");
    for (let level = 1; level <= 10; level++) {
      const swatch = document.createElement("b");
      swatch.style.setProperty("--k", (level / 10).toFixed(1));
      swatches.append(swatch);
    }
    node.append(low, swatches, high);
    return node;
  },
};
