// Settings and the dialog for them, the theme and the language.

import { byId, closable, el } from "./dom.js";
import { browserLanguage, language, setLanguage, t } from "./i18n.js";
import { readSettings, writeSettings } from "./storage.js";

const DEFAULTS = {
  theme: "auto", language: null, timings: true, model: null, system: "", temperature: null, length: null, seed: null,
  lookup: null,
};
const NUMBERS = ["temperature", "length", "seed", "lookup"];
const THEMES = ["auto", "light", "dark"];

let settings = { ...DEFAULTS };
let models = [];
let actions = null;

/**
 * Read the settings and set their dialog up, once.
 * @param {object} given changed(): told of every change; system(): the system text of the conversation on the page, or
 *   null; setSystem(text or null).
 */
export function prepareSettings(given) {
  actions = given;
  settings = checked(readSettings());
  const dialog = byId("settings-dialog");
  closable(dialog);
  byId("settings").addEventListener("click", openDialog);
  byId("settings-form").addEventListener("submit", takeForm);
  byId("settings-reset").addEventListener("click", () => fillForm({ ...DEFAULTS, model: models[0] ?? null }));
  byId("language").addEventListener("click", () => change({ language: language() === "zh" ? "en" : "zh" }));
  byId("theme").addEventListener("click", () => {
    change({ theme: THEMES[(THEMES.indexOf(settings.theme) + 1) % THEMES.length] });
  });
  apply();
}

/** The settings as they are. */
export const currentSettings = () => settings;

/** The name of the model that is asked; null while there is none. */
export const modelName = () => (models.includes(settings.model) ? settings.model : (models[0] ?? null));

/** The models there are, by their names. */
export function setModels(names) {
  models = names;
}

/** The fields of a request that the settings say. */
export function requestFields() {
  const { temperature, length, seed, lookup } = settings;
  const fields = { temperature, max_tokens: length, seed, prompt_lookup_num_tokens: lookup };
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== null));
}

function change(some) {
  settings = checked({ ...settings, ...some });
  writeSettings(settings);
  apply();
  actions.changed();
}

function apply() {
  const { theme } = settings;
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  setLanguage(settings.language ?? browserLanguage());
  byId("language").textContent = t("language");
  for (const [id, text] of [["language", t("language.label")], ["theme", t(`theme.${theme}`)]]) {
    byId(id).title = text;
    byId(id).setAttribute("aria-label", text);
  }
}

function openDialog() {
  byId("set-model").replaceChildren(...models.map((name) => el("option", { value: name, text: name })));
  fillForm({ ...settings, model: modelName(), system: actions.system() ?? "" });
  byId("settings-dialog").showModal();
}

function fillForm(values) {
  byId("set-model").value = values.model;
  byId("set-system").value = values.system;
  byId("set-timings").checked = values.timings;
  for (const name of NUMBERS) byId(`set-${name}`).value = values[name] ?? "";
}

function takeForm() {
  const numbers = NUMBERS.map((name) => {
    const { value } = byId(`set-${name}`);
    return [name, value === "" ? null : Number(value)];
  });
  const system = byId("set-system").value.trim();
  actions.setSystem(system || null);
  change({
    model: byId("set-model").value || null,
    system, // new conversations begin with it, too
    timings: byId("set-timings").checked,
    ...Object.fromEntries(numbers),
  });
}

/** Settings that can be used, whatever the browser's storage holds. */
function checked(given) {
  const result = { ...DEFAULTS };
  for (const [name, standard] of Object.entries(DEFAULTS)) {
    const value = given?.[name];
    const fits = NUMBERS.includes(name) ? Number.isFinite(value) : typeof value === typeof (standard ?? "");
    if (fits) result[name] = value;
  }
  if (!THEMES.includes(result.theme)) result.theme = DEFAULTS.theme;
  return result;
}
