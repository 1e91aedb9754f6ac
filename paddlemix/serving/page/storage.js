// What the browser keeps: settings in localStorage, conversations in IndexedDB. Where it keeps nothing, they last as
// long as the page.

const SETTINGS = "paddlemix.settings";
const OPEN = "paddlemix.open";
const DATABASE = "paddlemix";
// "titles" has what the list shows, "images" the data URLs of images by [conversation, image]
const STORES = { conversations: { keyPath: "id" }, titles: { keyPath: "id" }, images: {} };

let database = null;
const memory = new Map();
const written = new Set(); // ids of images that are in the database

/** Open the database. Returns whether the browser keeps conversations. */
export async function openStorage() {
  try {
    const opening = indexedDB.open(DATABASE, 1);
    opening.onupgradeneeded = () => {
      for (const [name, options] of Object.entries(STORES)) opening.result.createObjectStore(name, options);
    };
    database = await result(opening);
  } catch {
    database = null;
  }
  return database !== null;
}

/**
 * Keep a conversation in place of what was kept under its id. Of its images only those are written that are new: this
 * happens again and again while an answer grows.
 * @returns {Promise<boolean>} whether there was room for it.
 */
export async function saveConversation(conversation) {
  const { id, title, updated } = conversation;
  if (database === null) {
    memory.set(id, structuredClone(conversation));
    return true;
  }
  const images = imagesOf(conversation).filter((image) => !written.has(image.id));
  try {
    const transaction = database.transaction(Object.keys(STORES), "readwrite");
    transaction.objectStore("conversations").put(withImages(conversation, ({ url, ...rest }) => rest));
    transaction.objectStore("titles").put({ id, title, updated });
    for (const image of images) transaction.objectStore("images").put(image.url, [id, image.id]);
    await finished(transaction);
  } catch (error) {
    if (error?.name !== "QuotaExceededError") throw error;
    return false;
  }
  for (const image of images) written.add(image.id);
  return true;
}

/** A conversation by its id, or null. */
export async function loadConversation(id) {
  if (database === null) return structuredClone(memory.get(id) ?? null);
  const transaction = database.transaction(Object.keys(STORES));
  const conversation = await result(transaction.objectStore("conversations").get(id));
  if (conversation === undefined) return null;
  const keys = imagesOf(conversation).map((image) => image.id);
  const urls = await Promise.all(keys.map((key) => result(transaction.objectStore("images").get([id, key]))));
  const found = new Map(keys.map((key, place) => [key, urls[place]]));
  return withImages(conversation, (image) => ({ ...image, url: found.get(image.id) }));
}

/** Forget a conversation. */
export async function deleteConversation(id) {
  if (database === null) {
    memory.delete(id);
    return;
  }
  const transaction = database.transaction(Object.keys(STORES), "readwrite");
  transaction.objectStore("conversations").delete(id);
  transaction.objectStore("titles").delete(id);
  transaction.objectStore("images").delete(IDBKeyRange.bound([id], [id, []])); // all that begin with it
  await finished(transaction);
}

/** {id, title, updated} of all, the newest first. */
export async function listConversations() {
  const all =
    database === null
      ? [...memory.values()].map(({ id, title, updated }) => ({ id, title, updated }))
      : await result(database.transaction(Object.keys(STORES)).objectStore("titles").getAll());
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

const imagesOf = (conversation) => conversation.turns.flatMap(({ question }) => question.images);

/** A copy with other images. */
function withImages(conversation, change) {
  const turns = conversation.turns.map(({ question, answer }) => ({
    question: { ...question, images: question.images.map(change) },
    answer,
  }));
  return { ...conversation, turns };
}

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
