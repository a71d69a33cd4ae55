// Elements of the page. Texts are only ever set as text, and looks only by class: the page's policy allows no inline style.

const SVG = "http://www.w3.org/2000/svg";

/** The element of index.html with this id. */
export const byId = (id) => document.getElementById(id);

/** An element. Attributes that are functions listen ("click"), those that are false or null are left out, children that are too. */
export function element(name, attributes = {}, ...children) {
  return dress(document.createElement(name), attributes, children);
}

/** The same, within a picture. */
export function shape(name, attributes = {}, ...children) {
  return dress(document.createElementNS(SVG, name), attributes, children);
}

function dress(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(key, value);
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** Put children in place of what is there; the focus stays on what has the same `data-key`, or else on the container. */
export function replace(container, ...children) {
  const active = container.contains(document.activeElement) ? document.activeElement : null;
  const key = active?.dataset.key;
  container.replaceChildren(...children.flat().filter(Boolean));
  if (active && active !== container) {
    const same = key && container.querySelector(`[data-key="${CSS.escape(key)}"]`);
    (same || container).focus();
  }
}

/** Show a text in an element, or hide it when there is none. */
export function say(place, text) {
  place.hidden = !text;
  place.textContent = text || "";
}

/** Ctrl+Enter (or Cmd+Enter) in a text field sends its form. */
export function sendByKeyboard(form) {
  form.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
}
