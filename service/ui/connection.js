// The connection: what the server says of itself every few seconds, and what the page says while there is no answer.

import { Away, get, unhurried } from "./api.js";
import { byId, element } from "./dom.js";
import { askForKey, key } from "./key.js";
import { change, known, may, refresh } from "./store.js";

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
  byId("change-key").hidden = !key() || current === "key";
  timer = setTimeout(watch, current === "away" || current === "loading" ? AWAY_MS : unhurried(CONNECTED_MS));
}

byId("change-key").addEventListener("click", () => enterKey("Another key takes the place of the one in use."));
document.addEventListener("visibilitychange", () => document.hidden || watch());

/** Read what is served. Returns the state, and a word on it; null: as before, as far as this key may ask now. */
async function look() {
  try {
    if (current !== "connected" || !may("generate")) await enter();
    if (!known.namespaces.length) return ["refused", "This server serves none of the namespaces that this key is bound to."];
    if (may("generate")) await read();
    return ["connected"];
  } catch (error) {
    if (error instanceof Away) return ["away"];
    if (error.status === 401) return ["key", error.message];
    if (error.status === 503) return ["loading", error.message];
    return error.status === 429 && current === "connected" ? null : ["refused", error.message];
  }
}

/** Read what this key may do, and where. */
async function enter() {
  const { scopes, namespaces } = await get("access", {}, { quiet: true });
  const namespace = namespaces.includes(known.namespace) ? known.namespace : (namespaces[0] ?? null);
  const others = `${scopes} ${namespaces}` !== `${known.scopes} ${known.namespaces}`;
  change(others ? { scopes, namespaces, namespace, live: null, versions: [] } : { namespace });
  if (current !== "connected") change({ forms: (await get("version", {}, { quiet: true })).forms });
}

/** Read what answers in the namespace, and all versions if that is another one now. */
async function read() {
  const { data } = await get("v1/models", {}, { quiet: true });
  const served = data.find((model) => model.namespace === known.namespace);
  if (!served) return;
  change({ model: served.root, context: served.max_model_len });
  if (current !== "connected" || served.weight_version !== known.live) await refresh({ quiet: true });
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
    current = "connecting";
    watch();
  }
}
