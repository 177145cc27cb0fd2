"use strict";
/* Curves, drawn by uPlot: hover, zoom, logarithmic axis, smoothing, a legend of buttons. */

const PALETTE = ["#2f7fc1", "#e2580a", "#2a9d5c", "#b04fb5", "#b98a00", "#17a0b0", "#d6336c", "#8a6d4b"];
const ROLES = { main: "ink", second: "second", validation: "accent", r0: "wrong", r1: "correct" };
const MIN_POINTS_TO_SMOOTH = 20;
const MAX_MARKERS = 50; // per curve; longer ones have none
const DASHES = [[], [6, 4], [2, 3], [9, 3, 2, 3]];
const HEIGHT = 210;

/* Number of points of the moving average: about a twelfth of the curve, odd. */
function smoothingWindow(points) {
  return points < MIN_POINTS_TO_SMOOTH ? 1 : 2 * Math.floor(points / 24) + 3;
}

/* Centered moving average, with a shorter window at both ends, so that nothing is shifted. */
function smooth(values, window) {
  const half = (window - 1) / 2;
  return values.map((_, index) => {
    const part = values.slice(Math.max(0, index - half), index + half + 1);
    return part.reduce((sum, value) => sum + value, 0) / part.length;
  });
}

function formatNumber(value, share = false) {
  if (value === null || value === undefined) return "";
  if (share) return `${Number((100 * value).toFixed(1))}%`;
  if (value !== 0 && (Math.abs(value) < 1e-3 || Math.abs(value) >= 1e6))
    return value.toExponential(2).replace(/\.?0+e/, "e");
  return Number(value.toPrecision(4)).toLocaleString("en-US", { maximumFractionDigits: 6 });
}

class CurveChart {
  constructor(figure, spec, runs) {
    this.figure = figure;
    this.key = figure.dataset.chart;
    this.runs = runs;
    this.log = spec.log;
    this.hidden = new Set();
    this.logButton = button("log", "logarithmic axis", () => this.setLog(!this.log));
    this.resetButton = button("all", "end the zoom", () => this.showAll());
    this.tools = dom("div", { className: "tools" });
    this.legend = dom("div", { className: "legend" });
    this.plot = dom("div", { className: "plot" });
    figure.append(this.legend, this.plot, this.tools);
    this.tools.append(
      this.logButton,
      this.resetButton,
      ...exporting.buttons(this.key, () => chartSvg(this), () => this.rows()),
    );
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(this.plot);
    this.set(spec);
  }

  /* New data. The zoom and the hidden curves stay. */
  set(spec) {
    const names = (value) => (value ? value.series.map((s) => s.label + s.role).join("\n") : null);
    const same = names(this.spec) === names(spec);
    this.spec = spec;
    this.curves = spec.series.map((series, index) => this.curve(series, index));
    if (same && this.uplot) {
      const zoom = this.zoom;
      this.uplot.setData(this.aligned(), !zoom);
      if (zoom) this.uplot.setScale("x", zoom);
      this.drawLegend();
    } else this.draw();
    this.showValues(null);
  }

  curve(series, index) {
    const window = series.exact ? 1 : smoothingWindow(series.x.length);
    return { ...series, index, window, smoothed: window > 1 ? smooth(series.y, window) : null };
  }

  style(curve) {
    const several = this.runs.length > 1;
    const part = curve.role.startsWith("parts") ? Number(curve.role.slice(5)) : null;
    const color = several
      ? PALETTE[curve.run % PALETTE.length]
      : part !== null
        ? PALETTE[part % PALETTE.length]
        : cssColor(ROLES[curve.role]);
    const roles = [...new Set(this.curves.map((other) => other.role))];
    return { color, dash: several ? DASHES[roles.indexOf(curve.role) % DASHES.length] : [] };
  }

