// A conversation as data: what is sent to the server, and the file that `paddlemix chat --load` reads and writes.
//
// {id, title, updated, system: text or null, turns: [{question, answer}]}
// question: {images: [{id, url, width, height, name, from}], regions: [{picture, label, box}], text}
// answer:   {text, picture, state, problem, usage, seconds, dropped}; state: streaming, loading, done, stopped, length,
//           interrupted or failed; problem, where it failed: {text}, or {reason: a text of texts.js, and its values}
// `picture` counts the images of the whole conversation from 1; that of an answer, where its boxes are shown, is null
// as long as it is the newest.

const FORMAT = "paddlemix chat 1";
const DEFAULT_SYSTEM = "You are a helpful assistant.";
const PICTURE = /^Picture (\d{1,6}): $/;
const TITLE_LENGTH = 60;
// what a server takes by default, in messages and images
const MOST_TURNS = 99;
const MOST_IMAGES = 16;

/** What is wrong with a file; `reason` is a text of texts.js. */
export class FileProblem extends Error {
  constructor(reason, values = {}) {
    super(reason);
    this.reason = reason;
    this.values = values;
  }
}

/** A name that nothing else has. */
export function randomId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A conversation without turns; `system`: its system text, or null. */
export function newConversation(system = null) {
  return { id: randomId(), title: "", updated: Date.now(), system, turns: [] };
}

/** An answer that is being waited for. */
export const newAnswer = () => ({
  text: "", picture: null, state: "streaming", problem: null, usage: null, seconds: null, dropped: 0,
});

/** All images up to a turn, that turn's included. */
export function imagesUntil(conversation, index) {
  return conversation.turns.slice(0, index + 1).flatMap((turn) => turn.question.images);
}

/** What a conversation is called in the list: its first question; "" where it has none. */
export function titleOf(conversation) {
  const text = conversation.turns.map((turn) => turn.question.text.trim()).find((words) => words) ?? "";
  const line = text.replace(/\s+/g, " ");
  return line.length > TITLE_LENGTH ? `${line.slice(0, TITLE_LENGTH - 1)}…` : line;
}

/**
 * What a request for the answer of a turn says.
 * @param {boolean} goOn the answer that the turn has goes on.
 * @returns {{messages: object[], leftOut: number}} `leftOut`: the oldest turns, beyond what a server takes.
 */
export function requestMessages(conversation, index, goOn = false) {
  const turns = sentTurns(conversation.turns.slice(0, index + 1));
  const counts = turns.map(({ question }) => question.images.length);
  let first = turns.length - 1;
  let images = counts[first];
  while (first > 0 && turns.length - first < MOST_TURNS && images + counts[first - 1] <= MOST_IMAGES) {
    images += counts[--first];
  }
  return { messages: messagesOf(turns, first, conversation.system, goOn), leftOut: first };
}

/** A conversation as a file. A question without an answer at its end is left out. */
export function toFile(conversation) {
  const last = conversation.turns.findLastIndex((turn) => turn.answer.text);
  const turns = last < 0 ? [] : sentTurns(conversation.turns.slice(0, last + 1));
  const messages = messagesOf(turns, 0, conversation.system ?? DEFAULT_SYSTEM, true);
  const content = messages.map(({ role, content }) => ({
    role,
    content: typeof content === "string" ? [{ type: "text", text: content }] : content.map(filePart),
  }));
  return JSON.stringify({ format: FORMAT, messages: content }, null, 2);
}

/**
 * A conversation out of a file.
 * @param {string} text
 * @param {(url: string) => Promise<{width: number, height: number}>} measure opens an image; rejects where it is none.
 */
export async function fromFile(text, measure) {
  const messages = readMessages(text);
  const conversation = newConversation();
  conversation.system = messages[0].content.map((part) => part.text ?? "").join("");
  if (conversation.system === DEFAULT_SYSTEM) conversation.system = null;
  let seen = 0;
  for (let place = 1; place < messages.length; place += 2) {
    const question = await readQuestion(messages[place].content, seen, measure);
    seen += question.images.length;
    const answer = { ...newAnswer(), state: "done" };
    answer.text = messages[place + 1].content.map((part) => part.text ?? "").join("");
    conversation.turns.push({ question, answer });
  }
  return conversation;
}

