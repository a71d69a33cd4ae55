// Charts: one line, or stacked bars; plain SVG, drawn at the width that there is.

import { element, shape } from "./dom.js";
import { number } from "./formats.js";

const HEIGHT = 130;
const MARGIN = { left: 56, right: 10, top: 10, bottom: 20 };

/** Keep a chart in `place`, drawn anew when the place gets another width. Returns what shows data: `draw(data)`. */
export function chart(place, picture) {
  let data = null;
  const draw = () => {
    const width = place.clientWidth;
    if (data && width > 100) place.replaceChildren(data.length ? picture(data, width) : element("p", { class: "hint" }, "Nothing to show yet."));
  };
  new ResizeObserver(draw).observe(place);
  return (found) => {
    data = found;
    draw();
  };
}

/** Points `{name, value, marked}` joined by a line. */
export function line(points, width) {
  const most = rounded(Math.max(...points.map(({ value }) => value), 1e-9));
  const scale = scales(points.length, most, width);
  const path = points.map(({ value }, index) => `${index ? "L" : "M"}${scale.x(index)} ${scale.y(value)}`).join("");
  const dots = points.map(({ name, value, marked }, index) =>
    shape("circle", { class: marked ? "dot marked" : "dot", cx: scale.x(index), cy: scale.y(value), r: marked ? 4.5 : points.length > 40 ? 1.5 : 2.5 },
      shape("title", {}, `${name}: ${number(value)}`)),
  );
  const last = points.at(-1);
  return frame(points, most, width, scale, [shape("path", { class: "line", d: path }), ...dots], `${last.name}: ${number(last.value)}`);
}

/** Bars `{name, parts: [value, ...]}`, the parts on top of one another. */
export function bars(columns, width) {
  const sum = (parts) => parts.reduce((total, value) => total + value, 0);
  const most = rounded(Math.max(...columns.map(({ parts }) => sum(parts)), 1e-3));
  const scale = scales(columns.length, most, width, 0.5);
  const breadth = Math.min(26, Math.max(2, scale.step * 0.7));
  const drawn = columns.map(({ name, parts }, index) => {
    let under = 0;
    const pieces = parts.map((value, part) => {
      under += value;
      return shape("rect", {
        class: `part p${part}`, x: scale.x(index) - breadth / 2, y: scale.y(under), width: breadth, height: scale.y(under - value) - scale.y(under),
      });
    });
    return shape("g", {}, shape("title", {}, `${name}: ${number(under)} s`), pieces);
  });
  const last = columns.at(-1);
  return frame(columns, most, width, scale, drawn, `${last.name}: ${number(sum(last.parts))} s`);
}

/** The next number above that reads well. */
function rounded(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 3, 4, 5, 6, 8, 10].find((step) => step * power >= value * 0.999);
}

function scales(count, most, width, pad = 0) {
  const inner = width - MARGIN.left - MARGIN.right;
  const step = inner / Math.max(1, count - 1 + 2 * pad);
  const start = count === 1 && !pad ? MARGIN.left + inner / 2 : MARGIN.left + pad * step;
  return {
    step,
    x: (index) => Math.round((start + index * step) * 10) / 10,
    y: (value) => Math.round((MARGIN.top + (1 - value / most) * (HEIGHT - MARGIN.top - MARGIN.bottom)) * 10) / 10,
  };
}

/** Axes around what is drawn; the words say the least that a picture says. */
function frame(columns, most, width, scale, drawn, word) {
  const grid = [0, most / 2, most].flatMap((value) => [
    shape("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: scale.y(value), y2: scale.y(value) }),
    shape("text", { class: "tick", x: MARGIN.left - 6, y: scale.y(value) + 4, "text-anchor": "end" }, number(value)),
  ]);
  const ends = columns.length > 1 ? [0, columns.length - 1] : [0];
  const names = ends.map((index) =>
    shape("text", { class: "tick", x: scale.x(index), y: HEIGHT - 4, "text-anchor": ends.length > 1 ? (index ? "end" : "start") : "middle" },
      columns[index].name),
  );
  const label = `${columns.length} versions, up to ${number(most)}; the last, ${word}`;
  return shape("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": label }, grid, drawn, names);
}
