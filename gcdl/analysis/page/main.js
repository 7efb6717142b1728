"use strict";
// Puts the parts together: which run is shown below the curves, light or dark, and the width of the window.

(() => {
  const chosen = () => Number(element("run").value);

  function stored(name, value) {
    try {
      if (value !== undefined) localStorage.setItem(name, value);
      return localStorage.getItem(name);
    } catch { return null; } // a page opened from a file may not store anything
  }

  function setTheme(name) {
    document.documentElement.dataset.theme = name;
    for (const key of document.querySelectorAll("[data-run]")) key.style.background = runColour(Number(key.dataset.run));
    curves.redraw();
    below();
  }

  function below() {
    waterfall.draw(chosen());
    who.draw(chosen());
    timeline.recoloured(chosen());
    workers.draw(chosen());
  }

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  element("theme").onclick = () => setTheme(stored("gcdl-theme", theme() === "dark" ? "light" : "dark") || (theme() === "dark" ? "light" : "dark"));
  dark.onchange = () => { if (!stored("gcdl-theme")) setTheme(dark.matches ? "dark" : "light"); };
  element("run").onchange = below;
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return;
    width = window.innerWidth;
    curves.resize();
    waterfall.draw(chosen());
    who.draw(chosen());
    timeline.draw();
  });
  waterfall.compare();
  setTheme(stored("gcdl-theme") || (dark.matches ? "dark" : "light"));
  document.documentElement.dataset.ready = "yes";
})();
