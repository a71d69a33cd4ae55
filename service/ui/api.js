// The server's HTTP interface: calls, streams, and errors as the server words them.

import { askForKey, key } from "./key.js";

const FINAL = ["succeeded", "rejected", "failed", "cancelled"];
const RETRY_MS = 1500;
const SLOWEST = 20;
let slowed = { by: null, times: 1 };

/** The server answered with an error. */
export class Refused extends Error {
  constructor(status, { message, code } = {}, retryAfter = null) {
    super(message || `the server answered with status ${status}`);
    Object.assign(this, { status, code, retryAfter });
  }
}

/** The server does not answer. */
export class Away extends Error {
  constructor() {
    super("the server does not answer");
  }
}

/** Milliseconds between looks that nobody has asked for: more once this key's requests were used up, so that some are left to its owner. */
export const unhurried = (ms) => ms * (slowed.by === key() ? slowed.times : 1);

export const get = (path, query = {}, more = {}) => json("GET", path, { query, ...more });
export const post = (path, body) => json("POST", path, { body });
export const remove = (path, query) => json("DELETE", path, { query });

/** What GET answers, as text. */
export async function text(path, more = {}) {
  return (await call("GET", path, more)).text();
}

async function json(method, path, more) {
  return (await call(method, path, more)).json();
}

/** Server-sent events, as `{id, data}`. */
export async function* events(method, path, more = {}) {
  const answer = await call(method, path, more);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let rest = ""; ; ) {
      const { value, done } = await unlessAway(reader.read());
      if (done) return;
      const blocks = (rest + value).replaceAll("\r\n", "\n").split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const fields = Object.fromEntries(block.split("\n").map((line) => line.match(/^([^:]*):? ?(.*)$/).slice(1)));
        if (fields.data && fields.data !== "[DONE]") yield { id: fields.id, data: JSON.parse(fields.data) };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Follow a job to its end, through whatever happens to the connection. `onEvent` hears each event, and null when the server is away. */
export async function follow(jobId, onEvent, signal) {
  for (let last = "0"; ; ) {
    try {
      for await (const { id, data } of events("GET", `learn/${jobId}/events`, { headers: { "Last-Event-ID": last }, signal })) {
        last = id;
        onEvent(data);
      }
      const job = await get(`learn/${jobId}`, {}, { signal });
      if (FINAL.includes(job.status)) return job;
    } catch (error) {
      if (!(error instanceof Away) && error.status !== 503) throw error;
      onEvent(null);
    }
    await pause(RETRY_MS, signal);
  }
}

/** One call. Unless it is `quiet`, which nobody waits for: a key is asked for when one is needed, and what only reads is read again when
 *  the key has requests left again. */
async function call(method, path, { query = {}, body, headers = {}, signal, quiet = false } = {}) {
  const url = new URL(path, document.baseURI);
  url.search = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== null));
  const sent = { ...headers };
  if (body !== undefined) sent["content-type"] = "application/json";
  for (;;) {
    const used = key();
    if (used) sent.authorization = `Bearer ${used}`;
    const options = { method, headers: sent, signal, cache: "no-store", body: body && JSON.stringify(body) };
    const answer = await unlessAway(fetch(url, options));
    if (answer.ok) return answer;
    const error = await refusal(answer);
    if (error.status === 429) slowed = { by: used, times: Math.min(SLOWEST, unhurried(2)) };
    if (error.status === 429 && method === "GET" && !quiet) await pause(1000 * error.retryAfter, signal);
    else if (error.status !== 401 || quiet) throw error;
    else if (key() === used && !(await askForKey(error.message))) throw error;
  }
}

async function pause(ms, signal) {
  await new Promise((resolve) => setTimeout(resolve, ms));
  signal?.throwIfAborted();
}

async function refusal(answer) {
  const wait = Number.parseInt(answer.headers.get("retry-after"), 10);
  const body = await answer.json().catch(() => ({}));
  return new Refused(answer.status, body.error, Number.isNaN(wait) ? null : wait);
}

async function unlessAway(promise) {
  try {
    return await promise;
  } catch (error) {
    throw error.name === "AbortError" ? error : new Away();
  }
}

/** A segment of a path. */
export const segment = (name) => encodeURIComponent(name);
