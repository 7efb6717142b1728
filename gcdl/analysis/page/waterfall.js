"use strict";
// A step's seconds, part by part: each bar begins where the one above it ends.

const waterfall = (() => {
  const FILLS = ["compute", "late-cell", "send", "receive", "decode", "wait"];
  const ROW = 24;

  function draw(run) {
    const data = RUNS[run].time;
    element("time-part").hidden = !data;
    if (!data) return;
    const { parts, measured, slow } = data;
    const { pen, width, drawn } = canvas(element("waterfall"), ROW * (parts.length + 1) + 4);
    const narrow = width < 560;
    const left = narrow ? 118 : 230, right = 112, room = width - left - right;
    const label = (text) => (narrow ? text.split(/[:(]/)[0].replace("waiting for ", "").replace(" and encoding", "").trim() : text);
    const percent = (seconds) => `${Math.round((100 * seconds) / measured)} %`;
    let at = 0;
    const rows = [...parts.map(([name, seconds], place) => [name, seconds, FILLS[place]]), ["a step, measured", measured, "faint"]];
    rows.forEach(([name, seconds, fill], place) => {
      if (place === parts.length) at = 0;
      const top = place * ROW + 3, x = left + (at / measured) * room, long = (seconds / measured) * room;
      pen.fillStyle = colour("shade");
      pen.fillRect(left, top, room, ROW - 6);
      pen.fillStyle = colour(fill);
      pen.fillRect(x, top, Math.max(long, seconds > 0 ? 1 : 0), ROW - 6);
      pen.fillStyle = colour("ink");
      pen.textAlign = "right";
      pen.fillText(label(name), left - 8, top + (ROW - 6) / 2);
      pen.textAlign = "left";
      pen.fillText(`${duration(seconds * 1e6)}${place < parts.length ? `, ${percent(seconds)}` : ""}`, left + room + 6, top + (ROW - 6) / 2);
      at += seconds;
    });
    drawn.setAttribute("role", "img");
    drawn.setAttribute("aria-label", parts.map(([name, seconds]) => `${name} ${percent(seconds)}`).join(", "));
    element("slow").replaceChildren(...slow.map((text) => make("li", text)));
  }

  // Predicted against measured seconds, a row a run.
  function compare() {
    const known = DATA.predictions.some((one) => one.predicted !== undefined);
    element("predicted-part").hidden = !known;
    if (!known) return;
    const table = element("predicted");
    const head = make("tr", "", table);
    for (const text of ["run", "measured", "predicted", "off", "from the delays of"]) make("th", text, head);
    DATA.predictions.forEach((one, place) => {
      if (one.predicted === undefined) return;
      const line = make("tr", "", table);
      make("th", RUNS[place].name, line);
      make("td", duration(one.measured * 1e6), line);
      make("td", `${duration(one.predicted * 1e6)} ± ${duration(one.plus_minus * 1e6)}`, line);
      make("td", `${((one.predicted / one.measured - 1) * 100).toFixed(1)} %`, line);
      make("td", RUNS[one.from].name, line);
    });
  }

  return { draw, compare };
})();
