// One document: its tokens, where it was learned, and taking it back.

import { get, segment } from "./api.js";
import { element } from "./dom.js";
import { forget } from "./forgetting.js";
import { moment } from "./formats.js";
import { trying } from "./notices.js";
import { weighed } from "./tokens.js";

/** Show it above the page. */
export function openDocument(id, namespace) {
  const content = element("div", {}, element("p", { class: "hint" }, "…"));
  const problem = element("p", { class: "problem", role: "alert", hidden: true });
  const close = element("button", { type: "button", click: () => shown.close(), autofocus: true }, "Close");
  const take = (exact) => () => forget(id, namespace, exact).then((begun) => begun && shown.close());
  const shown = element(
    "dialog",
    { class: "wide", "aria-labelledby": "document-title" },
    element("h2", { id: "document-title", class: "name" }, id),
    problem,
    content,
    element(
      "div",
      { class: "buttons" },
      element("button", { type: "button", click: take(false) }, "Forget"),
      element("button", { type: "button", click: take(true) }, "Forget exactly"),
      close,
    ),
  );
  shown.addEventListener("close", () => shown.remove());
  document.body.append(shown);
  shown.showModal();
  trying(problem, async () => {
    content.replaceChildren(...described(await get(`documents/${segment(id)}`, { namespace })));
  }).then(() => problem.hidden || content.replaceChildren());
}

function described(found) {
  const learned = found.learned_at === null ? "not learned yet" : `read by ${found.version}, ${moment(found.learned_at)}`;
  const metadata = Object.keys(found.metadata).length && element("pre", {}, JSON.stringify(found.metadata, null, 1));
  const text = found.tokens.length ? weighed(found.tokens) : element("p", { class: "tokens" }, found.text);
  return [element("p", { class: "hint" }, `Accepted ${moment(found.accepted_at)}; ${learned}.`), text, metadata].filter(Boolean);
}
