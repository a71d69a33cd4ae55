// Health: the queue now, the drift of each version, and the seconds that learning took.

import { get, text, unhurried } from "./api.js";
import { bars, chart, line } from "./charts.js";
import { byId, element } from "./dom.js";
import { seconds } from "./formats.js";
import { samples } from "./metrics.js";
import { known, may, onChange } from "./store.js";

const SHOWN = 60;
const TIMED = 30;
const AT_ONCE = 4;
const QUEUE_MS = 3000;
const STAGES = ["view", "score", "fold", "guard", "publish"];
const reports = new Map();

/** Make the panel work. */
export function start() {
  const drift = chart(byId("drift"), line);
  const times = chart(byId("seconds"), bars);
  byId("seconds-legend").replaceChildren(
    ...STAGES.map((stage, index) => element("li", {}, element("span", { class: `swatch p${index}` }), stage)),
  );
  onChange((changed) => {
    if (changed.includes("namespace")) reports.clear();
    if (!changed.includes("versions") && !changed.includes("live")) return;
    const measured = known.versions.filter((version) => version.drift).slice(-SHOWN);
    drift(measured.map(({ version, drift: found }) => ({ name: version, value: found.kl, marked: version === known.live })));
    if (may("learn")) timed().then((columns) => {
      if (!columns) return;
      times(columns);
      byId("seconds-legend").hidden = !columns.length;
    });
  });
  queue();
}

/** Columns of the seconds that the newest versions took; null if others are asked for by now. */
async function timed() {
  const { versions } = known;
  const learned = versions.filter(({ job_id, documents }) => job_id && documents.length).slice(-TIMED);
  const missing = learned.filter(({ job_id }) => !reports.has(job_id));
  while (missing.length) {
    await Promise.all(missing.splice(0, AT_ONCE).map(async ({ job_id }) => {
      const job = await get(`learn/${job_id}`, {}, { quiet: true }).catch(() => null);
      if (job) reports.set(job_id, job.report?.seconds || null); // it goes when its document is taken back
    }));
    if (known.versions !== versions) return null;
  }
  return learned
    .filter(({ job_id }) => reports.get(job_id))
    .map(({ version, job_id }) => ({ name: version, parts: STAGES.map((stage) => reports.get(job_id)[stage] || 0) }));
}

/** What waits now, from the metrics; nothing where this key may not read them. */
async function queue() {
  if (!may("metrics")) byId("queue").hidden = true;
  else if (!document.hidden) {
    const found = await text("metrics", { quiet: true }).then(samples).catch(() => null);
    byId("queue").hidden = !found;
    if (found) byId("queue").replaceChildren(...tiles(found));
  }
  setTimeout(queue, unhurried(QUEUE_MS));
}

function tiles(found) {
  const here = { namespace: known.namespace };
  const depth = found.sum("infold_queue_depth", here);
  const shown = [
    ["Queue", depth, depth ? `the oldest for ${seconds(found.sum("infold_queue_oldest_age_seconds", here))}` : "nothing waits"],
    ["Given up", found.sum("infold_dead_letters", here), "dead letters"],
    ["Answering", found.sum("infold_num_requests_running"), `${found.sum("infold_num_requests_waiting")} wait`],
    ["First token", ...mean(found, "infold_time_to_first_token_seconds")],
  ];
  return shown.map(([term, value, meaning]) => element("div", {}, element("dt", {}, term), element("dd", {}, String(value)), element("dd", { class: "meaning" }, meaning)));
}

function mean(found, name) {
  const count = found.sum(`${name}_count`);
  return count ? [seconds(found.sum(`${name}_sum`) / count), `mean of ${count.toLocaleString("en")}`] : ["–", "nobody asked yet"];
}