  /* One x axis for all curves, then for each curve its values and, if it is smoothed, their average. */
  aligned() {
    const xs = [...new Set(this.curves.flatMap((curve) => curve.x))].sort((a, b) => a - b);
    const position = new Map(xs.map((x, index) => [x, index]));
    const spread = (curve, values) => {
      const column = new Array(xs.length).fill(null);
      // A logarithm has no place for zero.
      curve.x.forEach((x, i) => (column[position.get(x)] = this.log && !(values[i] > 0) ? null : values[i]));
      return column;
    };
    this.columns = [xs];
    this.owners = [null];
    for (const curve of this.curves) {
      curve.column = this.columns.push(spread(curve, curve.y)) - 1;
      this.owners.push(curve);
      if (curve.smoothed) {
        this.columns.push(spread(curve, curve.smoothed));
        this.owners.push(curve);
      }
    }
    return this.columns;
  }

  draw() {
    this.uplot?.destroy();
    const data = this.aligned();
    const axis = { stroke: cssColor("soft"), grid: { stroke: cssColor("grid"), width: 1 }, font: "11px system-ui" };
    axis.ticks = { stroke: cssColor("line"), width: 1, size: 4 };
    const many = Math.max(...this.curves.map((curve) => curve.x.length)) >= 300;
    const options = {
      width: this.width(),
      height: HEIGHT,
      padding: [10, 12, 0, 0],
      legend: { show: false },
      cursor: {
        sync: { key: this.spec.x, scales: ["x", null] },
        y: false,
        drag: { x: true, y: false },
        points: { size: 7 },
        dataIdx: (_, column, index) => this.nearest(column, index),
      },
      scales: {
        x: { time: false },
        y: { distr: this.log ? 3 : 1, range: (_, low, high) => this.range(low, high) },
      },
      axes: [
        { ...axis, space: 45, size: 26, gap: 2, label: this.spec.x, labelSize: 18, labelGap: 0, labelFont: "11px system-ui",
          incrs: [1, 2, 5].flatMap((n) => [1, 10, 100, 1e3, 1e4, 1e5].map((power) => n * power)).sort((a, b) => a - b) },
        { ...axis, size: 56, space: 32, ...(this.log && { splits: (_, __, low, high) => ticks(low, high, true) }),
          values: (_, splits) => splits.map((value) => formatNumber(value, this.spec.share)) },
      ],
      series: [{ label: this.spec.x }, ...this.owners.slice(1).map((curve, i) => this.line(curve, i + 1, many))],
      hooks: {
        setCursor: [(u) => this.showValues(u.cursor.idx)],
        setScale: [(u, key) => key === "x" && this.zoomed(u)],
        drawClear: [(u) => this.drawMarks(u)],
      },
    };
    this.zoom = null;
    this.uplot = new uPlot(options, data, this.plot);
    this.logButton.hidden = this.spec.share;
    this.logButton.setAttribute("aria-pressed", String(this.log));
    this.drawLegend();
  }

  line(curve, column, many) {
    const { color, dash } = this.style(curve);
    const raw = curve.column === column && curve.smoothed;
    return {
      label: curve.label,
      show: !this.hidden.has(curve.label),
      stroke: color,
      width: raw ? 0.7 : 1.7,
      alpha: raw ? (many ? 0.25 : 0.45) : 1,
      dash,
      spanGaps: true,
      points: { show: !raw && !curve.smoothed && curve.x.length <= MAX_MARKERS, size: 5, fill: color },
    };
  }

  /* The index of the value of a column that is nearest to the cursor. */
  nearest(column, index) {
    const values = this.columns[column];
    for (let distance = 0; distance < values.length; distance++) {
      if (values[index - distance] !== null && index - distance >= 0) return index - distance;
      if (values[index + distance] !== null && index + distance < values.length) return index + distance;
    }
    return index;
  }

  range(low, high) {
    if (low === null || high === null) return this.log ? [0.1, 1] : [0, 1];
    if (this.log) return uPlot.rangeLog(low, high, 10, false);
    const [bottom, top] = uPlot.rangeNum(low, high, 0.08, true);
    const limits = [this.spec.fromZero && low >= 0 ? 0 : bottom, top];
    return this.spec.share ? [Math.max(0, limits[0]), Math.min(1.02, Math.max(limits[1], 0.01))] : limits;
  }

