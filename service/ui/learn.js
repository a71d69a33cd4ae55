// Teaching: post a document, watch it being learned, see what was made of it, ask before and after.

import { follow, get, post, segment } from "./api.js";
import { compare } from "./compare.js";
import { byId, element, sendByKeyboard } from "./dom.js";
import { nextExample } from "./examples.js";
import { announce, trying } from "./notices.js";
import { numbers, verdict } from "./report.js";
import { Stages } from "./stages.js";
import { known, may, onChange, parted, refresh, versionNamed } from "./store.js";
import { weighed } from "./tokens.js";

let abort = new AbortController();

/** Make the panel work. */
export function start() {
  const form = byId("learn-form");
  sendByKeyboard(form);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    learn(byId("text").value, byId("question").value.trim());
  });
  byId("example").addEventListener("click", () => {
    [byId("text").value, byId("question").value] = nextExample();
    byId("text").focus();
  });
  onChange((changed) => changed.includes("namespace") && clear());
}

function clear() {
  abort.abort();
  byId("progress").hidden = byId("result").hidden = true;
}

async function learn(text, question) {
  clear();
  const { namespace } = known;
  const { signal } = (abort = new AbortController());
  const stages = new Stages(byId("progress"));
  let job = null;
  await trying(byId("learn-problem"), async () => {
    const [{ job_id }] = (await post("learn", { text, namespace })).jobs;
    job = await follow(job_id, (event) => stages.hear(event), signal);
    await refresh();
  });
  stages.end(Boolean(job?.status === "succeeded"));
  if (signal.aborted) return;
  if (!job) byId("progress").hidden = true;
  else await trying(byId("learn-problem"), () => show(job, question, signal));
}

/** What was made of it. */
async function show(job, question, signal) {
  const { kind, text } = verdict(job, job.namespace === known.namespace ? known.live ?? job.version : job.version);
  const [parent, document] = await Promise.all([before(job), get(`documents/${segment(job.document_id)}`, { namespace: job.namespace })]);
  if (signal.aborted) return;
  const versions = parent && { namespace: job.namespace, before: parent, after: job.version, signal };
  const warnings = job.report?.warnings ?? [];
  const place = byId("result");
  const answers = element("div", { class: "answers" });
  const first = question || job.report?.views.map(parted).find(Boolean)?.question;
  place.replaceChildren(
    ...[
      element("p", { class: `verdict ${kind}` }, text),
      warnings.length && element("ul", { class: "warnings", "aria-label": "Warnings" }, warnings.map((warning) => element("li", {}, warning))),
      versions && first && element("section", { "aria-label": "Before and after" }, element("h3", {}, "Before and after"), answers),
      job.report?.views.length && section("What it wrote", views(job.report.views, versions, answers)),
      document.tokens.length && section("What it read", weighed(document.tokens)),
      job.report && section("Report", numbers(job)),
    ].filter(Boolean),
  );
  place.hidden = false;
  announce([text, ...warnings].join(" "));
  if (versions && first) await compare(answers, first, versions);
}

const section = (title, content) => element("section", {}, element("h3", {}, title), content);

/** The version that the document was learned on top of; null if nothing was learned, or nobody may ask. */
async function before(job) {
  if (!may("generate") || job.status !== "succeeded" || !job.report?.folds.length) return null;
  const version = versionNamed(job.version) || (await get(`versions/${segment(job.version)}`, { namespace: job.namespace }));
  return version.parent || "v0";
}

/** The views that were learned; each can be asked of both versions. */
function views(listed, versions, answers) {
  const rows = listed.map((view) => {
    const parts = parted(view);
    if (!parts) return element("li", {}, view);
    const ask = () => compare(answers, parts.question, versions);
    const words = element("span", {}, parts.question, " ", element("strong", {}, parts.answer));
    const label = `Ask both versions: ${parts.question}`;
    return element("li", {}, words, versions && element("button", { type: "button", class: "quiet", "aria-label": label, click: ask }, "Ask both"));
  });
  return element("ul", { class: "views" }, rows);
}
