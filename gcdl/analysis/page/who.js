"use strict";
// Who was used: a step a column, a worker a row; what is too much for the screen was averaged before.

const who = (() => {
  function mixed(first, second, share) {
    const channels = (text) => [1, 3, 5].map((place) => parseInt(text.slice(place, place + 2), 16));
    const [a, b] = [channels(first), channels(second)];
    return `rgb(${a.map((value, place) => Math.round(value + (b[place] - value) * share)).join(",")})`;
  }

  function draw(run) {
    const { cells, steps, workers } = RUNS[run].who;
    const row = Math.max(3, Math.min(18, Math.floor(320 / cells.length)));
    const left = 34, below = 22, height = row * cells.length + below;
    const { pen, width, drawn } = canvas(element("who"), height);
    const fills = Array.from({ length: 10 }, (_, tenth) => mixed(colour("used"), colour("late-cell"), tenth / 9));
    const column = (width - left) / cells[0].length;
    cells.forEach((line, place) => {
      for (let at = 0; at < line.length; at++) {
        pen.fillStyle = line[at] === "x" ? colour("lost") : fills[Number(line[at])];
        pen.fillRect(left + at * column, place * row, Math.ceil(column + 0.2), row - (row > 5 ? 1 : 0));
      }
    });
    pen.fillStyle = colour("faint");
    pen.textAlign = "right";
    const rows = [...new Set([0, Math.floor(cells.length / 2), cells.length - 1])];
    for (const place of rows) pen.fillText(Math.floor((place * workers) / cells.length), left - 6, place * row + row / 2);
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      pen.textAlign = share === 0 ? "left" : share === 1 ? "right" : "center";
      pen.fillText(`${share === 0 ? "step " : ""}${Math.round(share * (steps - 1))}`, left + share * (width - left), height - 9);
    }
    legend(element("who-legend"), [["used", colour("used")], ["late: not used", colour("late-cell")],
      ...(cells.some((line) => line.includes("x")) ? [["lost", colour("lost")]] : [])]);
    drawn.onmousemove = (event) => {
      const box = drawn.getBoundingClientRect();
      const at = Math.floor((event.clientX - box.left - left) / column), place = Math.floor((event.clientY - box.top) / row);
      const cell = (cells[place] || "")[at];
      if (cell === undefined) return tip(event, "");
      const step = Math.floor((at * steps) / cells[0].length), worker = Math.floor((place * workers) / cells.length);
      const state = cell === "x" ? "lost" : cell === "0" ? "used" : cell === "9" ? "late" : `late in ${Math.round((cell / 9) * 100)} %`;
      tip(event, `worker ${worker}, step ${step}: ${state}`);
    };
    drawn.onmouseleave = (event) => tip(event, "");
  }

  return { draw };
})();
