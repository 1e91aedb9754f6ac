// Boxes over an image, as SVG; and the image with its boxes as a file.

import { el, svg } from "./dom.js";
import { color } from "./grounding.js";
import { t } from "./i18n.js";

const SIDE = 1000; // coordinates are thousandths of the image's width and height
const TAG_HEIGHT = 26; // pixels; higher up there is no room for one above its box

/**
 * An image with boxes over it.
 * @param {{url: string, width: number, height: number}} image
 * @param {string} description for those who do not see it.
 * @returns {{element: HTMLElement, show: (boxes: object[]) => void}} `show` takes the boxes of `parse`.
 */
export function picture(image, description) {
  const layer = svg("svg", { class: "boxes", viewBox: `0 0 ${SIDE} ${SIDE}`, preserveAspectRatio: "none" });
  const tags = el("div", { class: "tags", "aria-hidden": "true" });
  const element = el(
    "div",
    { class: "picture" },
    el("img", { src: image.url, alt: description, width: image.width, height: image.height, draggable: "false" }),
    layer,
    tags,
  );
  let shown = 0;
  const show = (boxes) => {
    if (boxes.length < shown) {
      layer.replaceChildren();
      tags.replaceChildren();
      shown = 0;
    }
    for (const box of boxes.slice(shown)) {
      layer.append(rectangle(box, ++shown));
      tags.append(tag(box, shown));
    }
  };
  return { element, show };
}

/** The name of a box for people: its label, or its number. */
export const boxName = ({ label }, number) => label ?? t("boxes.number", { number });

/** A part of an image, as a small canvas. */
export function crop(image, [x1, y1, x2, y2]) {
  const canvas = el("canvas", { class: "crop", width: 72, height: 72, "aria-hidden": "true" });
  const source = new Image();
  source.onload = () => {
    const [width, height] = [source.naturalWidth / SIDE, source.naturalHeight / SIDE];
    const side = Math.max(1, Math.max((x2 - x1) * width, (y2 - y1) * height));
    const [left, top] = [((x1 + x2) / 2) * width - side / 2, ((y1 + y2) / 2) * height - side / 2];
    canvas.getContext("2d").drawImage(source, left, top, side, side, 0, 0, canvas.width, canvas.height);
  };
  source.src = image.url;
  return canvas;
}

/** The image with its boxes drawn in, as a PNG. */
export async function drawnImage(image, boxes) {
  const source = new Image();
  source.src = image.url;
  await source.decode();
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [source.naturalWidth, source.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(source, 0, 0);
  const size = Math.max(12, Math.round(Math.max(canvas.width, canvas.height) / 42));
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  context.lineJoin = "round";
  boxes.forEach((box, index) => drawBox(context, box, boxName(box, index + 1), size));
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

function rectangle({ label, box, phrase }, number) {
  const [x1, y1, x2, y2] = box;
  const place = { x: x1, y: y1, width: Math.max(1, x2 - x1), height: Math.max(1, y2 - y1) };
  const name = t("boxes.label", { label: boxName({ label }, number), box: box.join(", ") });
  const group = svg(
    "g",
    { class: "box", role: "button", tabindex: "0", "aria-label": name, data: { phrase } },
    svg("rect", { class: "under", ...place }),
    svg("rect", { class: "line", ...place }),
  );
  group.style.setProperty("--c", color(phrase));
  return group;
}

function tag({ label, box, phrase }, number) {
  const [x1, y1, x2] = box;
  const element = el("span", { class: "tag", text: boxName({ label }, number), data: { phrase } });
  element.style.setProperty("--c", color(phrase));
  // at the box's left end, or where that leaves little room, at its right one
  if (x1 <= SIDE / 2) element.style.left = `${x1 / 10}%`;
  else element.style.right = `${(SIDE - x2) / 10}%`;
  element.style.top = `max(${y1 / 10}%, ${TAG_HEIGHT}px)`;
  return element;
}

function drawBox(context, { box, phrase }, name, size) {
  const { width, height } = context.canvas;
  const [x1, y1, x2, y2] = [box[0] * width, box[1] * height, box[2] * width, box[3] * height].map((n) => n / SIDE);
  for (const [style, line] of [["rgba(0, 0, 0, 0.5)", size / 3.5], [color(phrase), size / 6]]) {
    context.strokeStyle = style;
    context.lineWidth = line;
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
  }
  const words = context.measureText(name).width + size;
  const left = Math.max(0, Math.min(x1, width - words));
  const top = Math.max(0, y1 - 1.5 * size);
  context.fillStyle = "rgba(18, 20, 24, 0.85)";
  context.fillRect(left, top, words, 1.5 * size);
  context.fillStyle = color(phrase);
  context.fillText(name, left + size / 2, top + 0.8 * size, words);
}
