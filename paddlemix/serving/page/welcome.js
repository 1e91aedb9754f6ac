// What stands on the page before the first question.

import { byId, el, say } from "./dom.js";
import { t } from "./i18n.js";

/** The name under which the small model that comes with the program is served. */
export const BUNDLED_MODEL = "paddlemix/qwen-vl-scenes";
const SAMPLE = "page/demo.png";
const EXAMPLES = ["example.1", "example.2", "example.3"];

/** Show or hide it; `ask` is told which question to ask about the sample image. */
export function showWelcome(visible, model, ask) {
  const place = byId("welcome");
  place.hidden = !visible;
  if (!visible) return;
  const buttons = EXAMPLES.map((key) =>
    el("button", { type: "button", class: "example", text: t(key), on: { click: () => ask(t(key)) } }),
  );
  const note = el("p", { class: "note" });
  say(note, model === BUNDLED_MODEL ? t("welcome.bundled") : "");
  place.replaceChildren(
    el("h2", { text: t("welcome.title") }),
    el("p", { class: "lead", text: t("welcome.text") }),
    el(
      "div",
      { class: "sample" },
      el("img", { src: SAMPLE, alt: t("welcome.image"), width: 672, height: 672 }),
      el("div", {}, el("h3", { text: t("welcome.try") }), el("div", { class: "examples" }, ...buttons)),
    ),
    note,
  );
}

/** The sample image as a file. */
export async function sampleFile() {
  const response = await fetch(SAMPLE);
  return new File([await response.blob()], "demo.png", { type: "image/png" });
}
