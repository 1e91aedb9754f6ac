// Images on their way into a message: decoded, turned upright and scaled down in the browser.

import { randomId } from "./conversation.js";

/** The longest side of an image that is sent; models see it smaller still. */
export const MAX_SIDE = 1344;
const MAX_MIB = 64;
const JPEG_QUALITY = 0.95;
const KEPT_BYTES = 2 << 20;

/** Why a file did not become an image; `reason` is a text of texts.js. */
export class ImageProblem extends Error {
  constructor(reason, values) {
    super(reason);
    this.reason = reason;
    this.values = values;
  }
}

/**
 * A file as an image to send: {id, url: data URL, width, height, name, from: size before scaling, or null}.
 *
 * All but small PNGs are encoded anew: so the model sees them upright as the browser shows them, and what cameras write
 * into photos, such as the place, stays here.
 */
export async function readImage(blob, name) {
  if (blob.size > MAX_MIB << 20) throw new ImageProblem("image.large", { name, mib: MAX_MIB });
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    throw new ImageProblem("image.problem", { name });
  }
  const { width, height } = bitmap;
  const scale = Math.min(1, MAX_SIDE / Math.max(width, height));
  if (scale === 1 && (await isPlainPNG(blob))) {
    bitmap.close();
    return { id: randomId(), url: await dataURL(blob), width, height, name, from: null };
  }
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "white"; // behind what is transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const url = canvas.toDataURL("image/jpeg", JPEG_QUALITY);
  const from = scale < 1 ? { width, height } : null;
  return { id: randomId(), url, width: canvas.width, height: canvas.height, name, from };
}

/** {width, height} of a data URL's image; rejects where it is none. */
export async function measure(url) {
  const image = new Image();
  image.src = url;
  await image.decode();
  return { width: image.naturalWidth, height: image.naturalHeight };
}

/** The image files of a paste, a drop or a choice. */
export function imageFiles(transfer) {
  return [...(transfer?.files ?? [])].filter((file) => file.type.startsWith("image/"));
}

/** Hand a file to the person who uses the browser. */
export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Whether a file is a small PNG without metadata that would turn it. */
async function isPlainPNG(blob) {
  if (blob.type !== "image/png" || blob.size > KEPT_BYTES) return false;
  const head = new TextDecoder("latin1").decode(await blob.slice(0, 1 << 16).arrayBuffer());
  return !head.includes("eXIf");
}

function dataURL(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
