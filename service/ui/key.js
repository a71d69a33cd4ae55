// The API key: asked for when the server wants one, kept until the tab is closed.

import { byId, element } from "./dom.js";

const NAME = "infold-key";
const SENDABLE = { pattern: "\\s*[!-~]+\\s*", title: "Letters, digits and signs of ASCII, without spaces" };
let asking = null;

/** The key, or null. */
export const key = () => sessionStorage.getItem(NAME);

/** Ask for a key, once for all that need one. Resolves to whether one was given. */
export function askForKey(reason) {
  asking ??= dialog(reason).finally(() => (asking = null));
  return asking;
}

function dialog(reason) {
  return new Promise((resolve) => {
    const field = element("input", { id: "key", type: "password", autocomplete: "off", required: true, spellcheck: "false", ...SENDABLE });
    const form = element(
      "form",
      {
        method: "dialog",
        submit: () => sessionStorage.setItem(NAME, field.value.trim()),
      },
      element("h2", { id: "key-title" }, "This server wants an API key"),
      element("p", {}, reason),
      element("label", { for: "key" }, "API key"),
      field,
      element("p", { class: "hint" }, "It stays in this tab, and is forgotten when you close it."),
      element(
        "div",
        { class: "buttons" },
        element("button", { type: "button", click: () => shown.close("") }, "Not now"),
        element("button", { class: "primary", value: "given" }, "Use this key"),
      ),
    );
    const shown = element("dialog", { "aria-labelledby": "key-title" }, form);
    shown.addEventListener("close", () => {
      shown.remove();
      resolve(shown.returnValue === "given");
    });
    document.body.append(shown);
    shown.showModal();
    byId("key").focus();
  });
}
