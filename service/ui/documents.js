// The documents of the namespace, newest first.

import { get } from "./api.js";
import { openButton } from "./document.js";
import { byId, element, replace } from "./dom.js";
import { forget } from "./forgetting.js";
import { counted } from "./formats.js";
import { trying } from "./notices.js";
import { known, may, onChange } from "./store.js";

const PAGE = 10;
let limit = PAGE;

/** Make the panel work. */
export function start() {
  byId("more-documents").addEventListener("click", () => {
    limit += 5 * PAGE;
    list();
  });
  onChange((changed) => {
    if (changed.includes("namespace")) limit = PAGE;
    if (changed.includes("scopes")) byId("documents-count").textContent = "";
    if (changed.includes("versions") && may("learn") && (known.versions.length || !may("generate"))) list();
  });
}

async function list() {
  const { namespace } = known;
  await trying(byId("documents-problem"), async () => {
    const { documents, total } = await get("documents", { namespace, limit: Math.min(limit, 1000) }, { quiet: true });
    if (namespace !== known.namespace) return;
    byId("documents-count").textContent = counted(total, "document");
    byId("more-documents").hidden = documents.length >= total || limit > 1000;
    replace(byId("shelf"), documents.length ? documents.map(row) : element("li", { class: "hint" }, "Nothing has been learned here."));
  });
}

function row(id) {
  const { namespace } = known;
  return element(
    "li",
    {},
    openButton(id, namespace),
    may("admin") && element(
      "button",
      { type: "button", class: "quiet", "data-key": `forget ${id}`, "aria-label": `Forget document ${id}`, click: () => forget(id, namespace, false) },
      "Forget",
    ),
  );
}
