// Asking: an answer as it is written, the version that wrote it, and the documents that it comes from.

import { byId, element, replace, sendByKeyboard } from "./dom.js";
import { number, seconds } from "./formats.js";
import { generate } from "./generation.js";
import { openButton } from "./document.js";
import { announce, trying } from "./notices.js";
import { asked, known, onChange } from "./store.js";

const LISTED = 100;
let abort = new AbortController();

/** Make the panel work. */
export function start() {
  const form = byId("ask-form");
  sendByKeyboard(form);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  byId("stop").addEventListener("click", () => abort.abort());
  onChange((changed) => {
    if (changed.includes("versions") || changed.includes("live")) choices();
    if (changed.includes("namespace")) byId("answer").hidden = true;
  });
}

/** The versions that can be asked: the live one, whichever that is, or one by its name. */
function choices() {
  const place = byId("version");
  const chosen = place.value;
  const newest = known.versions.slice(-LISTED).reverse();
  const base = newest.some(({ version }) => version === "v0") ? [] : known.versions.slice(0, 1);
  const named = [...newest, ...base].map(({ version }) => element("option", { value: version }, version));
  place.replaceChildren(element("option", { value: "" }, `live (${known.live})`), ...named);
  place.value = [...place.options].some(({ value }) => value === chosen) ? chosen : "";
}

function wanted() {
  const plain = byId("plain").checked;
  const prompt = byId("prompt").value;
  const body = {
    prompt: plain ? prompt : asked(prompt.trim()),
    max_new_tokens: byId("most").valueAsNumber || 64,
    temperature: byId("temperature").valueAsNumber || 0,
    explain: byId("explain").checked,
    namespace: known.namespace,
  };
  if (byId("version").value) body.version = byId("version").value;
  if (!plain && known.forms.stop.length) body.stop = known.forms.stop;
  return body;
}

async function ask() {
  abort.abort();
  const mine = (abort = new AbortController());
  const text = element("p", { class: "written" }, "…");
  const place = byId("answer");
  const body = wanted();
  replace(place, text);
  place.hidden = false;
  place.setAttribute("aria-busy", "true");
  byId("stop").hidden = false;
  const started = performance.now();
  const answer = await trying(byId("ask-problem"), () => generate(body, (written) => (text.textContent = written.trim()), mine.signal));
  if (abort !== mine) return;
  byId("stop").hidden = true;
  place.setAttribute("aria-busy", "false");
  if (!answer) {
    if (text.textContent === "…") place.hidden = true;
    return;
  }
  text.textContent = answer.text.trim() || "(nothing)";
  announce(`${answer.version} answers: ${text.textContent}`);
  place.append(facts(answer, (performance.now() - started) / 1000));
  if (answer.sources) place.append(sources(answer.sources, body.namespace));
}

function facts({ version, usage, finish_reason }, spent) {
  const length = finish_reason === "length" ? ", cut at the limit" : "";
  return element(
    "p",
    { class: "facts" },
    "by ",
    element("strong", { class: "version" }, version),
    ` in ${seconds(spent)}; ${usage.prompt_tokens} tokens read, ${usage.completion_tokens} written${length}`,
  );
}

/** The documents whose learning raised the answer most. */
function sources(found, namespace) {
  if (!found.length) return element("p", { class: "facts" }, "No learned document raised this answer: it is the base model's own.");
  const most = found[0].score;
  const rows = found.map(({ document_id, version, score }) =>
    element(
      "li",
      {},
      openButton(document_id, namespace),
      element("span", { class: "version" }, version),
      element("meter", { min: 0, max: most, value: score, "aria-hidden": "true" }),
      element("span", { class: "score" }, `${number(score)} nats`),
    ),
  );
  return element("div", {}, element("h3", {}, "Sources"), element("ol", { class: "sources" }, rows));
}
