// One document: its tokens, where it was learned, and taking it back.

import { get, segment } from "./api.js";
import { element } from "./dom.js";
import { forget } from "./forgetting.js";
import { moment } from "./formats.js";
import { trying } from "./notices.js";
import { may } from "./store.js";
import { weighed } from "./tokens.js";

/** Its id, which opens it. key: of the button, where a document has several. */
export function openButton(id, namespace, key = `open ${id}`) {
  const attributes = { type: "button", class: "link", "data-key": key, "aria-label": `Open document ${id}` };
  return element("button", { ...attributes, click: () => openDocument(id, namespace) }, id);
}

/** Show it above the page. */
function openDocument(id, namespace) {
  const content = element("div", {}, element("p", { class: "hint" }, "…"));
  const problem = element("p", { class: "problem", role: "alert", hidden: true });
  const close = element("button", { type: "button", "aria-label": `Close document ${id}`, click: () => shown.close(), autofocus: true }, "Close");
  const take = (exact) => forget(id, namespace, exact).then((begun) => begun && shown.close());
  const forgetButton = (exact, word, label) => element("button", { type: "button", "aria-label": label, click: () => take(exact) }, word);
  const shown = element(
    "dialog",
    { class: "wide", "aria-labelledby": "document-title" },
    element("h2", { id: "document-title", class: "name" }, id),
    problem,
    content,
    element(
      "div",
      { class: "buttons" },
      may("admin") && forgetButton(false, "Forget", `Forget document ${id}`),
      may("admin") && forgetButton(true, "Forget exactly", `Forget exactly: document ${id}`),
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
  const became = found.version === null ? "rejected by the guard" : `read by ${found.version}`;
  const learned = found.learned_at === null ? "not learned yet" : `${became}, ${moment(found.learned_at)}`;
  const metadata = Object.keys(found.metadata).length && element("pre", {}, JSON.stringify(found.metadata, null, 1));
  const text = found.tokens.length ? weighed(found.tokens) : element("p", { class: "tokens" }, found.text);
  return [element("p", { class: "hint" }, `Accepted ${moment(found.accepted_at)}; ${learned}.`), text, metadata].filter(Boolean);
}
