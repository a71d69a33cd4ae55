// Taking a document back: confirmed, followed, and what it left behind.

import { follow, remove, segment } from "./api.js";
import { confirmed } from "./confirm.js";
import { byId, say } from "./dom.js";
import { counted } from "./formats.js";
import { trying } from "./notices.js";
import { refresh } from "./store.js";

const WAYS = {
  false: "What it taught is taken out of the weights, every version that knows it is withdrawn, and its text is removed from every store.",
  true: "As if it had never been there: what was learned after it is learned anew. Every version that knows it is withdrawn, and its text is removed.",
};

/** Take it back, if that is confirmed. Resolves to whether it has begun; what becomes of it shows among the documents. */
export async function forget(id, namespace, exact) {
  const action = exact ? "Forget exactly" : "Forget";
  const title = exact ? `Forget exactly: document ${id}` : `Forget document ${id}`;
  if (!(await confirmed({ title, text: `${WAYS[exact]} This cannot be undone.`, action }))) return false;
  run(id, namespace, exact);
  return true;
}

async function run(id, namespace, exact) {
  const place = byId("forgetting");
  say(place, `Forgetting ${id}…`);
  const job = await trying(byId("documents-problem"), async () => {
    const { job_id } = await remove(`documents/${segment(id)}`, { namespace, exact });
    return follow(job_id, (event) => say(place, `Forgetting ${id}… ${event === null ? "not connected" : event.stage || ""}`));
  });
  say(place, job && outcome(id, job));
  if (job) await trying(byId("documents-problem"), refresh);
}

function outcome(id, { status, error, version, report }) {
  if (status !== "succeeded") return `${id} was not forgotten: ${error || status}.`;
  const { forgotten, left, others } = report;
  const said = `${id} is forgotten: ${version} answers now. Of ${counted(forgotten.asked, "question")} about it ${left} still get its answer`;
  return `${said}; of ${others.asked} about others ${others.after} are answered, before ${others.before}.`;
}
