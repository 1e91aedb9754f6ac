// Elements built from data. Text is only ever set as text: nothing here, or anywhere on the page, parses HTML.

const SVG = "http://www.w3.org/2000/svg";

/** The element of this page with an id. */
export const byId = (id) => document.getElementById(id);

/**
 * A new element.
 * @param {string} tag
 * @param {object} options `on`: listeners by event; `data`: data attributes; `text`: its text; the rest: attributes,
 *   where `true` is an empty one and `null`, `undefined` and `false` are left out.
 * @param {...(Node|string|null)} children
 */
export function el(tag, options = {}, ...children) {
  return build(document.createElement(tag), options, children);
}

/** A new element of SVG; arguments as of `el`. */
export function svg(tag, options = {}, ...children) {
  return build(document.createElementNS(SVG, tag), options, children);
}

/** One of the icons at the head of index.html. */
export function icon(name) {
  return svg("svg", { class: "icon", "aria-hidden": "true" }, svg("use", { href: `#icon-${name}` }));
}

/** A button that is an icon with a name. */
export function iconButton(name, label, onClick, options = {}) {
  return el(
    "button",
    { type: "button", class: "tool", "aria-label": label, title: label, on: { click: onClick }, ...options },
    icon(name),
  );
}

/** Show a message in an element of role status or alert. */
export function say(element, text) {
  element.textContent = text;
  element.hidden = !text;
}

function build(element, { on = {}, data = {}, text, ...attributes }, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  for (const [name, listener] of Object.entries(on)) element.addEventListener(name, listener);
  for (const [name, value] of Object.entries(data)) element.dataset[name] = value;
  if (text !== undefined) element.textContent = text;
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Tell those who listen to the page. */
export function announce(text) {
  byId("announcer").textContent = text;
}

/** Whether a key is an Enter that is meant as one, and does not end the writing of a Chinese word. */
export function isEnter(event) {
  return event.key === "Enter" && !event.isComposing && event.keyCode !== 229; // as Safari tells it
}

/** Put a text on the clipboard; also where browsers keep their newer way to https. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el("textarea", { class: "unseen", readonly: true });
    area.value = text;
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

/** Close a dialog with its own button, or by a click beside it. */
export function closable(dialog) {
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}
