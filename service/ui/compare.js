// The same question to two versions, side by side.

import { element } from "./dom.js";
import { generate } from "./generation.js";
import { announce, reason } from "./notices.js";
import { asked, known } from "./store.js";

const MOST_TOKENS = 48;

/** Ask both versions in `place`; before and after: names of versions. */
export async function compare(place, question, { namespace, before, after, signal }) {
  const cards = [card(before, "before"), card(after, "after")];
  place.replaceChildren(
    element("p", { class: "asked" }, question),
    element("div", { class: "cards" }, cards.map(({ root }) => root)),
  );
  const answers = await Promise.all(
    [before, after].map(async (version, index) => {
      const { root, text } = cards[index];
      const body = { prompt: asked(question), max_new_tokens: MOST_TOKENS, stop: known.forms.stop, namespace, version };
      try {
        const answer = await generate(body, (written) => (text.textContent = written.trim()), signal);
        text.textContent = answer.text.trim() || "(nothing)";
      } catch (error) {
        text.textContent = reason(error);
        root.classList.add("failed");
      }
      root.setAttribute("aria-busy", "false");
      return text.textContent;
    }),
  );
  cards[1].root.classList.toggle("other", answers[0] !== answers[1]);
  announce(`Before, ${before}: ${answers[0]}. After, ${after}: ${answers[1]}.`);
}

function card(version, when) {
  const text = element("p", { class: "written" }, "…");
  const head = element("h4", {}, when, " ", element("span", { class: "version" }, version));
  return { root: element("div", { class: `card ${when}`, "aria-busy": "true" }, head, text), text };
}
