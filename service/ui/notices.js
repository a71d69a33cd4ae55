// What the page says: news for those who listen to it, and what went wrong, in the words of the server.

import { Away, Refused } from "./api.js";
import { watch } from "./connection.js";
import { byId, say } from "./dom.js";
import { counted } from "./formats.js";

/** Say it to screen readers. */
export function announce(news) {
  byId("announcer").textContent = news;
}

/** Do something, and show in `place` what went wrong, if anything did. Returns what it gives, or undefined. */
export async function trying(place, action) {
  say(place, "");
  try {
    return await action();
  } catch (error) {
    if (error.name !== "AbortError") say(place, reason(error));
    if (error instanceof Away) watch();
    if (!(error instanceof Away || error instanceof Refused || error.name === "AbortError")) throw error;
  }
}

/** What went wrong, as a sentence. */
export function reason(error) {
  if (error instanceof Away) return "The server does not answer. Nothing was lost here: try again once the page is connected.";
  if (!(error instanceof Refused)) return `Something is wrong with this page: ${error.message}`;
  const sentence = error.message.charAt(0).toUpperCase() + error.message.slice(1);
  const said = /[.!?]$/.test(sentence) ? sentence : `${sentence}.`;
  if (error.status === 403) return `This key may not do that. ${said}`;
  return error.retryAfter === null ? said : `${said} Try again in ${counted(error.retryAfter, "second")}.`;
}
