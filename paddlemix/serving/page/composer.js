// Where a question is written: text, images, regions.

import { announce, byId, el, iconButton, isEnter, say } from "./dom.js";
import { t } from "./i18n.js";
import { ImageProblem, imageFiles, readImage } from "./images.js";
import { regionChip } from "./messages.js";

const MOST_IMAGES = 16;

let images = [];
let regions = []; // {image, label, box}
let actions = null;

/**
 * Set the composer up, once.
 * @param {object} given submit({text, images, regions}), open(image), stop(), camera(); `busy()`: whether an answer is
 *   being written.
 */
export function prepareComposer(given) {
  actions = given;
  const area = byId("question");
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  area.addEventListener("keydown", (event) => {
    if (isEnter(event) && !event.shiftKey) {
      event.preventDefault();
      submit();
    }
  });
  area.addEventListener("input", grow);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && actions.busy() && !document.querySelector("dialog[open]")) actions.stop();
  });
  byId("stop").addEventListener("click", () => actions.stop());
  byId("attach").addEventListener("click", () => byId("files").click());
  byId("camera").addEventListener("click", () => actions.camera());
  byId("files").addEventListener("change", async (event) => {
    await addFiles([...event.target.files]);
    event.target.value = "";
  });
  document.addEventListener("paste", (event) => {
    const files = imageFiles(event.clipboardData);
    if (files.length && !document.querySelector("dialog[open]")) {
      event.preventDefault();
      addFiles(files);
    }
  });
  prepareDrop();
}

/** Go on with writing the question. */
export function focusQuestion() {
  const area = byId("question");
  area.focus();
  // a closed dialog may have left the focus here, but the caret elsewhere
  area.setSelectionRange(area.value.length, area.value.length);
}

/** Put files beside the question, as images; says which are none. */
export async function addFiles(files) {
  const problems = [];
  for (const file of files) {
    try {
      if (images.length >= MOST_IMAGES) throw new ImageProblem("image.many", { most: MOST_IMAGES });
      images.push(await readImage(file, file.name));
    } catch (error) {
      if (!(error instanceof ImageProblem)) throw error;
      problems.push(t(error.reason, error.values));
    }
  }
  showTray([...new Set(problems)].join(" "));
  focusQuestion();
}

/** Point at a part of an image with the next question. */
export function addRegion(image, { label, box }) {
  regions.push({ image, label, box });
  showTray();
  focusQuestion();
}

/** Show whether an answer is being written: then there is a stop in place of the send. */
export function showBusy(busy) {
  const held = document.activeElement === byId(busy ? "send" : "stop");
  byId("send").hidden = busy;
  byId("stop").hidden = !busy;
  if (held) focusQuestion();
}

/** Empty the composer. */
export function clearComposer() {
  images = [];
  regions = [];
  byId("question").value = "";
  grow();
  showTray();
}

/** Show the composer's changing parts again, in another language. */
export const showTray = (problem = "") => {
  const items = images.map((image, index) => el("li", { class: "thumb" },
    el("button", {
      type: "button", class: "shown", title: image.name, "aria-label": t("image.open", { name: image.name }),
      on: { click: () => actions.open(image) },
    }, el("img", { src: image.url, alt: "" })),
    iconButton("close", t("remove", { name: image.name }), () => removeImage(index)),
  ));
  const chips = regions.map((region, index) =>
    el("li", {}, regionChip(region, region.image, false, () => {
      regions.splice(index, 1);
      showTray();
    })),
  );
  byId("tray").replaceChildren(...items, ...chips);
  byId("tray").hidden = !items.length && !chips.length;
  const scaled = images.filter((image) => image.from !== null).map(
    ({ name, from, width, height }) => `${name} ${from.width} × ${from.height} → ${width} × ${height}`,
  );
  const scaling = scaled.length ? t("scaled", { list: scaled.join(", ") }) : "";
  const note = [problem, scaling].filter(Boolean).join(" ");
  say(byId("tray-note"), note);
  if (note) announce(note);
};

function submit() {
  const text = byId("question").value.trim();
  if (actions.busy() || (!text && !images.length && !regions.length)) return;
  const question = { text, images, regions };
  clearComposer();
  actions.submit(question);
}

function removeImage(index) {
  const [gone] = images.splice(index, 1);
  regions = regions.filter(({ image }) => image !== gone);
  showTray();
  focusQuestion();
}

/** The text area is as high as its text, up to a limit of style.css. */
function grow() {
  const area = byId("question");
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight}px`;
}

function prepareDrop() {
  const cover = byId("drop");
  const holdsFiles = (event) => event.dataTransfer?.types.includes("Files") && !document.querySelector("dialog[open]");
  document.addEventListener("dragenter", (event) => {
    if (holdsFiles(event)) cover.hidden = false;
  });
  document.addEventListener("dragover", (event) => {
    if (holdsFiles(event)) event.preventDefault();
  });
  document.addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) cover.hidden = true;
  });
  document.addEventListener("drop", (event) => {
    cover.hidden = true;
    if (!holdsFiles(event)) return;
    event.preventDefault(); // also for other files: the browser would leave the page for them
    addFiles([...event.dataTransfer.files]);
  });
}
