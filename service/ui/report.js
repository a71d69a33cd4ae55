// What became of a document: a verdict in a sentence, and the numbers behind it.

import { element } from "./dom.js";
import { number, seconds, share } from "./formats.js";

/** `{kind, text}` of a job that has ended; kind: good, nothing, bad. live: the version that answers now. */
export function verdict(job, live) {
  const { report, status, version } = job;
  const took = job.finished_at - job.accepted_at;
  if (status === "rejected") return { kind: "bad", text: `Rejected by the guard: ${report.rejection}. Nothing has changed.` };
  if (status === "cancelled") return { kind: "nothing", text: "Cancelled; nothing has changed." };
  if (status === "failed") return { kind: "bad", text: `It could not be learned: ${job.error}.` };
  if (!report?.folds.length) return { kind: "nothing", text: `There was nothing new in it: ${version} answers as before.` };
  if (!report.views.length) return { kind: "nothing", text: `Learned in ${seconds(took)} as ${version}: its raw text, for there are no questions about it.` };
  if (report.shadow) return { kind: "good", text: `Learned in ${seconds(took)} as ${version}, which answers when it is asked for by name.` };
  if (version !== live) return { kind: "good", text: `Learned in ${seconds(took)} as ${version}; by now ${live} answers.` };
  return { kind: "good", text: `Learned in ${seconds(took)}: ${version} answers now.` };
}

/** The report's numbers. */
export function numbers(job) {
  const { report } = job;
  if (!report) return null;
  const { drift, folds } = report;
  const sum = (name) => folds.reduce((total, fold) => total + fold[name], 0);
  const work = Object.entries(report.seconds);
  const rows = [
    drift && report.views.length && ["Took", share(drift.taken), "of what it was taught, the new version answers"],
    drift && ["Kept", share(drift.retained), "of the earlier lessons asked, it still answers"],
    drift && ["Drift", number(drift.kl), "nats per token away from the base model"],
    ["Tokens", `${report.tokens_kept} of ${report.tokens_read}`, "carry weight"],
    folds.length && ["Loss", `${number(sum("loss_before") / folds.length)} → ${number(sum("loss_after") / folds.length)}`, "nats per token learned"],
    folds.length && ["Change", number(-sum("actual_change")), `of the loss, down; ${number(-sum("predicted_change"))} foretold`],
    ["Time", seconds(work.reduce((total, [, spent]) => total + spent, 0)), work.map(([stage, spent]) => `${stage} ${seconds(spent)}`).join(", ")],
  ];
  const shown = rows.filter(Boolean).map(([term, value, meaning]) =>
    element("div", {}, element("dt", {}, term), element("dd", {}, element("strong", {}, value), element("span", {}, meaning))),
  );
  return element("dl", { class: "numbers" }, shown);
}
