// Confirmation, in the page: what is about to happen, and a way back.

import { element } from "./dom.js";

/** Ask before doing something; title: what, action: the same in a word or two. Resolves to whether it shall be done. */
export function confirmed({ title, text, action }) {
  return new Promise((resolve) => {
    const form = element(
      "form",
      { method: "dialog" },
      element("h2", { id: "confirm-title" }, `${title}?`),
      element("p", { id: "confirm-text" }, text),
      element(
        "div",
        { class: "buttons" },
        element("button", { value: "", autofocus: true, "aria-label": `Cancel: ${title}` }, "Cancel"),
        element("button", { class: "primary", value: "confirmed", "aria-label": title }, action),
      ),
    );
    const shown = element("dialog", { "aria-labelledby": "confirm-title", "aria-describedby": "confirm-text" }, form);
    shown.addEventListener("close", () => {
      shown.remove();
      resolve(shown.returnValue === "confirmed");
    });
    document.body.append(shown);
    shown.showModal();
  });
}
