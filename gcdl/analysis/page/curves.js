"use strict";
// The curves: a panel a figure, every run in each; zooming one zooms all.

const curves = (() => {
  const HEIGHT = 240;
  let plots = [];
  let zoom = null; // [first, last] of the x axis; null: all
  let busy = false;
  const logY = DATA.panels.map((panel) => panel.log);

  const xName = () => element("x").value;
  const window_ = () => Math.max(1, Math.round(Number(element("smooth").value)) || 1);

  // The mean of the last values, as far as there are so many.
  function smoothed(values, count) {
    if (count === 1) return values;
    let sum = 0, there = 0;
    return values.map((value, place) => {
      if (value !== null) { sum += value; there += 1; }
      const old = place >= count ? values[place - count] : null;
      if (old !== null) { sum -= old; there -= 1; }
      return there ? sum / there : null;
    });
  }

  // One table a curve, [x, y]: without what a logarithm can't show, and without steps in which there is no value.
  function table(run, curve, log) {
    const x = RUNS[run].x[xName()];
    let y = RUNS[run].curves[curve.label];
    if (curve.dense) y = smoothed(y, window_());
    const kept = [];
    let before = -Infinity;
    for (let place = 0; place < x.length; place++) {
      const there = y[place] !== null && !(log && y[place] <= 0) && !(element("log-x").checked && x[place] <= 0);
      if (there && x[place] > before) { kept.push(place); before = x[place]; }
    }
    return [kept.map((place) => x[place]), kept.map((place) => y[place])];
  }

  function draw(panel, number_, parent) {
    const log = logY[number_];
    const tables = [], series = [{ label: xName(), value: (plot, value) => number(value) }];
    for (let run = 0; run < RUNS.length; run++) {
      panel.curves.forEach((curve, place) => {
        if (!RUNS[run].curves[curve.label]) return;
        const found = table(run, curve, log);
        if (!found[0].length) return;
        tables.push(found);
        const stroke = RUNS.length === 1 ? runColour(place) : runColour(run);
        series.push({
          label: RUNS.length === 1 ? curve.label : panel.curves.length > 1 ? `${RUNS[run].name}, ${curve.label}` : RUNS[run].name,
          stroke, width: 1.5, spanGaps: true,
          dash: place && RUNS.length > 1 ? [5, 3] : undefined,
          points: { show: !curve.dense || found[0].length < 2, size: 6, stroke, fill: colour("paper") },
          value: (plot, value) => number(value),
        });
      });
    }
    const empty = !tables.length;
    const axis = () => ({ stroke: colour("faint"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), width: 1 } });
    // Lines at powers of ten only, where a logarithmic axis would draw nine of them.
    const decades = (plot, splits) => splits.map((value) => (log && Math.abs(Math.log10(value) % 1) > 1e-6 ? null : value));
    const short = (plot, splits) => splits.map((value) => (value === null ? "" : engineering(value)));
    const plot = new uPlot({
      width: parent.clientWidth, height: HEIGHT, series,
      scales: {
        x: { time: false, distr: element("log-x").checked ? 3 : 1, range: (plot, low, high) => zoom || [low, high > low ? high : low + 1] },
        y: { distr: log && !empty ? 3 : 1 },
      },
      axes: [
        { ...axis(), values: short, space: 70 },
        { ...axis(), values: short, size: 60, grid: { stroke: colour("line"), width: 1, filter: decades } },
      ],
      cursor: { sync: { key: "curves", setSeries: false }, drag: { x: true, y: false, setScale: false }, bind: { dblclick: () => () => show(null) } },
      hooks: { setSelect: [(plot) => { if (plot.select.width > 3) show([plot.posToVal(plot.select.left, "x"), plot.posToVal(plot.select.left + plot.select.width, "x")]); }] },
    }, empty ? [[], []].slice(0, series.length) : uPlot.join(tables), parent);
    return plot;
  }

  function engineering(value) {
    const size = Math.abs(value);
    for (const [unit, scale] of [["T", 1e12], ["G", 1e9], ["M", 1e6], ["k", 1e4]]) {
      if (size >= scale) return `${number(value / (unit === "k" ? 1e3 : scale))}${unit}`;
    }
    return size > 0 && size < 1e-3 ? value.toExponential(0) : number(value);
  }

  function all() {
    const ends = RUNS.flatMap((run) => [run.x[xName()][0], run.x[xName()].at(-1)]);
    return [Math.min(...ends), Math.max(...ends)];
  }

  function show(range) {
    if (busy) return;
    busy = true;
    const [first, last] = all();
    zoom = range && [Math.max(range[0], first), Math.min(range[1], last)];
    if (zoom && zoom[1] <= zoom[0]) zoom = null;
    for (const plot of plots) {
      plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
      plot.setData(plot.data, true);
    }
    document.documentElement.dataset.zoom = zoom ? zoom.join(" ") : "";
    busy = false;
  }

  function scaled(factor) {
    const [first, last] = zoom || all();
    const log = element("log-x").checked && first > 0;
    const [a, b] = log ? [Math.log(first), Math.log(last)] : [first, last];
    const middle = (a + b) / 2, half = ((b - a) / 2) * factor;
    const range = [middle - half, middle + half];
    show(log ? range.map(Math.exp) : range);
  }

  function redraw() {
    for (const plot of plots) plot.destroy();
    plots = [];
    element("panels").replaceChildren();
    DATA.panels.forEach((panel, number_) => {
      const parent = make("div", "", element("panels"));
      parent.className = "panel";
      const head = make("h3", panel.title, parent);
      const toggle = make("button", "log", head);
      toggle.type = "button";
      toggle.setAttribute("aria-pressed", logY[number_]);
      toggle.onclick = () => { logY[number_] = !logY[number_]; redraw(); };
      const inside = make("div", "", parent);
      plots.push(draw(panel, number_, inside));
    });
  }

  function resize() {
    for (const plot of plots) plot.setSize({ width: plot.root.parentElement.clientWidth, height: HEIGHT });
  }

  element("x").onchange = () => { zoom = null; redraw(); show(null); };
  element("log-x").onchange = redraw;
  element("smooth").onchange = redraw;
  element("zoom-in").onclick = () => scaled(0.5);
  element("zoom-out").onclick = () => scaled(2);
  element("zoom-reset").onclick = () => show(null);
  const every = RUNS.filter((run) => run.every > 1).map((run) => `${run.name}: a point is the mean of ${run.every} steps`);
  element("every").textContent = every.length ? ` ${every.join("; ")}.` : "";
  return { redraw, resize };
})();
