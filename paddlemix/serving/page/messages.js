// How questions and answers look. Texts of people and models are set as text, never as HTML.

import { announce, copyText, el, icon, iconButton, isEnter } from "./dom.js";
import { boxesAsJSON, color, parse, plainText } from "./grounding.js";
import { t } from "./i18n.js";
import { download } from "./images.js";
import { boxName, crop, drawnImage, picture } from "./overlay.js";

const PROBLEMS = new Set(["failed", "interrupted", "stopped", "length"]);

/**
 * The question of a turn.
 * @param {object[]} images of the conversation up to this turn.
 * @param {{edit: (text: string) => void, open: (image: object) => void}} actions
 */
export function questionView(question, images, actions) {
  const pictures = question.images.map((image) =>
    el(
      "button",
      {
        type: "button", class: "shown", "aria-label": t("image.open", { name: image.name }), title: image.name,
        on: { click: () => actions.open(image) },
      },
      el("img", { src: image.url, alt: "", width: image.width, height: image.height }),
    ),
  );
  const regions = question.regions.map((region) => regionChip(region, images[region.picture - 1], images.length > 1));
  const element = el("article", { class: "turn question", "aria-label": t("you") });
  const edit = iconButton("edit", t("edit"), () => element.replaceChildren(editor(question.text, actions.edit, show)));
  const copy = question.text ? iconButton("copy", t("copy"), copier(() => question.text)) : null;
  const show = () =>
    element.replaceChildren(
      ...(pictures.length ? [el("div", { class: "pictures" }, ...pictures)] : []),
      ...(regions.length ? [el("div", { class: "regions" }, ...regions)] : []),
      ...(question.text ? [el("p", { class: "bubble", text: question.text })] : []),
      el("div", { class: "actions" }, copy, edit),
    );
  show();
  return element;
}

/** A region that a question points at. */
export function regionChip({ label, box, picture: number }, image, several, remove = null) {
  const place = `(${box[0]}, ${box[1]}) – (${box[2]}, ${box[3]})`;
  const which = several ? ` · ${t("region.of", { number })}` : "";
  return el(
    "span",
    { class: "region-chip" },
    image ? crop(image, box) : icon("region"),
    el("span", {}, el("strong", { text: label || t("region") }), el("small", { text: place + which })),
    remove && iconButton("close", t("remove", { name: label || t("region") }), remove),
  );
}

/**
 * The answer of a turn; `update` shows it as it is now.
 * @param {object} answer of conversation.js; it may change.
 * @param {object[]} images of the conversation up to this turn; the boxes lie in the newest, unless told otherwise.
 * @param {object} actions retry, goOn, open(image), keep(): the answer has changed; `timings()`: whether to show them.
 */
export function answerView(answer, images, actions) {
  const body = el("p", { class: "text" });
  const notes = el("p", { class: "notes" });
  const figure = el("div", { class: "figure" });
  const which = el("div", { class: "which" });
  const timings = el("p", { class: "timings" });
  const buttons = el("div", { class: "actions" });
  const parts = [body, figure, which, notes, timings, buttons];
  const element = el("article", { class: "turn answer", "aria-label": t("model") }, ...parts);
  let overlay = null;
  let shown = null; // the image below it
  linkPhrases(element);

  const update = () => {
    const growing = answer.state === "streaming" || answer.state === "loading";
    const { pieces, boxes } = parse(answer.text, growing);
    element.setAttribute("aria-busy", String(growing));
    body.classList.toggle("waiting", growing && !answer.text);
    body.replaceChildren(...pieces.map((piece) => pieceView(piece, boxes)));
    const image = images[(answer.picture ?? images.length) - 1];
    if (boxes.length && image && image !== shown) {
      shown = image;
      overlay = picture(image, t("answer.image"));
      overlay.element.addEventListener("click", (event) => {
        if (!event.target.closest("[data-phrase]")) actions.open(image);
      });
      figure.replaceChildren(overlay.element);
    }
    overlay?.show(boxes);
    which.replaceChildren(...(growing || !boxes.length || images.length < 2 ? [] : images.map(choice)));
    notes.replaceChildren(...notesOf(answer));
    notes.classList.toggle("problem", answer.state === "failed");
    timings.textContent = actions.timings() ? timingsOf(answer) : "";
    buttons.replaceChildren(...(growing ? [] : answerButtons(answer, boxes, image, actions)));
  };
  const choice = (other, index) =>
    el(
      "button",
      {
        type: "button", class: "shown", "aria-label": t("boxes.image", { number: index + 1 }), title: other.name,
        "aria-pressed": String(other === shown),
        on: { click: () => ((answer.picture = index + 1), update(), which.children[index].focus(), actions.keep()) },
      },
      el("img", { src: other.url, alt: "" }),
    );
  update();
  return { element, update };
}

