// The conversation on the page: asking, stopping, answering again, editing; and keeping it in the browser.

import { answerTurn } from "./answering.js";
import { imagesUntil, newAnswer, newConversation, titleOf } from "./conversation.js";
import { announce, byId } from "./dom.js";
import { plainText } from "./grounding.js";
import { t } from "./i18n.js";
import { answerView, questionView } from "./messages.js";
import { currentSettings, modelName, requestFields } from "./settings.js";
import { deleteConversation, loadConversation, openId, saveConversation, setOpenId } from "./storage.js";

const SAVE_MS = 500;
const NEAR_END = 120; // pixels: whoever is that near the end looks at it

let conversation = null;
let views = []; // of the answers
let running = null; // AbortController
let actions = null;
const gone = new WeakSet(); // conversations that were deleted, perhaps while an answer was written

/**
 * Say what the conversation needs of the page, once.
 * @param {object} given changed(): something that is shown around it; kept(whether the browser had room for it);
 *   openImage(image); askKey(): a promise of whether there is a key that the server takes.
 */
export function prepareChat(given) {
  actions = given;
}

/** The conversation as it is. */
export const currentConversation = () => conversation;

/** Give the conversation another system text, or null. */
export function setSystem(text) {
  conversation.system = text;
}

/** Whether an answer is being written. */
export const isBusy = () => running !== null;

/** Ask a question: {text, images, regions: [{image, label, box}]}. */
export async function ask({ text, images, regions }) {
  if (isBusy()) return;
  const all = [...imagesUntil(conversation, conversation.turns.length), ...images];
  const numbered = regions.map(({ image, label, box }) => ({ picture: all.indexOf(image) + 1, label, box }));
  const question = { text, images, regions: numbered.filter(({ picture }) => picture > 0) };
  conversation.turns.push({ question, answer: newAnswer() });
  render();
  await answer(conversation.turns.length - 1);
}

/** End the answer that is being written. */
export function stop() {
  running?.abort();
}

/** Show another conversation; null: a new one. */
export async function openConversation(id) {
  stop();
  conversation = (id === null ? null : await loadConversation(id)) ?? newConversation(currentSettings().system || null);
  for (const { answer } of conversation.turns) {
    // whatever wrote it is gone
    if (answer.state === "streaming" || answer.state === "loading") answer.state = "interrupted";
  }
  setOpenId(conversation.id);
  render();
  byId("scroll").scrollTop = conversation.turns.length ? byId("scroll").scrollHeight : 0;
}

/** Show the conversation that this tab showed before it was loaded again. */
export const reopen = () => openConversation(openId());

/** Show a conversation that came from elsewhere, and keep it. */
export async function adopt(other) {
  stop();
  conversation = other;
  await keep(conversation);
  setOpenId(conversation.id);
  render();
}

/** Delete a conversation; where it is the one on the page, a new one takes its place. */
export async function remove(id) {
  if (id === conversation.id) {
    gone.add(conversation);
    await openConversation(null);
  }
  await deleteConversation(id);
  actions.changed();
}

/** Show everything anew: another conversation, or another language. */
export function render() {
  views = [];
  byId("log").replaceChildren();
  conversation.turns.forEach(showTurn);
  actions.changed();
}

function showTurn(turn, index) {
  const shown = conversation;
  const images = imagesUntil(conversation, index);
  const question = questionView(turn.question, images, {
    edit: (text) => edit(index, text),
    open: actions.openImage,
  });
  const view = answerView(turn.answer, images, {
    retry: () => again(index),
    goOn: () => answer(index),
    open: actions.openImage,
    keep: () => keep(shown),
    timings: () => currentSettings().timings,
  });
  views[index] = view;
  byId("log").append(question, view.element);
}

async function again(index) {
  if (isBusy()) return;
  conversation.turns.length = index + 1;
  conversation.turns[index].answer = newAnswer();
  render();
  await answer(index);
}

async function edit(index, text) {
  const { question } = conversation.turns[index];
  if (isBusy() || !(text.trim() || question.images.length || question.regions.length)) return;
  question.text = text.trim();
  await again(index);
}

/** Get the answer of a turn, or what is missing of it. */
async function answer(index) {
  if (isBusy()) return;
  const asked = conversation;
  const controller = new AbortController();
  running = controller;
  asked.turns[index].answer.state = "streaming";
  byId("log").dataset.busy = "";
  asked.title = titleOf(asked);
  setOpenId(asked.id);
  actions.changed();
  announce(t("state.streaming"));
  // the view may be another by then: in another language
  const refresh = (always = false) => asked === conversation && show(views[index], always);
  refresh(true);
  const saver = setInterval(() => keep(asked), SAVE_MS);
  const draw = onceAFrame(refresh);
  let wanted = null;
  try {
    await keep(asked);
    actions.changed(); // now the list has it
    const fields = { model: modelName() ?? "", ...requestFields() };
    wanted = await answerTurn(asked, index, fields, controller.signal, draw);
  } finally {
    clearInterval(saver);
    running = null;
    delete byId("log").dataset.busy;
    refresh();
    asked.updated = Date.now();
    await keep(asked);
    actions.changed();
  }
  announce(plainText(asked.turns[index]?.answer.text ?? ""));
  if (wanted === "key" && (await actions.askKey()) && asked === conversation) await again(index);
}

async function keep(which) {
  if (!gone.has(which)) actions.kept(await saveConversation(which));
}

/** Show an answer as it is now; whoever looks at the end of the conversation goes on doing so. */
function show(view, always = false) {
  const scroll = byId("scroll");
  const atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < NEAR_END;
  view.update();
  if (atEnd || always) scroll.scrollTop = scroll.scrollHeight;
}

/** A function that runs another at most once a frame. */
function onceAFrame(work) {
  let asked = false;
  return () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => {
      asked = false;
      work();
    });
  };
}
