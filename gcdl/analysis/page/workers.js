"use strict";
// The table of workers: a click on a heading sorts by it, a second one the other way round.

const workers = (() => {
  const HEADS = ["worker", "steps used", "not used", "reply, median", "95 %", "computing, median", "lost at step"];
  const TEXT = [String, (share) => `${(100 * share).toFixed(1)} %`, String, seconds, seconds, seconds, String];
  let by = 0, down = false;

  function seconds(value) { return duration(value * 1e6); }

  function draw(run) {
    const table = element("workers");
    const rows = RUNS[run].workers.slice();
    rows.sort((a, b) => {
      if (a[by] === b[by]) return a[0] - b[0];
      if (a[by] === null || b[by] === null) return a[by] === null ? 1 : -1; // what is not there comes last, either way
      return (a[by] - b[by]) * (down ? -1 : 1);
    });
    table.replaceChildren();
    const head = make("tr", "", table);
    HEADS.forEach((text, place) => {
      const cell = make("th", "", head);
      const button = make("button", `${text}${place === by ? (down ? " ▼" : " ▲") : ""}`, cell);
      button.type = "button";
      cell.setAttribute("aria-sort", place === by ? (down ? "descending" : "ascending") : "none");
      button.onclick = () => { down = place === by && !down; by = place; draw(run); };
    });
    for (const row of rows) {
      const line = make("tr", "", table);
      row.forEach((value, place) => make(place ? "td" : "th", value === null ? "" : TEXT[place](value), line));
    }
  }

  return { draw };
})();
