// The page: every panel, and the namespace that they are about.

import * as ask from "./ask.js";
import { watch } from "./connection.js";
import * as documents from "./documents.js";
import { byId, element } from "./dom.js";
import * as health from "./health.js";
import * as learn from "./learn.js";
import { change, known, may, onChange } from "./store.js";
import * as versions from "./versions.js";

onChange((changed) => {
  if (changed.includes("model")) byId("model").textContent = known.model;
  if (changed.includes("live")) byId("live").textContent = known.live || "…";
  if (changed.includes("scopes")) offer();
  if (changed.includes("namespaces") || changed.includes("namespace")) chooser();
});

/** What the key may not do is not offered, and said. */
function offer() {
  for (const place of document.querySelectorAll("[data-needs]")) place.hidden = !place.dataset.needs.split(" ").every(may);
  for (const place of document.querySelectorAll("[data-lacks]")) place.hidden = may(place.dataset.lacks);
}

function chooser() {
  const place = byId("namespace");
  place.replaceChildren(...known.namespaces.map((name) => element("option", { value: name }, name)));
  place.value = known.namespace;
}

byId("namespace").addEventListener("change", (event) => {
  const page = new URL(location.href);
  page.searchParams.set("namespace", event.target.value);
  history.replaceState(null, "", page);
  change({ namespace: event.target.value, live: null, versions: [] });
  watch();
});

for (const panel of [learn, ask, versions, documents, health]) panel.start();
watch();
