// English and Chinese: the browser's language until the switch is used.

import { TEXTS } from "./texts.js";

let current = "en";

/** The language that the browser's user reads, of those there are. */
export function browserLanguage() {
  const wanted = (navigator.languages ?? [navigator.language]).map((tag) => tag.slice(0, 2).toLowerCase());
  return wanted.find((tag) => tag in TEXTS) ?? "en";
}

/** The language of the page: "en" or "zh". */
export const language = () => current;

/** A text with its values put in. */
export function t(key, values = {}) {
  return TEXTS[current][key].replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

/** Speak a language: everything in index.html that has a text of texts.js. */
export function setLanguage(language) {
  current = language in TEXTS ? language : "en";
  document.documentElement.lang = current === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of document.querySelectorAll("[data-t-label]")) {
    element.setAttribute("aria-label", t(element.dataset.tLabel));
    if (element.tagName === "BUTTON") element.title = t(element.dataset.tLabel);
  }
  for (const element of document.querySelectorAll("[data-t-placeholder]")) {
    element.placeholder = t(element.dataset.tPlaceholder);
  }
}
