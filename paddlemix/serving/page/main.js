// The page: puts its parts together.

import { APIError, models, serverState, setKey } from "./api.js";
import { openCamera, prepareCamera } from "./camera.js";
import {
  adopt, ask, currentConversation, isBusy, openConversation, prepareChat, remove, render, reopen, setSystem, stop,
} from "./chat.js";
import { addFiles, addRegion, focusQuestion, prepareComposer, showBusy, showTray } from "./composer.js";
import { FileProblem, fromFile, titleOf, toFile } from "./conversation.js";
import { announce, byId, closable, say } from "./dom.js";
import { t } from "./i18n.js";
import { download, measure, readImage } from "./images.js";
import { modelName, prepareSettings, setModels } from "./settings.js";
import { prepareSidebar, showConversations } from "./sidebar.js";
import { listConversations, openStorage } from "./storage.js";
import { openViewer, prepareViewer } from "./viewer.js";
import { BUNDLED_MODEL, sampleFile, showWelcome } from "./welcome.js";

const CHECK_MS = 2000;

let keepsData = true;
let hasRoom = true;
let state = "loading"; // as api.js has it, or "key" where the server wants one
let asking = null; // for a key: whether one was found

async function start() {
  keepsData = await openStorage();
  prepareChat({
    changed: showAround,
    kept: (whole) => (hasRoom = whole),
    openImage,
    askKey: () => askKey(t("error.key")),
  });
  prepareSettings({
    changed: () => (showTray(), render()),
    system: () => currentConversation().system,
    setSystem,
  });
  prepareComposer({ submit: ask, open: openImage, stop, camera: openCamera, busy: isBusy });
  prepareCamera((file) => addFiles([file]));
  prepareViewer();
  prepareSidebar({
    open: openConversation,
    create: () => openConversation(null).then(() => focusQuestion()),
    remove: (id) => confirmed(t("clear.confirm"), () => remove(id)),
    importFile,
    exportFile,
  });
  closable(byId("key-dialog"));
  byId("clear").addEventListener("click", () =>
    confirmed(t("clear.confirm"), () => remove(currentConversation().id)),
  );
  await reopen();
  // not where that brings up a keyboard over the page
  if (matchMedia("(hover: hover)").matches) focusQuestion();
  await connect();
}

/** Everything that is shown around the conversation. */
async function showAround() {
  showBusy(isBusy());
  showStatus();
  say(byId("storage-note"), !keepsData ? t("storage.none") : hasRoom ? "" : t("storage.full"));
  const empty = currentConversation().turns.length === 0;
  byId("clear").disabled = empty;
  showWelcome(empty, modelName(), askAboutSample);
  document.title = [currentConversation().title, "paddlemix"].filter(Boolean).join(" · ");
  showConversations(await listConversations(), currentConversation().id, !empty);
}

/** Watch the server, and learn which models it has whenever it is there again. */
async function connect() {
  let learned = false;
  let asked = false; // for a key, once; after that the next question does
  for (;;) {
    state = await serverState();
    if (state === "offline") learned = false;
    else if (!learned) {
      const problem = asked && modelName() === null ? "key" : await learnModels();
      learned = problem === null;
      state = problem ?? state;
    }
    showStatus();
    if (state === "key" && !asked) {
      asked = true;
      await askKey("");
      continue;
    }
    await new Promise((resolve) => setTimeout(resolve, state === "ready" ? 5 * CHECK_MS : CHECK_MS));
  }
}

/** Returns "key" where the server wants another key, "offline" where it does not answer, else null. */
async function learnModels() {
  try {
    setModels((await models()).map(({ id }) => id));
  } catch (error) {
    if (!(error instanceof APIError)) throw error;
    return error.status === 401 ? "key" : "offline";
  }
  await showAround();
  return null;
}

function showStatus() {
  byId("status").dataset.state = state;
  byId("status-text").textContent = t(`status.${state}`, { model: modelName() ?? "" });
}

function openImage(image) {
  const help = t("region.help") + (modelName() === BUNDLED_MODEL ? ` ${t("region.bundled")}` : "");
  openViewer(image, help, (region) => addRegion(image, region));
}

async function askAboutSample(text) {
  const file = await sampleFile();
  await ask({ text, images: [await readImage(file, file.name)], regions: [] });
}

/** Ask for a key until the server takes one, or none is given. Returns whether it took one. */
function askKey(problem) {
  asking ??= askUntilTaken(problem).finally(() => (asking = null));
  return asking;
}

async function askUntilTaken(problem) {
  for (let told = problem; ; told = t("error.key")) {
    const key = await keyFromPerson(told);
    if (key === null) return false;
    setKey(key);
    if ((await learnModels()) !== "key") return true;
    setKey(null);
  }
}

function keyFromPerson(problem) {
  const dialog = byId("key-dialog");
  say(byId("key-problem"), problem);
  byId("key").value = "";
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "use" ? byId("key").value.trim() : null), {
      once: true,
    });
  });
}

function confirmed(question, action) {
  const dialog = byId("confirm-dialog");
  byId("confirm-text").textContent = question;
  dialog.returnValue = "";
  dialog.showModal();
  dialog.addEventListener("close", () => dialog.returnValue === "yes" && action(), { once: true });
}

function exportFile() {
  const name = currentConversation().title.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 40) || "conversation";
  download(new Blob([toFile(currentConversation())], { type: "application/json" }), `${name}.json`);
}

async function importFile(file) {
  try {
    const conversation = await fromFile(await file.text(), measure);
    conversation.title = titleOf(conversation);
    await adopt(conversation);
  } catch (error) {
    if (!(error instanceof FileProblem)) throw error;
    const problem = t("import.problem", { name: file.name, reason: t(error.reason, error.values) });
    say(byId("storage-note"), problem);
    announce(problem);
  }
}

start();
