"use strict";
// The heat map: colors the tokens of both columns, shows a token's distributions, and walks the hot ones.

const DATA = pageData("localization");
const HOT_QUANTILE = 0.95; // of the tokens shown
const SCALE_QUANTILE = 0.99; // so that one outlier does not make all others pale
const MAX_TINT = 0.75;
const MIN_SHOWN = 0.0005; // probability of an alternative beyond the first three
const MIN_SCALE = 0.01; // nats: values far below it count as agreement

const MODES = {
  kl: { value: (r, i) => r.kl[i], unit: "KL in nats" },
  ratio: { value: (r, i) => r.teacherLogprob[i] - r.studentLogprob[i], unit: "log of teacher over student" },
  phrase: {
    value: (r, i) => (r.variants.neutral ? r.teacherLogprob[i] - r.variants.neutral.logprob[i] : 0),
    unit: "log of teacher with its phrase over teacher with the neutral sentence",
  },
  studentEntropy: { value: (r, i) => r.studentEntropy[i], unit: "entropy in nats" },
  teacherEntropy: { value: (r, i) => r.teacherEntropy[i], unit: "entropy in nats" },
};

const byId = (id) => document.getElementById(id);
const state = { pair: 0, mode: "kl", tokens: [], hot: [], current: null };

const visible = (text) => dom("code", {}, text.replaceAll("\n", "\u21b5").replaceAll(" ", "\u00b7") || "\u2205");
const percent = (p) => (p < 0.0005 && p > 0 ? "<0.1%" : (100 * p).toFixed(1) + "%");
const nats = (value) => value.toFixed(4);

// Modes whose values may be negative.
const isSigned = () => state.mode === "ratio" || state.mode === "phrase";

// The square root shows small values beside large ones.
const tint = (share) => (MAX_TINT * Math.sqrt(share)).toFixed(3);

function quantile(values, q) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] : 0;
}

// The responses ------------------------------------------------------------------------------------------

function article(response) {
  const verdict = dom("span", { className: "r" + response.r }, response.r ? "right" : "wrong");
  const where = `, problem ${response.id}` + (response.number ? `, response ${response.number + 1}` : "");
  const answer = (response.answer ? `, correct answer ${response.answer}` : "") + (response.cutOff ? ", cut off" : "");
  const mean = response.kl.reduce((a, b) => a + b, 0) / response.kl.length;
  const text = dom("div", { className: "text box", tabIndex: 0 });
  response.tokens.forEach((token, index) => {
    // A line break alone would have no area to tint.
    const node = dom("b", {}, token.replaceAll("\n", "\u21b5\n"));
    state.tokens.push({ node, response, index });
    node.dataset.token = state.tokens.length - 1;
    text.append(node);
  });
  if (response.more) text.append(`\n[${response.more} tokens more]`);
  return dom(
    "article",
    {},
    dom("header", {}, verdict, where + answer, `; ${nats(mean)} nats per token`),
    dom("div", { className: "text" }, response.x),
    dom("p", { className: "phrase soft" }, response.phrase),
    text,
  );
}

function showPair(index) {
  state.pair = index;
  state.tokens = [];
  select(null);
  const sides = [0, 1].map((r) => DATA[index].responses.filter((response) => response.r === r));
  const filled = sides.filter((side) => side.length);
  const cells = [];
  const rows = Math.max(...sides.map((side) => side.length));
  for (let row = 0; row < rows; row++) {
    for (const side of filled) cells.push(side[row] ? article(side[row]) : dom("div"));
  }
  byId("responses").classList.toggle("one", filled.length < 2);
  byId("responses").replaceChildren(...cells);
  color();
}

function color() {
  const value = MODES[state.mode].value;
  const values = state.tokens.map(({ response, index }) => value(response, index));
  const sizes = values.map(Math.abs);
  const scale = Math.max(quantile(sizes, SCALE_QUANTILE), MIN_SCALE);
  const hot = Math.max(quantile(sizes, HOT_QUANTILE), MIN_SCALE);
  state.hot = [];
  state.tokens.forEach(({ node }, position) => {
    const share = Math.min(sizes[position] / scale, 1);
    node.style.setProperty("--h", share < 0.02 ? "0" : tint(share));
    node.classList.toggle("up", isSigned() && values[position] > 0);
    if (sizes[position] >= hot) state.hot.push(position);
  });
  const steps = [0.1, 0.3, 0.5, 0.7, 1];
  const swatches = (kind) =>
    steps.map((share) => {
      const swatch = dom("i", { className: kind });
      swatch.style.setProperty("--h", tint(share));
      return swatch;
    });
  const legend = [`${MODES[state.mode].unit}: 0 `, dom("span", {}, ...swatches("")), ` ${scale.toPrecision(2)}`];
  if (isSigned()) legend.push(" lower; ", dom("span", {}, ...swatches("up")), " higher");
  byId("scale").replaceChildren(...legend);
}

