// The timeline of versions, and going back.

import { post } from "./api.js";
import { confirmed } from "./confirm.js";
import { openButton } from "./document.js";
import { byId, element, replace } from "./dom.js";
import { ago, bytes, counted, moment, number } from "./formats.js";
import { announce, trying } from "./notices.js";
import { known, may, onChange, refresh } from "./store.js";

const PAGE = 12;
let limit = PAGE;

/** Make the panel work. */
export function start() {
  byId("more-versions").addEventListener("click", () => {
    limit += 5 * PAGE;
    show();
  });
  onChange((changed) => {
    if (changed.includes("namespace")) limit = PAGE;
    if (changed.includes("versions") || changed.includes("live")) show();
  });
}

function show() {
  const newest = known.versions.slice(-limit).reverse();
  const live = known.versions.find(({ version }) => version === known.live);
  const rows = newest.includes(live) || !live ? newest : [...newest, live];
  byId("versions-count").textContent = may("generate") ? counted(known.versions.length, "version") : "";
  byId("more-versions").hidden = limit >= known.versions.length;
  replace(byId("timeline"), rows.map(row));
}

function row(version) {
  const live = version.version === known.live;
  const parts = [version.drift && `drift ${number(version.drift.kl)}`, version.bytes && bytes(version.bytes)].filter(Boolean);
  const what = version.documents.map((id) => openButton(id, known.namespace, `${version.version} ${id}`));
  const nothing = version.version === "v0" ? "the base model" : "a document taken back";
  const when = version.created_at > 0 && element("time", { title: moment(version.created_at) }, ago(version.created_at));
  return element(
    "li",
    { class: live ? "live" : "", "aria-current": live && "true" },
    element("span", { class: "name" }, element("strong", { class: "version" }, version.version), live && element("span", { class: "badge" }, "live")),
    element("span", { class: "what" }, what.length ? what : nothing),
    element("span", { class: "facts" }, [parts.join(" · "), parts.length && when ? " · " : "", when]),
    !live && may("admin") && goButton(version.version),
  );
}

function goButton(name) {
  const earlier = Number(name.slice(1)) < Number(known.live.slice(1));
  const label = earlier ? `Roll back to version ${name}` : `Make live version ${name}`;
  return element(
    "button",
    { type: "button", class: "quiet go", "data-key": `go ${name}`, "aria-label": label, click: () => go(name) },
    earlier ? "Roll back" : "Make live",
  );
}

/** Answer from another version, unless the alias has moved meanwhile. */
async function go(to) {
  const { namespace, live: expected } = known;
  const text = `Answers come from ${to} at once, instead of ${expected}. No version is lost: you can come back.`;
  if (!(await confirmed({ title: `Answer from ${to}`, text, action: `Answer from ${to}` }))) return;
  const moved = await trying(byId("versions-problem"), () => post("versions/rollback", { to, expected, namespace }));
  await refresh().catch(() => {}); // where it has moved to, if it has
  if (moved) announce(`${to} answers now.`);
}
