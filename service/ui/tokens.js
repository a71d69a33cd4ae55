// A document's tokens, the darker the more is learned from them.

import { element } from "./dom.js";

const STEPS = 5;

/** The tokens as running text with a legend. Tokens: `{text, weight}`, weights from 0 to 1. */
export function weighed(tokens) {
  const text = element("p", { class: "tokens" }, tokens.map(token));
  const steps = Array.from({ length: STEPS + 1 }, (_, step) => element("span", { class: `token w${step}` }, "\u00a0\u00a0"));
  const legend = element("p", { class: "scale", "aria-hidden": "true" }, "not learned ", steps, " learned most");
  return element("div", { class: "weighed" }, text, legend);
}

function token({ text, weight }) {
  const step = weight > 0 ? Math.min(STEPS, 1 + Math.floor(weight * STEPS)) : 0;
  return element("span", { class: `token w${step}`, title: `weight ${weight.toFixed(2)}` }, text);
}
