// What the page knows of the server, and word to its panels when that changes.

import { get } from "./api.js";

const told = new EventTarget();

export const known = {
  namespace: new URLSearchParams(location.search).get("namespace"),
  namespaces: [],
  scopes: [],
  model: "",
  context: 0,
  live: null,
  forms: { question: "{question}", view: "{question} {answer}", stop: [] },
  versions: [],
};

/** Call `listener` with the names of the fields that have changed. */
export function onChange(listener) {
  told.addEventListener("change", (event) => listener(event.detail));
}

/** Change some fields, and tell of those that are others now. */
export function change(fields) {
  const changed = Object.keys(fields).filter((name) => known[name] !== fields[name]);
  Object.assign(known, fields);
  if (changed.length) told.dispatchEvent(new CustomEvent("change", { detail: changed }));
}

/** Whether the key may do what needs this scope. */
export const may = (scope) => known.scopes.includes(scope);

/** Read the versions of the namespace again, if the key may. */
export async function refresh(more = {}) {
  if (!may("generate")) return change({ versions: [] });
  const { namespace } = known;
  const { versions } = await get("versions", { namespace }, more);
  if (namespace !== known.namespace) return;
  change({ versions, live: versions.find((version) => version.live).version });
}

/** The version of that name, or undefined. */
export const versionNamed = (name) => known.versions.find(({ version }) => version === name);

/** A question in the form in which this model is asked. What has that form already stays as it is. */
export function asked(question) {
  const [before, after] = known.forms.question.split("{question}").map((part) => part.trim());
  if (before && after && question.startsWith(before) && question.endsWith(after)) return question;
  return known.forms.question.replace("{question}", () => question);
}

/** Question and answer of a view; null if it has another form. */
export function parted(view) {
  const [before, between] = known.forms.view.split(/\{question\}|\{answer\}/);
  const at = view.indexOf(between, before.length);
  if (!view.startsWith(before) || at < 0) return null;
  return { question: view.slice(before.length, at), answer: view.slice(at + between.length) };
}