function pieceView({ text, phrase }, boxes) {
  if (phrase === null) return document.createTextNode(text);
  const number = boxes.findIndex((box) => box.phrase === phrase) + 1;
  const words = el("span", {
    class: "phrase", role: "button", tabindex: "0", text: text || boxName({ label: null }, number), data: { phrase },
  });
  words.style.setProperty("--c", color(phrase));
  return words;
}

/** Light up a phrase with its boxes, whichever of them is pointed at; a click or Enter keeps it so. */
function linkPhrases(element) {
  let kept = null;
  const light = (phrase) => {
    element.classList.toggle("lighting", phrase !== null);
    for (const part of element.querySelectorAll("[data-phrase]")) {
      part.classList.toggle("lit", part.dataset.phrase === phrase);
      if (part.hasAttribute("role")) part.setAttribute("aria-pressed", String(part.dataset.phrase === kept));
    }
  };
  const of = (event) => event.target.closest?.("[data-phrase]")?.dataset.phrase ?? null;
  const keep = (event) => {
    const phrase = of(event);
    kept = phrase === null || phrase === kept ? null : phrase;
    light(phrase ?? kept);
  };
  for (const name of ["pointerover", "focusin"]) element.addEventListener(name, (event) => light(of(event) ?? kept));
  for (const name of ["pointerleave", "focusout"]) element.addEventListener(name, () => light(kept));
  element.addEventListener("click", keep);
  element.addEventListener("keydown", (event) => {
    if ((event.key === "Enter" || event.key === " ") && of(event) !== null) {
      event.preventDefault();
      keep(event);
    }
  });
}

function answerButtons(answer, boxes, image, actions) {
  const buttons = [];
  if (answer.text) buttons.push(iconButton("copy", t("copy"), copier(() => plainText(answer.text))));
  buttons.push(iconButton("retry", t("retry"), actions.retry));
  if (answer.text && PROBLEMS.has(answer.state)) buttons.push(iconButton("forward", t("continue"), actions.goOn));
  if (boxes.length) buttons.push(iconButton("code", t("boxes.copy"), copier(() => boxesAsJSON(boxes))));
  if (boxes.length && image) {
    buttons.push(
      iconButton("download", t("boxes.download"), async () => download(await drawnImage(image, boxes), "boxes.png")),
    );
  }
  if (image) buttons.push(iconButton("region", t("region.draw"), () => actions.open(image)));
  return buttons;
}

function copier(text) {
  return async (event) => {
    const button = event.currentTarget;
    await copyText(text());
    announce(t("copied"));
    const name = button.title;
    button.classList.add("done");
    button.title = t("copied");
    button.setAttribute("aria-label", t("copied"));
    setTimeout(() => {
      button.classList.remove("done");
      button.title = name;
      button.setAttribute("aria-label", name);
    }, 1200);
  };
}

function editor(text, send, close) {
  const area = el("textarea", { "aria-label": t("edit"), rows: Math.min(8, text.split("\n").length + 1) });
  area.value = text;
  const form = el(
    "form",
    { class: "editor", on: { submit: (event) => (event.preventDefault(), send(area.value)) } },
    area,
    el(
      "div",
      { class: "dialog-foot" },
      el("button", { type: "button", class: "quiet", text: t("cancel"), on: { click: close } }),
      el("button", { type: "submit", class: "primary", text: t("edit.send") }),
    ),
  );
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    if (isEnter(event) && !event.shiftKey && event.target === area) {
      event.preventDefault();
      form.requestSubmit();
    }
  });
  queueMicrotask(() => area.focus());
  return form;
}

function notesOf(answer) {
  const texts = [];
  if (answer.dropped) texts.push(t("state.dropped", { count: answer.dropped }));
  if (answer.state === "failed") {
    const { reason, text } = answer.problem;
    texts.push(reason ? t(reason, answer.problem) : text);
  }
  if (answer.state === "loading") texts.push(t("state.loading"));
  if (PROBLEMS.has(answer.state) && answer.state !== "failed") texts.push(t(`state.${answer.state}`));
  return texts.map((text) => el("span", { text }));
}

function timingsOf({ usage, seconds }) {
  if (seconds === null) return "";
  const parts = [t("timing", { total: seconds.total.toFixed(1) })];
  if (seconds.first !== null) parts.push(t("timing.first", { first: seconds.first.toFixed(2) }));
  if (usage !== null) {
    const writing = seconds.total - (seconds.first ?? 0);
    parts.push(t("timing.tokens", { tokens: usage.completion_tokens }));
    if (usage.completion_tokens > 1 && writing > 0.02) {
      parts.push(t("timing.speed", { speed: ((usage.completion_tokens - 1) / writing).toFixed(0) }));
    }
    const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
    parts.push(t("timing.cached", { cached, prompt: usage.prompt_tokens }));
  }
  return parts.join(" · ");
}
