// The connection: what the server says of itself every few seconds, and what the page says while there is no answer.

import { Away, get } from "./api.js";
import { byId, element } from "./dom.js";
import { askForKey } from "./key.js";
import { change, known, refresh } from "./store.js";

const CONNECTED_MS = 3000;
const AWAY_MS = 1000;
const BANNERS = {
  away: "Not connected: the server does not answer. This page keeps trying, and goes on by itself.",
  loading: "The server is starting: its model is being loaded.",
};
let timer = null;
let turn = 0;
let asked = false;
let current = "connecting";

/** Look now, and from then on. */
export async function watch() {
  const mine = ++turn;
  clearTimeout(timer);
  const seen = document.hidden ? null : await look();
  if (mine !== turn) return; // another has begun meanwhile
  if (seen) show(...seen);
  timer = setTimeout(watch, current === "connected" ? CONNECTED_MS : AWAY_MS);
}

document.addEventListener("visibilitychange", () => document.hidden || watch());

/** Read what is served. Returns the state, and a word on it. */
async function look() {
  try {
    const { data } = await get("v1/models", {}, { quiet: true });
    const names = data.map((model) => model.namespace);
    const namespace = names.includes(known.namespace) ? known.namespace : names[0];
    const served = data.find((model) => model.namespace === namespace);
    if (current !== "connected") change({ forms: (await get("version", {}, { quiet: true })).forms });
    const moved = current !== "connected" || served.weight_version !== known.live || namespace !== known.namespace;
    change({ model: served.root, context: served.max_model_len, namespace });
    if (names.join() !== known.namespaces.join()) change({ namespaces: names });
    if (moved) await refresh({ quiet: true });
    return ["connected"];
  } catch (error) {
    if (error instanceof Away) return ["away"];
    if (error.status === 401) return ["key", error.message];
    if (error.status === 503) return ["loading", error.message];
    return ["refused", error.message];
  }
}

function show(state, message = "") {
  const place = byId("connection");
  if (state !== current || state === "refused") {
    place.dataset.state = current = state;
    place.textContent = { away: "not connected", loading: "starting", key: "key needed", refused: "refused" }[state] || state;
    banner(state, message);
  }
  if (state === "key" && !asked) {
    asked = true;
    enterKey(message);
  }
}

function banner(state, message) {
  const place = byId("banner");
  place.hidden = state === "connected";
  const button = state === "key" && element("button", { type: "button", click: () => enterKey(message) }, "Enter a key");
  place.replaceChildren(...[element("span", {}, BANNERS[state] || message), button].filter(Boolean));
}

async function enterKey(message) {
  if (await askForKey(message)) {
    asked = false;
    watch();
  }
}
