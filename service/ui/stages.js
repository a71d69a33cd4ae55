// The stages of a job, as they come.

import { element } from "./dom.js";
import { seconds } from "./formats.js";

const STAGES = [
  ["queued", "Queued", "waits its turn"],
  ["view", "View", "writes questions and answers"],
  ["score", "Weigh", "weighs the tokens"],
  ["fold", "Fold", "folds them into the weights"],
  ["guard", "Guard", "is measured before it may answer"],
  ["live", "Live", "answers"],
];
const TICK_MS = 100;

/** Shows the progress of one job in `place`. */
export class Stages {
  constructor(place) {
    this.items = new Map(STAGES.map(([name, label]) => [name, element("li", {}, label)]));
    this.word = element("p", { role: "status" });
    this.clock = element("span", { class: "clock", "aria-hidden": "true" });
    this.started = performance.now();
    place.replaceChildren(
      element("ol", { class: "stages", "aria-label": "Stages" }, [...this.items.values()]),
      element("div", { class: "stage-line" }, this.word, this.clock),
    );
    place.hidden = false;
    this.timer = setInterval(() => (this.clock.textContent = seconds(this.seconds)), TICK_MS);
  }

  get seconds() {
    return (performance.now() - this.started) / 1000;
  }

  /** An event of the job; null: the connection is lost for now. */
  hear(event) {
    if (event === null) this.word.textContent = "Not connected; the job goes on, and so will this page.";
    else if (event.status === "queued") this.reach("queued");
    else if (event.stage) this.reach(event.stage);
  }

  reach(name) {
    const at = STAGES.findIndex(([stage]) => stage === name);
    STAGES.forEach(([stage], index) => {
      const item = this.items.get(stage);
      item.className = index < at ? "done" : index === at ? "current" : "";
      if (index === at) item.setAttribute("aria-current", "step");
      else item.removeAttribute("aria-current");
    });
    const [, label, meaning] = STAGES[at] || ["", name, ""];
    this.word.textContent = meaning ? `${label}: ${meaning}` : label;
  }

  /** The job has ended. */
  end(live) {
    clearInterval(this.timer);
    if (live) this.reach("live");
    for (const item of this.items.values()) {
      if (item.className === "current") item.className = live ? "done" : "stopped";
      item.removeAttribute("aria-current");
    }
    this.word.textContent = "";
  }
}
