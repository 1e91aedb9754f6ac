// Getting one answer from the server: waiting while the model is loaded, reading the stream, saying what went wrong.

import { APIError, chat, serverState } from "./api.js";
import { requestMessages } from "./conversation.js";

const WAIT_MS = 1000;

/**
 * Ask for the answer of a turn, which grows in place.
 * @param {object} conversation
 * @param {number} index of the turn; its answer is new, or one that goes on.
 * @param {object} fields of the request: the model and what the settings say.
 * @param {AbortSignal} signal stops it.
 * @param {() => void} changed told whenever the answer has changed.
 * @returns {Promise<"key"|null>} "key" where the server wants another key; the answer says what else went wrong.
 */
export async function answerTurn(conversation, index, fields, signal, changed) {
  const { answer } = conversation.turns[index];
  const goOn = answer.text !== "";
  const { messages, leftOut } = requestMessages(conversation, index, goOn);
  const body = {
    ...fields,
    messages,
    truncation: "auto",
    ...(goOn ? { continue_final_message: true } : {}),
  };
  const clock = { start: performance.now(), first: null };
  Object.assign(answer, { state: "streaming", problem: null, usage: null, seconds: null, dropped: leftOut });
  try {
    for await (const chunk of patientChat(body, answer, signal, changed)) {
      take(chunk, answer, leftOut, clock);
      changed();
    }
    if (answer.state === "streaming") answer.state = "done";
  } catch (error) {
    if (signal.aborted) answer.state = "stopped";
    else if (!(error instanceof APIError)) throw error;
    else {
      answer.state = "failed";
      answer.problem = problemOf(error);
      if (error.status === 401) return "key";
    }
  } finally {
    const since = (time) => (time - clock.start) / 1000;
    answer.seconds = { total: since(performance.now()), first: clock.first === null ? null : since(clock.first) };
    changed();
  }
  return null;
}

/** A chat that waits while the model is loaded. */
async function* patientChat(body, answer, signal, changed) {
  for (;;) {
    try {
      yield* chat(body, signal);
      return;
    } catch (error) {
      if (error.code !== "not_ready" || (await serverState()) === "failed") throw error;
    }
    answer.state = "loading";
    changed();
    while ((await serverState()) === "loading") await pause(WAIT_MS, signal);
    signal.throwIfAborted();
    answer.state = "streaming";
  }
}

function take(chunk, answer, leftOut, clock) {
  if (chunk.usage) answer.usage = chunk.usage;
  answer.dropped = leftOut + (chunk.dropped_turns ?? 0);
  for (const { delta, finish_reason: reason } of chunk.choices ?? []) {
    if (delta?.content) {
      clock.first ??= performance.now();
      answer.text += delta.content;
    }
    if (reason === "length") answer.state = "length";
  }
}

function problemOf({ status, code, message, retryAfter }) {
  if (status === 401) return { reason: "error.key" };
  if (status === 429) return { reason: "error.busy", seconds: retryAfter ?? 1 };
  if (status === 0) return { reason: code === "cut" ? "error.cut" : "error.network" };
  return { text: message };
}

/** Wait; rejects when `signal` says so. */
function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}