/** The last turn and those that were answered; images of the others go with the next question. */
function sentTurns(turns) {
  const sent = [];
  let carried = [];
  for (const [place, { question, answer }] of turns.entries()) {
    const images = [...carried, ...question.images];
    if (place < turns.length - 1 && !answer.text) {
      carried = images;
      continue;
    }
    sent.push({ question: { ...question, images }, answer });
    carried = [];
  }
  return sent;
}

function messagesOf(turns, first, system, goOn) {
  const messages = system ? [{ role: "system", content: system }] : [];
  const before = turns.slice(0, first).reduce((count, { question }) => count + question.images.length, 0);
  let seen = 0;
  turns.slice(first).forEach(({ question, answer }, place) => {
    seen += question.images.length;
    messages.push({ role: "user", content: parts(question, seen, before) });
    if (place < turns.length - first - 1 || goOn) messages.push({ role: "assistant", content: answer.text });
  });
  return messages;
}

function parts(question, seen, before) {
  const images = question.images.map(({ url }) => ({ type: "image_url", image_url: { url } }));
  const regions = question.regions.flatMap(({ picture, label, box }) => [
    // with one image it is clear which is meant
    ...(seen > 1 && picture > before ? [{ type: "text", text: `Picture ${picture - before}: ` }] : []),
    { type: "box", label, box },
  ]);
  const text = question.text ? [{ type: "text", text: question.text }] : [];
  const all = [...images, ...regions, ...text];
  return all.length ? all : [{ type: "text", text: "" }]; // an edited question may be empty
}

const filePart = (part) => (part.type === "image_url" ? { type: "image", image: part.image_url.url } : part);

function readMessages(text) {
  let content;
  try {
    content = JSON.parse(text);
  } catch {
    throw new FileProblem("import.not_json");
  }
  if (content?.format !== FORMAT || !Array.isArray(content.messages)) {
    throw new FileProblem("import.not_chat", { format: FORMAT });
  }
  const messages = content.messages.map((message) => ({
    role: message?.role,
    content: (Array.isArray(message?.content) ? message.content : [message?.content]).map(readPart),
  }));
  const inTurn = messages.every(({ role }, place) => role === roleAt(place)) && messages.length % 2 === 1;
  const fitting = messages.every(({ role, content }) => role === "user" || content.every((part) => "text" in part));
  if (!inTurn || !fitting) throw new FileProblem("import.turns");
  return messages;
}

const roleAt = (place) => (place === 0 ? "system" : place % 2 === 1 ? "user" : "assistant");

/** A part as {text}, {image: data URL} or {label, box}. */
function readPart(part) {
  if (typeof part === "string") return { text: part };
  if (part?.type === "text" && typeof part.text === "string") return { text: part.text };
  if (part?.type === "box" && isBox(part.box)) {
    return { label: typeof part.label === "string" ? part.label : null, box: part.box };
  }
  const image = { image: part?.image, image_url: part?.image_url?.url ?? part?.image_url }[part?.type];
  if (typeof image !== "string") throw new FileProblem("import.turns");
  if (!/^data:image\//i.test(image)) throw new FileProblem("import.images");
  return { image };
}

function isBox(box) {
  const inside = (number) => Number.isInteger(number) && number >= 0 && number <= 1000;
  return Array.isArray(box) && box.length === 4 && box.every(inside) && box[0] <= box[2] && box[1] <= box[3];
}

async function readQuestion(content, seen, measure) {
  const images = [];
  const regions = [];
  let text = "";
  for (const [place, part] of content.entries()) {
    if ("image" in part) {
      const name = `${seen + images.length + 1}`;
      try {
        images.push({ id: randomId(), url: part.image, name, from: null, ...(await measure(part.image)) });
      } catch {
        throw new FileProblem("import.image");
      }
    } else if ("box" in part) {
      const named = PICTURE.exec(content[place - 1]?.text ?? "");
      const shown = seen + images.length;
      regions.push({ picture: named ? Math.min(Number(named[1]), shown) : shown, label: part.label, box: part.box });
    } else if (!(PICTURE.test(part.text) && "box" in (content[place + 1] ?? {}))) {
      text += part.text;
    }
  }
  return { images, regions, text };
}
