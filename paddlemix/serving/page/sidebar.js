// The list of conversations, export and import.

import { byId, el, iconButton } from "./dom.js";
import { t } from "./i18n.js";

const NARROW = matchMedia("(max-width: 860px)");

let actions = null;
let shown = "";

/**
 * Set the list up, once.
 * @param {object} given open(id), remove(id), create(), importFile(file), exportFile()
 */
export function prepareSidebar(given) {
  actions = given;
  byId("menu").addEventListener("click", () => show(!isOpen()));
  byId("backdrop").addEventListener("click", () => show(false));
  byId("sidebar").addEventListener("keydown", (event) => {
    if (event.key === "Escape" && NARROW.matches) show(false);
  });
  NARROW.addEventListener("change", () => show(!NARROW.matches));
  byId("new").addEventListener("click", () => (closeIfNarrow(), actions.create()));
  byId("export").addEventListener("click", () => actions.exportFile());
  byId("import").addEventListener("click", () => byId("import-file").click());
  byId("import-file").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (file) await actions.importFile(file);
    event.target.value = "";
    closeIfNarrow();
  });
  show(!NARROW.matches);
}

/** Show the conversations there are, the one on the page marked. */
export function showConversations(titles, openId, canExport) {
  byId("export").disabled = !canExport;
  const wanted = JSON.stringify([titles.map(({ id, title }) => [id, title]), openId, t("delete")]);
  if (wanted === shown) return; // what has the focus there keeps it
  shown = wanted;
  byId("conversations").replaceChildren(
    ...titles.map(({ id, title }) => {
      const name = title || t("untitled");
      return el(
        "li",
        {},
        el("button", {
          type: "button", class: "open", text: name, title: name, "aria-current": id === openId ? "true" : null,
          on: { click: () => (closeIfNarrow(), actions.open(id)) },
        }),
        iconButton("trash", t("delete", { title: name }), () => actions.remove(id)),
      );
    }),
  );
}

const isOpen = () => byId("sidebar").classList.contains("open");

function closeIfNarrow() {
  if (NARROW.matches) show(false);
}

function show(open) {
  const held = byId("sidebar").contains(document.activeElement);
  byId("sidebar").classList.toggle("open", open);
  byId("sidebar").inert = !open;
  byId("backdrop").hidden = !(open && NARROW.matches);
  byId("menu").setAttribute("aria-expanded", String(open));
  if (!open && held) byId("menu").focus();
}
