// The tags of an answer: <ref>the bus</ref><box>(178,279),(806,884)</box>, in thousandths of the image's sides.
//
// The server names the boxes of an answer only with its last piece, and not which words they belong to. Here they are
// wanted while the answer is written, beside their words, and in conversations that come out of a file. The rules are
// those of paddlemix/models/qwen_vl/grounding.py (`parse` and `strip`); a test holds the two together.

const TAGGED =
  /<ref>([^<]*(?:<(?!\/?(?:ref|box|quad)>)[^<]*)*)<\/ref>|<(box|quad)>([^<]*)(<\/\2>|(?:<(?:\/[a-z]*)?)?$)/g;
const LONE_TAG = /<\/?(?:ref|box|quad)>/g;
const PLACE = /^[\d０-９\s(),.（），-]*$/;
const NUMBER = /-?[\d０-９]+(?:\.[\d０-９]+)?/g;
const WORD = /[\p{L}\p{N}_]/u;
const BEGUN_TAG = /<(?:\/?(?:r|re|ref|b|bo|box|q|qu|qua|quad)?)?$/;
const POINTS = { box: 2, quad: 4 };

/** Colors of boxes, one for each phrase; those of the images that the program draws. */
export const PALETTE = [
  "#ff5252", "#40a9ff", "#3ddc84", "#ffa726", "#c77dff", "#ffe14d", "#2ee6e6", "#ff7ac6", "#b5e550", "#d9a066",
];

/** The color of a phrase. */
export const color = (phrase) => PALETTE[phrase % PALETTE.length];

/**
 * An answer taken apart.
 * @param {string} text with its tags.
 * @param {boolean} growing more of it is to come: what may yet become a tag is held back.
 * @returns {{pieces: object[], boxes: object[]}} the text without tags as {text, phrase: number or null}, and the boxes
 *   as {label: text or null, box: [x1, y1, x2, y2], phrase}; `phrase` counts the phrases that have boxes, and ties both
 *   together. A box without a label has a piece with an empty text, where it stands.
 */
export function parse(text, growing = false) {
  const shown = growing ? text.replace(BEGUN_TAG, "") : text;
  const pieces = [];
  const boxes = [];
  let label = null; // {text, piece} of the latest <ref>
  let phrases = 0;
  let done = 0;
  const plain = (part) => {
    const rest = part.replace(LONE_TAG, "");
    if (rest) pieces.push({ text: rest, phrase: null });
  };
  for (const match of shown.matchAll(TAGGED)) {
    const between = shown.slice(done, match.index);
    if (WORD.test(between)) label = null;
    plain(between);
    done = match.index + match[0].length;
    const [, reference, kind, place, end] = match;
    if (reference !== undefined) {
      const words = reference.trim();
      const piece = { text: reference, phrase: null };
      if (reference) pieces.push(piece);
      label = words ? { text: words, piece } : null;
      continue;
    }
    // without its end tag the last number may have been cut short, unless its bracket is closed
    const complete = end.endsWith(">") || /[)）]$/.test(place.trimEnd());
    const box = complete ? corners(place, POINTS[kind]) : null;
    if (box === null) {
      // what does not look like a place is text, where it was not closed
      if (!end.endsWith(">") && !PLACE.test(place)) plain(place + end);
      continue;
    }
    let piece = label?.piece;
    if (piece === undefined) {
      piece = { text: "", phrase: null };
      pieces.push(piece);
    }
    if (piece.phrase === null) piece.phrase = phrases++;
    boxes.push({ label: label?.text ?? null, box, phrase: piece.phrase });
  }
  plain(shown.slice(done));
  return { pieces, boxes };
}

/** The boxes as the server's `message.grounding` has them. */
export function boxesAsJSON(boxes) {
  return JSON.stringify(boxes.map(({ label, box }) => ({ label, box })));
}

/** The text alone. */
export const plainText = (text) => parse(text).pieces.map((piece) => piece.text).join("").trim();

function corners(place, points) {
  const numbers = place.match(NUMBER) ?? [];
  if (numbers.length !== 2 * points || !PLACE.test(place)) return null;
  const values = numbers.map((number) => roundHalfEven(Math.min(Math.max(Number(ascii(number)), 0), 1000)));
  const xs = values.filter((_, index) => index % 2 === 0);
  const ys = values.filter((_, index) => index % 2 === 1);
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

const ascii = (digits) => digits.replace(/[０-９]/g, (digit) => String.fromCharCode(digit.charCodeAt(0) - 0xfee0));

/** As Python rounds: halves to the even neighbor. */
function roundHalfEven(value) {
  const floor = Math.floor(value);
  return value - floor === 0.5 ? floor + (floor % 2) : Math.round(value);
}
