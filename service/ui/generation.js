// An answer as it is written.

import { events, Refused } from "./api.js";

/** Stream an answer: `onText` hears all of the text each time there is more of it. Resolves to the whole answer with its numbers. */
export async function generate(body, onText, signal) {
  let text = "";
  for await (const { data } of events("POST", "generate", { body: { ...body, stream: true }, signal })) {
    if (data.error) throw new Refused(500, data.error);
    text += data.text;
    onText(text);
    if (data.finish_reason !== undefined) return { ...data, text };
  }
  throw new Refused(500, { message: "the answer was cut off" });
}
