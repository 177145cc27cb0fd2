"use strict";
/* Texts to look through: attempts of the collection, a problem in every stage, responses with the KL of each token. */

/* A text of a model under its verdict. */
function gradedText(title, sample, key, phrase = null) {
  const correct = sample[`${key}_r`];
  const verdict = `${correct ? "correct" : "wrong"}: ${sample[`${key}_answer`] || "no answer"}`;
  const cut = sample[`${key}_cut`] ? ", cut off" : "";
  return dom(
    "div",
    {},
    dom("p", { className: "label" }, `${title}, `, dom("span", { className: `r${correct}` }, verdict), cut),
    dom("div", { className: "text box", tabIndex: 0 }, phrase && dom("div", { className: "phrase" }, phrase), sample[key]),
  );
}

function article(header, x, ...parts) {
  return dom("article", {}, dom("header", {}, ...header), dom("div", { className: "text" }, x), ...parts);
}

/* Filters above, some of the items below, and a way through them. show(item) returns an element. */
class Pager {
  constructor(root, controls, perPage, show) {
    Object.assign(this, { root, perPage, show, page: 0, items: [] });
    this.count = dom("span", { className: "count", role: "status" });
    this.previous = button("\u2039 previous", "previous ones", () => this.go(this.page - 1));
    this.next = button("next \u203a", "next ones", () => this.go(this.page + 1));
    this.list = dom("div", { className: "items" });
    const steps = dom("span", { className: "steps" }, this.previous, this.count, this.next);
    root.replaceChildren(dom("div", { className: "controls" }, ...controls, steps), this.list);
  }

  setItems(items, page = 0) {
    this.items = items;
    this.go(page);
  }

  go(page) {
    const last = Math.max(0, Math.ceil(this.items.length / this.perPage) - 1);
    this.page = Math.min(Math.max(page, 0), last);
    const from = this.page * this.perPage;
    const shown = this.items.slice(from, from + this.perPage);
    this.list.replaceChildren(...shown.map(this.show));
    this.previous.disabled = this.page === 0;
    this.next.disabled = this.page === last;
    const to = from + shown.length;
    const range = to - from > 1 ? `${from + 1} to ${to}` : `${to}`;
    this.count.textContent = shown.length ? `${range} of ${this.items.length}` : "none";
  }
}

/* data: { run: { total, attempts } } */
class AttemptsWidget {
  constructor(root, data, settings) {
    this.state = { run: Object.keys(data)[0], outcome: "all", search: "", kept: "all" };
    this.root = root;
    this.settings = settings;
    this.set(data);
  }

  set(data) {
    this.data = data;
    if (!(this.state.run in data)) this.state.run = Object.keys(data)[0];
    const { total, attempts } = data[this.state.run];
    const change = (name) => (value) => {
      this.state[name] = value;
      if (name === "run") this.set(this.data);
      else this.filter();
    };
    const all = Object.values(total).reduce((sum, count) => sum + count, 0);
    const outcomes = Object.entries(total).map(([name, count]) => [name, `${name} (${count.toLocaleString("en-US")})`]);
    if (!(this.state.outcome in total)) this.state.outcome = "all";
    const search = dom("input", { type: "search", placeholder: "text or id", value: this.state.search });
    search.oninput = () => change("search")(search.value);
    const runs = Object.keys(data).map((name) => [name, name]);
    const controls = [
      runs.length > 1 ? choice("run", runs, this.state.run, change("run")) : null,
      choice("outcome", [["all", `all (${all.toLocaleString("en-US")})`], ...outcomes], this.state.outcome, change("outcome")),
      choice("tuple", [["all", "all"], ["yes", "kept"], ["no", "not kept"]], this.state.kept, change("kept")),
      dom("label", {}, "search ", search),
    ];
    const page = this.pager?.page ?? 0;
    this.pager = new Pager(this.root, controls.filter(Boolean), this.settings.examples, (item) => this.show(item));
    this.sampled = attempts.length < all ? `, ${attempts.length} of ${all.toLocaleString("en-US")} attempts are here` : "";
    this.filter(page);
  }

  filter(page = 0) {
    const { outcome, search, kept } = this.state;
    const needle = search.toLowerCase();
    const matches = (item) =>
      (outcome === "all" || item.outcome === outcome) &&
      (kept === "all" || Boolean(item.kept) === (kept === "yes")) &&
      [item.id, item.x, item.answer, item.y, item.revised ?? ""].some((text) => text.toLowerCase().includes(needle));
    this.pager.setItems(this.data[this.state.run].attempts.filter(matches), page);
    this.pager.count.textContent += this.sampled;
  }

  show(item) {
    const kept = item.kept ? ", kept as a tuple" : "";
    const revised = item.revised === undefined ? null : gradedText("P_r and y_revised", item, "revised", item.p_r);
    const pair = dom("div", { className: "pair" }, gradedText("y_init", item, "y"), revised);
    return article([`problem ${item.id}, answer ${item.answer}${kept}`], item.x, pair);
  }
}

/* data: { stages, problems } */
class ProblemsWidget {
  constructor(root, data) {
    this.root = root;
    this.state = { which: "all" };
    this.set(data);
  }

  set(data) {
    this.data = data;
    const share = (answer) => answer.right / answer.of;
    const last = data.stages.length - 1;
    this.filters = {
      all: ["all", () => true],
      gained: ["more often right at the end", ({ stages }) => share(stages[last]) > share(stages[0])],
      lost: ["less often right at the end", ({ stages }) => share(stages[last]) < share(stages[0])],
      never: ["never right at the end", ({ stages }) => stages[last].right === 0],
    };
    const entries = Object.entries(this.filters).map(([key, [text, keep]]) => [
      key,
      `${text} (${data.problems.filter(keep).length})`,
    ]);
    const page = this.pager?.page ?? 0;
    const which = choice("problems", entries, this.state.which, (value) => {
      this.state.which = value;
      this.filter();
    });
    this.pager = new Pager(this.root, [which], 1, (problem) => this.show(problem));
    this.filter(page);
  }

