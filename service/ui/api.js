// The server's HTTP interface: calls, streams, and errors as the server words them.

import { askForKey, key } from "./key.js";

const FINAL = ["succeeded", "rejected", "failed", "cancelled"];
const RETRY_MS = 1500;

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
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

/** One call. A key is asked for when one is needed, unless the call is `quiet`: nobody waits for it. */
async function call(method, path, { query = {}, body, headers = {}, signal, quiet = false } = {}) {
  const url = new URL(path, document.baseURI);
  url.search = new URLSearchParams(query);
  const sent = { ...headers };
  if (body !== undefined) sent["content-type"] = "application/json";
  for (;;) {
    const used = key();
    if (used) sent.authorization = `Bearer ${used}`;
    const options = { method, headers: sent, signal, cache: "no-store", body: body && JSON.stringify(body) };
    const answer = await unlessAway(fetch(url, options));
    if (answer.ok) return answer;
    const error = await refusal(answer);
    if (error.status !== 401 || quiet) throw error;
    if (key() === used && !(await askForKey(error.message))) throw error;
  }
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
