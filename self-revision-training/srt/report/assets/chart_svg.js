"use strict";
/* A chart as SVG, with title, axes and legend: the visible part of its curves, in the colors of the page. */

/* Round values that cover [low, high]; on a logarithmic axis powers of ten, with 2 and 5 where these are few. */
function ticks(low, high, log, count = 5) {
  if (log) {
    const all = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      for (const factor of [1, 2, 5]) all.push([factor, factor * 10 ** power]);
    const inside = all.filter(([, value]) => value >= low * 0.999 && value <= high * 1.001);
    const tens = inside.filter(([factor]) => factor === 1);
    return (tens.length > 2 ? tens : inside).map(([, value]) => value);
  }
  const raw = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((value) => value >= raw * 0.999);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from({ length: Math.floor(high / step + 1e-9) - first + 1 }, (_, i) =>
    Number(((first + i) * step).toPrecision(12)),
  );
}

/* [svg, width, height] */
function chartSvg(chart) {
  const [width, height] = [640, 400];
  const shown = chart.curves.filter((curve) => !chart.hidden.has(curve.label));
  const legendRows = Math.ceil(shown.length / 3);
  const area = { left: 70, right: width - 20, top: 52 + 18 * legendRows, bottom: height - 46 };
  const { x: xScale, y: yScale } = chart.uplot.scales;
  const toUnit = (value, scale, log) =>
    log
      ? Math.log(value / scale.min) / Math.log(scale.max / scale.min)
      : (value - scale.min) / (scale.max - scale.min || 1);
  const toX = (value) => area.left + (area.right - area.left) * toUnit(value, xScale, false);
  const toY = (value) => area.bottom - (area.bottom - area.top) * toUnit(value, yScale, chart.log);
  const text = (x, y, content, extra = "") =>
    `<text x="${x.toFixed(1)}" y="${y.toFixed(1)}" fill="${cssColor("soft")}" ${extra}>${exporting.escape(content)}</text>`;
  const line = (x1, y1, x2, y2, color) =>
    `<path d="M${x1.toFixed(1)} ${y1.toFixed(1)}L${x2.toFixed(1)} ${y2.toFixed(1)}" stroke="${color}"/>`;
  const parts = [];
  for (const value of ticks(xScale.min, xScale.max, false, 6).filter(Number.isInteger)) {
    parts.push(line(toX(value), area.top, toX(value), area.bottom, cssColor("grid")));
    parts.push(text(toX(value), area.bottom + 18, formatNumber(value), 'text-anchor="middle"'));
  }
  for (const value of ticks(yScale.min, yScale.max, chart.log)) {
    parts.push(line(area.left, toY(value), area.right, toY(value), cssColor("grid")));
    parts.push(text(area.left - 8, toY(value) + 4, formatNumber(value, chart.spec.share), 'text-anchor="end"'));
  }
  for (const mark of chart.spec.marks) parts.push(line(toX(mark), area.top, toX(mark), area.bottom, cssColor("second")));
  const curves = shown.flatMap((curve) => [
    ...(curve.smoothed ? [svgPath(chart, curve, curve.y, toX, toY, 0.7, 0.45)] : []),
    svgPath(chart, curve, curve.smoothed ?? curve.y, toX, toY, 1.8, 1),
  ]);
  parts.push(
    `<clipPath id="area"><rect x="${area.left}" y="${area.top}" width="${area.right - area.left}" ` +
      `height="${area.bottom - area.top}"/></clipPath><g clip-path="url(#area)">${curves.join("")}</g>`,
    line(area.left, area.bottom, area.right, area.bottom, cssColor("line")),
    text((area.left + area.right) / 2, height - 10, chart.spec.x, 'text-anchor="middle"'),
    `<text x="16" y="24" font-size="15" font-weight="600" fill="${cssColor("ink")}">` +
      `${exporting.escape(chart.spec.title)}</text>`,
    text(16, 42, chart.spec.subtitle),
  );
  shown.forEach((curve, index) => {
    const [x, y] = [16 + 205 * (index % 3), 60 + 18 * Math.floor(index / 3)];
    const { color, dash } = chart.style(curve);
    const pattern = dash.length ? `stroke-dasharray="${dash}"` : "";
    parts.push(`<path d="M${x} ${y - 4}h20" stroke="${color}" stroke-width="2" ${pattern}/>`);
    parts.push(text(x + 26, y, curve.label));
  });
  const svg =
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" ` +
    `font-family="sans-serif" font-size="12" fill="none"><rect width="100%" height="100%" fill="${cssColor("page")}"/>` +
    `${parts.join("")}</svg>`;
  return [svg, width, height];
}

function svgPath(chart, curve, values, toX, toY, width, opacity) {
  const points = curve.x
    .map((x, index) => [x, values[index]])
    .filter(([, value]) => value !== null && (!chart.log || value > 0))
    .map(([x, value]) => `${toX(x).toFixed(1)} ${toY(value).toFixed(1)}`);
  const { color, dash } = chart.style(curve);
  const pattern = dash.length ? ` stroke-dasharray="${dash}"` : "";
  return `<path d="M${points.join("L")}" stroke="${color}" stroke-width="${width}" stroke-opacity="${opacity}"${pattern}/>`;
}