  drawMarks(u) {
    u.ctx.save();
    u.ctx.strokeStyle = cssColor("second");
    u.ctx.setLineDash([4, 4]);
    for (const mark of this.spec.marks.filter((x) => x >= u.scales.x.min && x <= u.scales.x.max)) {
      const x = u.valToPos(mark, "x", true);
      u.ctx.beginPath();
      u.ctx.moveTo(x, u.bbox.top);
      u.ctx.lineTo(x, u.bbox.top + u.bbox.height);
      u.ctx.stroke();
    }
    u.ctx.restore();
  }

  drawLegend() {
    this.position = dom("span", { className: "position" });
    this.values = new Map();
    const entries = this.curves.map((curve) => {
      const { color, dash } = this.style(curve);
      const swatch = dom("i", { className: dash.length ? "dashed" : "" });
      swatch.style.borderColor = color;
      const value = dom("output", {});
      this.values.set(curve, value);
      const entry = dom("button", { type: "button", title: "hide or show", onclick: () => this.toggle(curve) });
      entry.append(swatch, dom("span", { textContent: curve.label }), value);
      entry.setAttribute("aria-pressed", String(!this.hidden.has(curve.label)));
      return entry;
    });
    this.legend.replaceChildren(...entries, this.position);
  }

  /* The values at an index of the x axis; without one, the last of each curve. */
  showValues(index) {
    const xs = this.columns[0];
    const at = index ?? null;
    this.position.textContent = at === null ? "last" : `${this.spec.x} ${formatNumber(xs[at])}`;
    for (const curve of this.curves) {
      const column = this.columns[curve.column];
      this.values.get(curve).textContent = formatNumber(
        column[this.nearest(curve.column, at === null ? xs.length - 1 : at)],
        this.spec.share,
      );
    }
  }

  toggle(curve) {
    const shown = this.hidden.delete(curve.label);
    if (!shown) this.hidden.add(curve.label);
    this.owners.forEach((owner, column) => owner === curve && this.uplot.setSeries(column, { show: shown }));
    this.drawLegend();
    this.showValues(null);
  }

  setLog(log) {
    this.log = log;
    const zoom = this.zoom;
    this.draw();
    if (zoom) this.uplot.setScale("x", zoom);
    this.showValues(null);
  }

  zoomed(u) {
    const xs = this.columns[0];
    const { min, max } = u.scales.x;
    this.zoom = min > xs[0] || max < xs.at(-1) ? { min, max } : null;
    this.resetButton.hidden = !this.zoom;
  }

  showAll() {
    const xs = this.columns[0];
    this.uplot.setScale("x", { min: xs[0], max: xs.at(-1) });
  }

  width() {
    return Math.max(200, Math.floor(this.plot.clientWidth || this.figure.clientWidth || 320));
  }

  resize() {
    if (this.uplot && this.width() !== this.uplot.width) this.uplot.setSize({ width: this.width(), height: HEIGHT });
  }

  /* The data as a table: the x axis, then the values of each curve, not smoothed. */
  rows() {
    const xs = [...new Set(this.curves.flatMap((curve) => curve.x))].sort((a, b) => a - b);
    const maps = this.curves.map((curve) => new Map(curve.x.map((x, index) => [x, curve.y[index]])));
    return [
      [this.spec.x, ...this.curves.map((curve) => curve.label)],
      ...xs.map((x) => [x, ...maps.map((map) => map.get(x) ?? null)]),
    ];
  }

  remove() {
    this.observer.disconnect();
    this.uplot.destroy();
    this.figure.replaceChildren(...this.figure.querySelectorAll("figcaption"));
  }
}

const charts = {
  all: new Map(),

  /* Draws every figure[data-chart] that has data; those that are already drawn get the new data. */
  mount(data) {
    for (const [key, chart] of charts.all) {
      if (!chart.figure.isConnected || !(key in data.charts)) {
        chart.remove();
        charts.all.delete(key);
      }
    }
    for (const figure of document.querySelectorAll("figure[data-chart]")) {
      const key = figure.dataset.chart;
      if (charts.all.has(key)) charts.all.get(key).set(data.charts[key]);
      else if (key in data.charts) charts.all.set(key, new CurveChart(figure, data.charts[key], data.runs));
    }
  },

  redraw() {
    for (const chart of charts.all.values()) {
      chart.draw();
      chart.showValues(null);
    }
  },
};
