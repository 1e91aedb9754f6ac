// Runs before the first paint, so that a chosen theme or language does not flash.
(() => {
  try {
    const { theme, language } = JSON.parse(localStorage.getItem("paddlemix.settings") ?? "{}");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
    if (language === "zh") document.documentElement.lang = "zh-CN";
  } catch {
    // no storage, or something else in it: the browser's own theme and language
  }
})();