  filter(page = 0) {
    this.pager.setItems(this.data.problems.filter(this.filters[this.state.which][1]), page);
  }

  show(problem) {
    const stages = problem.stages.map((answer, index) => {
      const title = `${this.data.stages[index]}: ${answer.right} of ${answer.of} right`;
      const revised = answer.revised === undefined ? null : gradedText("its revision", answer, "revised", answer.p_r);
      return dom("div", { className: "stage" }, dom("h4", {}, title), gradedText("response", answer, "y"), revised);
    });
    const grid = dom("div", { className: "pair stages" }, ...stages);
    return article([`problem ${problem.id}, answer ${problem.answer}`], problem.x, grid);
  }
}

/* data: { run: samples } */
class SamplesWidget {
  constructor(root, data, settings) {
    this.root = root;
    this.settings = settings;
    this.state = { run: Object.keys(data)[0], step: null, reward: "both", scale: "step" };
    this.set(data);
  }

  set(data) {
    this.data = data;
    if (!(this.state.run in data)) this.state.run = Object.keys(data)[0];
    this.samples = data[this.state.run];
    const steps = [...new Set(this.samples.map((sample) => sample.step))];
    if (!steps.includes(this.state.step)) this.state.step = steps[0];
    const change = (name, parse = String) => (value) => {
      this.state[name] = parse(value);
      if (name === "run") this.set(this.data);
      else this.show();
    };
    const runs = Object.keys(data).map((name) => [name, name]);
    const rewards = [["both", "all"], ["0", "wrong (r = 0)"], ["1", "correct (r = 1)"]];
    const scales = [["step", "this step"], ["run", "all steps"]];
    this.slider = dom("input", { type: "range", min: 0, max: steps.length - 1, step: 1 });
    this.slider.value = steps.indexOf(this.state.step);
    this.slider.setAttribute("aria-label", "step");
    this.slider.oninput = () => change("step", Number)(steps[Number(this.slider.value)]);
    this.shownStep = dom("output", {});
    this.list = dom("div", { className: "pair" });
    this.legend = dom("div", {});
    this.root.replaceChildren(
      dom(
        "div",
        { className: "controls" },
        runs.length > 1 ? choice("run", runs, this.state.run, change("run")) : null,
        dom("label", {}, "step ", this.slider, this.shownStep),
        choice("responses", rewards, this.state.reward, change("reward")),
        choice("tint relative to", scales, this.state.scale, change("scale")),
      ),
      this.legend,
      this.list,
    );
    this.show();
  }

  show() {
    const { step, reward, scale } = this.state;
    const ofStep = this.samples.filter((sample) => sample.step === step);
    const strongest = heat.scale((scale === "step" ? ofStep : this.samples).flatMap(countedKl));
    const shown = ["0", "1"]
      .filter((r) => reward === "both" || reward === r)
      .flatMap((r) => ofStep.filter((sample) => String(sample.r) === r).slice(0, this.settings.examples));
    this.shownStep.textContent = step;
    this.legend.replaceChildren(heat.legend("KL in nats: 0", `${formatNumber(strongest)} and more`));
    this.list.replaceChildren(...shown.map((sample) => tintedResponse(sample, strongest)));
    if (!shown.length) this.list.append(dom("p", { className: "soft" }, "No such response was logged at this step."));
  }
}

/* The KL of the tokens that are not part of a control phrase. */
function countedKl(sample) {
  const phrase = new Set(sample.phrase);
  return sample.kl.filter((value, index) => value !== null && !phrase.has(index));
}

function tintedResponse(sample, strongest) {
  const text = dom("div", { className: "text box", tabIndex: 0 });
  const phrase = new Set(sample.phrase);
  heat.render(
    text,
    sample.tokens,
    sample.kl.map((value) => (value === null ? null : value / strongest)),
    sample.kl.map((value) => (value === null ? null : `${value.toFixed(4)} nats`)),
    sample.tokens.map((_, index) => phrase.has(index)),
  );
  const more = (count, side) => (count ? `[${count.toLocaleString("en-US")} tokens ${side}]\n` : "");
  text.prepend(more(sample.before, "before"));
  text.append(more(sample.after, "after"));
  const verdict = dom("span", { className: `r${sample.r}` }, sample.r ? "correct" : "wrong");
  const mean = `, problem ${sample.id}, step ${sample.step}, ${formatNumber(sample.mean)} nats per token`;
  return article([verdict, mean], sample.x, dom("p", { className: "phrase soft" }, sample.p_r), text);
}

const browse = {
  kinds: { attempts: AttemptsWidget, problems: ProblemsWidget, samples: SamplesWidget },
  all: new Map(), // root -> [widget, its data as text]

  /* Fills every [data-widget] that has data; one whose data has changed keeps its filters. */
  mount(data) {
    for (const root of document.querySelectorAll("[data-widget]")) {
      const kind = root.dataset.widget;
      const text = JSON.stringify(data[kind]);
      const [widget, before] = browse.all.get(root) ?? [];
      if (text === undefined || text === before) continue;
      if (widget) widget.set(data[kind]);
      const mounted = widget ?? new browse.kinds[kind](root, data[kind], { examples: Math.max(1, data.examples) });
      browse.all.set(root, [mounted, text]);
    }
  },
};