// One token ----------------------------------------------------------------------------------------------

function row(cells, properties = {}) {
  return dom("tr", properties, ...cells.map((cell, index) => dom(index ? "td" : "th", {}, cell)));
}

function panelOf({ response, index }) {
  const texts = DATA[state.pair].texts;
  const [student, teacher] = [response.studentLogprob[index], response.teacherLogprob[index]];
  const measures = dom(
    "table",
    {},
    row(["", "student", "teacher"]),
    row(["probability of this token", percent(Math.exp(student)), percent(Math.exp(teacher))]),
    row(["its log-prob", student.toFixed(3), teacher.toFixed(3)]),
    row(["its rank", response.studentRank[index], response.teacherRank[index]].map(String)),
    row(["entropy", nats(response.studentEntropy[index]), nats(response.teacherEntropy[index])]),
  );
  const alternatives = dom("table", {}, row(["alternatives", "student", "teacher"]));
  const likely = response.alternatives[index].filter(([, p, q], rank) => rank < 3 || Math.max(p, q) >= MIN_SHOWN);
  for (const [token, p, q] of likely) {
    const own = token === response.own[index] ? { className: "own" } : {};
    alternatives.append(row([visible(texts[token]), percent(p), percent(q)], own));
  }
  const ratio = Math.exp(teacher - student);
  const parts = [
    dom("div", {}, visible(response.tokens[index]), ` token ${index + 1} of ${response.kl.length + response.more}`),
    dom("div", {}, dom("strong", {}, `KL ${nats(response.kl[index])}`), `, probability ratio ${ratio.toPrecision(3)}`),
    measures,
    alternatives,
  ];
  const variants = Object.entries(response.variants);
  if (variants.length) {
    const names = { none: "no phrase", neutral: "neutral sentence" };
    const other = variants.map(([name, { kl, logprob }]) =>
      row([names[name] ?? name, nats(kl[index]), logprob[index].toFixed(3)]),
    );
    parts.push(dom("table", {}, row(["teacher behind", "KL", "log-prob"]), ...other));
  }
  return parts;
}

function select(position) {
  if (state.current !== null) state.tokens[state.current]?.node.classList.remove("current");
  state.current = position;
  const panel = byId("panel");
  panel.hidden = position === null;
  if (position === null) return;
  const token = state.tokens[position];
  token.node.classList.add("current");
  panel.replaceChildren(...panelOf(token));
  const box = token.node.getBoundingClientRect();
  const [above, under] = [box.top - 14, innerHeight - box.bottom - 14];
  const below = under >= Math.min(panel.scrollHeight, above);
  panel.style.maxHeight = Math.max(below ? under : above, 150) + "px";
  panel.style.left = Math.max(8, Math.min(box.left, innerWidth - panel.offsetWidth - 8)) + "px";
  panel.style.top = Math.max(8, below ? box.bottom + 6 : box.top - panel.offsetHeight - 6) + "px";
}

// From the current token to the next hot one, around the end.
function step(direction) {
  if (!state.hot.length) return;
  const from = state.current ?? (direction > 0 ? -1 : Infinity);
  const beyond = state.hot.filter((position) => (direction > 0 ? position > from : position < from));
  const ring = beyond.length ? beyond : state.hot;
  const position = direction > 0 ? ring[0] : ring[ring.length - 1];
  const node = state.tokens[position].node;
  node.scrollIntoView({ block: "nearest" }); // within its response
  scrollBy(0, node.getBoundingClientRect().top - innerHeight * 0.3);
  select(position);
}

// Events -------------------------------------------------------------------------------------------------

function tokenAt(event) {
  const position = event.target.dataset?.token;
  return position === undefined ? null : Number(position);
}

if (byId("responses")) {
  byId("responses").addEventListener("mouseover", (event) => {
    const position = tokenAt(event);
    if (position !== null) select(position);
  });
  byId("responses").addEventListener("click", (event) => {
    const position = tokenAt(event);
    if (position !== null) select(position);
  });
  byId("responses").addEventListener("mouseleave", () => select(null));
  byId("pair").addEventListener("change", (event) => showPair(Number(event.target.value)));
  byId("next").addEventListener("click", () => step(1));
  byId("previous").addEventListener("click", () => step(-1));
  for (const button of document.querySelectorAll(".modes button")) {
    button.addEventListener("click", () => {
      state.mode = button.dataset.mode;
      for (const other of document.querySelectorAll(".modes button")) {
        other.setAttribute("aria-pressed", String(other === button));
      }
      color();
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
    if (event.key === "n") step(1);
    else if (event.key === "p") step(-1);
    else if (event.key === "Escape") select(null);
  });
  showPair(0);
}

exporting.mount(document);
