// A large view of an image, on which a region can be drawn to ask about.

import { byId, closable, el, isEnter } from "./dom.js";
import { t } from "./i18n.js";
import { picture } from "./overlay.js";

const STEP = 20; // thousandths that an arrow key moves
const LEAST = 5; // a smaller drag is a click
const START = [350, 350, 650, 650];

let asked = null; // {image, use}
let region = null; // [x1, y1, x2, y2] in thousandths
let anchor = null; // where a drag began
let marker = null;

/** Set the dialog up, once. */
export function prepareViewer() {
  const dialog = byId("viewer");
  closable(dialog);
  dialog.addEventListener("close", () => byId("stage").replaceChildren());
  byId("region-use").addEventListener("click", useRegion);
  byId("region-name").addEventListener("keydown", (event) => {
    if (isEnter(event) && region) {
      event.preventDefault(); // the question, which is next, is not to get a line
      useRegion();
    }
  });
}

/**
 * Show an image.
 * @param {object} image
 * @param {string} help what to say about regions.
 * @param {(region: {label: string|null, box: number[]}) => void} use told of a region to ask about.
 */
export function openViewer(image, help, use) {
  asked = { image, use };
  region = anchor = null;
  byId("viewer-title").textContent = t("region.title", image);
  byId("viewer-help").textContent = help;
  byId("region-name").value = "";
  byId("region-coordinates").textContent = "";
  byId("region-use").disabled = true;
  const { element } = picture(image, "");
  marker = el("div", { class: "marker", hidden: true });
  element.append(marker);
  element.tabIndex = 0;
  element.classList.add("drawable");
  element.setAttribute("role", "group");
  element.setAttribute("aria-label", t("region.stage"));
  element.setAttribute("aria-describedby", "viewer-help");
  element.style.setProperty("--ratio", image.width / image.height);
  element.addEventListener("pointerdown", begin);
  element.addEventListener("pointermove", drag);
  element.addEventListener("pointerup", end);
  element.addEventListener("pointercancel", end);
  element.addEventListener("keydown", byKey);
  byId("stage").replaceChildren(element);
  byId("viewer").showModal();
  element.focus();
}

function useRegion() {
  byId("viewer").close();
  asked.use({ label: byId("region-name").value.trim() || null, box: region });
}

function begin(event) {
  if (event.button !== 0) return;
  event.preventDefault();
  event.currentTarget.focus();
  event.currentTarget.setPointerCapture(event.pointerId);
  anchor = place(event);
}

function drag(event) {
  if (anchor === null) return;
  const point = place(event);
  const box = [0, 1].map((axis) => [anchor[axis], point[axis]].sort((a, b) => a - b));
  if (box.every(([low, high]) => high - low >= LEAST)) choose([box[0][0], box[1][0], box[0][1], box[1][1]]);
}

function end() {
  anchor = null;
}

/** Where a pointer is, in thousandths of the image. */
function place(event) {
  const { left, top, width, height } = event.currentTarget.getBoundingClientRect();
  const shares = [(event.clientX - left) / width, (event.clientY - top) / height];
  return shares.map((share) => inside(Math.round(share * 1000)));
}

function byKey(event) {
  const moves = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
  if (event.key === "Enter") {
    event.preventDefault();
    if (region) byId("region-use").focus();
    else choose(START);
  } else if (event.key in moves && region) {
    event.preventDefault();
    const [x, y] = moves[event.key];
    const [x1, y1, x2, y2] = region;
    if (event.shiftKey) choose([x1, y1, Math.max(x1 + LEAST, inside(x2 + x)), Math.max(y1 + LEAST, inside(y2 + y))]);
    else {
      const moved = [x1 + x, y1 + y, x2 + x, y2 + y];
      if (moved.every((number) => inside(number) === number)) choose(moved);
    }
  }
}

function choose(box) {
  region = box.map(inside);
  const [x1, y1, x2, y2] = region;
  marker.hidden = false;
  Object.assign(marker.style, {
    left: `${x1 / 10}%`, top: `${y1 / 10}%`, width: `${(x2 - x1) / 10}%`, height: `${(y2 - y1) / 10}%`,
  });
  byId("region-coordinates").textContent = `(${x1}, ${y1}) – (${x2}, ${y2})`;
  byId("region-use").disabled = false;
}

const inside = (number) => Math.min(Math.max(number, 0), 1000);
