// What the browser keeps: settings in localStorage, conversations in IndexedDB. Where it keeps nothing, they last as
// long as the page.

const SETTINGS = "paddlemix.settings";
const OPEN = "paddlemix.open";
const DATABASE = "paddlemix";
// "titles" has what the list shows, so that listing conversations does not load their images
const STORES = ["conversations", "titles"];

let database = null;
const memory = new Map();

/** Open the database. Returns whether the browser keeps conversations. */
export async function openStorage() {
  try {
    const opening = indexedDB.open(DATABASE, 1);
    opening.onupgradeneeded = () => STORES.forEach((name) => opening.result.createObjectStore(name, { keyPath: "id" }));
    database = await result(opening);
  } catch {
    database = null;
  }
  return database !== null;
}

/** Keep a conversation in place of what was kept under its id. Returns whether there was room for it. */
export async function saveConversation(conversation) {
  const { id, title, updated } = conversation;
  if (database === null) {
    memory.set(id, structuredClone(conversation));
    return true;
  }
  try {
    const transaction = database.transaction(STORES, "readwrite");
    transaction.objectStore("conversations").put(conversation);
    transaction.objectStore("titles").put({ id, title, updated });
    await finished(transaction);
    return true;
  } catch (error) {
    if (error?.name !== "QuotaExceededError") throw error;
    return false;
  }
}

/** A conversation by its id, or null. */
export async function loadConversation(id) {
  if (database === null) return structuredClone(memory.get(id) ?? null);
  return (await result(database.transaction(STORES).objectStore("conversations").get(id))) ?? null;
}

/** Forget a conversation. */
export async function deleteConversation(id) {
  if (database === null) {
    memory.delete(id);
    return;
  }
  const transaction = database.transaction(STORES, "readwrite");
  STORES.forEach((name) => transaction.objectStore(name).delete(id));
  await finished(transaction);
}

/** {id, title, updated} of all, the newest first. */
export async function listConversations() {
  const all =
    database === null
      ? [...memory.values()].map(({ id, title, updated }) => ({ id, title, updated }))
      : await result(database.transaction(STORES).objectStore("titles").getAll());
  return all.sort((a, b) => b.updated - a.updated);
}

/** The settings that were kept, unchecked. */
export function readSettings() {
  try {
    return JSON.parse(localStorage.getItem(SETTINGS) ?? "{}");
  } catch {
    return {};
  }
}

/** Keep the settings. */
export function writeSettings(settings) {
  try {
    localStorage.setItem(SETTINGS, JSON.stringify(settings));
  } catch {
    // they last as long as the page
  }
}

/** The id of the conversation that this tab shows, over a reload; null for none. */
export const openId = () => sessionStorage.getItem(OPEN);

/** Remember which conversation this tab shows. */
export const setOpenId = (id) => sessionStorage.setItem(OPEN, id);

function result(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

function finished(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onerror = transaction.onabort = () => reject(transaction.error);
  });
}
