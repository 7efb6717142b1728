"use strict";
// The timeline: any window of steps, a row for the master and for each worker.

const timeline = (() => {
  const ROW = 22, BELOW = 24;
  const COLOURS = {
    "send": "send", "wait": "wait", "decode": "decode", "step": "step", "receive": "receive", "injected sleep": "sleep",
    "compute": "compute", "injected sleep (sending)": "sleep", "encode": "encode", "no reply": "no-reply",
  };
  const NAMES = { "sleep": "injected sleep", "no-reply": "no reply", "wait": "wait (master)", "decode": "decode (master)", "step": "optimizer step (master)" };
  const ORDER = ["compute", "encode", "send", "receive", "sleep", "late", "no-reply", "wait", "decode", "step"];
  const style = (kind) => (kind.endsWith("(late)") ? "late" : COLOURS[kind] || "wait");
  let shown = null, rows = [], begins = [], view = [0, 1], dragged = null;

  // [gap, length, kind, step, ...] -> slices with their times, in order.
  function unpacked(flat) {
    const slices = [];
    let end = 0;
    for (let place = 0; place < flat.length; place += 4) {
      const start = end + flat[place];
      end = start + flat[place + 1];
      slices.push({ start, end, kind: shown.kinds[flat[place + 2]], step: flat[place + 3] });
    }
    return slices;
  }

  function open(run) {
    shown = RUNS[run].timeline;
    element("timeline-part").hidden = !shown;
    if (!shown) return;
    rows = shown.slices.map(unpacked);
    begins = [];
    for (const slice of rows[0]) if (begins[slice.step] === undefined) begins[slice.step] = slice.start;
    const last = rows[0].at(-1);
    begins.push(last ? last.end : 1);
    element("at").max = Math.max(0, shown.steps - 1);
    element("timeline-hint").textContent = "Drag to move; the wheel with Ctrl zooms." + (shown.whole ? "" :
      ` The first ${shown.steps} steps; all of them are in timeline.json, which ui.perfetto.dev opens.`);
    const styles = new Set(shown.kinds.map(style));
    legend(element("timeline-legend"), ORDER.filter((name) => styles.has(name)).map((name) => [NAMES[name] || name, fill(name)]));
    bySteps();
  }

  const fill = (name) => (name === "no-reply" ? `repeating-linear-gradient(45deg, ${colour("line")} 0 1px, ${colour("no-reply")} 1px 5px)` : colour(name));

  const begin = (step) => {
    for (let at = Math.max(0, Math.min(step, begins.length - 1)); at < begins.length; at++) if (begins[at] !== undefined) return begins[at];
    return begins.at(-1);
  };

  // The window is what the two numbers say.
  function bySteps() {
    const most = Math.max(0, shown.steps - 1);
    const from = Math.max(0, Math.min(most, Math.round(Number(element("from").value)) || 0));
    const count = Math.max(1, Math.round(Number(element("count").value)) || 1);
    element("from").value = element("at").value = from;
    element("count").value = count;
    show([begin(from), begin(from + count)]);
  }

  function show(range) {
    const low = begin(0), high = begins.at(-1);
    const length = Math.max(1, Math.min(range[1] - range[0], high - low));
    const first = Math.max(low, Math.min(range[0], high - length));
    view = [first, first + length];
    draw();
  }

  // The first slice that ends after a time: slices are in order.
  function after(slices, time) {
    let low = 0, high = slices.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (slices[middle].end > time) high = middle; else low = middle + 1;
    }
    return low;
  }

  function draw() {
    if (!shown) return;
    const { pen, width, drawn } = canvas(element("timeline"), rows.length * ROW + BELOW);
    const left = width < 500 ? 28 : 74, [first, last] = view, scale = (width - left) / (last - first);
    const x = (time) => left + (time - first) * scale;
    pen.save();
    pen.beginPath();
    pen.rect(left, 0, width - left, rows.length * ROW);
    pen.clip();
    rows.forEach((slices, row) => {
      const top = row * ROW + 2, high = ROW - 4;
      for (let place = after(slices, first); place < slices.length && slices[place].start < last; place++) {
        const slice = slices[place], name = style(slice.kind);
        const from = x(slice.start), to = Math.max(from + 0.6, x(slice.end));
        pen.fillStyle = colours(name);
        pen.fillRect(from, top, to - from > 3 ? to - from - 0.7 : to - from, high);
        if (name === "no-reply") hatch(pen, Math.max(from, left), Math.min(to, width), top, high);
        const word = slice.kind === "no reply" ? "no reply" : slice.kind.replace("injected ", "");
        if (Math.min(to, width) - Math.max(from, left) > 7 * word.length + 8) {
          pen.fillStyle = ["no-reply", "wait", "send", "sleep"].includes(name) ? (name === "no-reply" || name === "wait" ? colours("ink") : "#101418") : "#ffffff";
          pen.textAlign = "left";
          pen.fillText(word, Math.max(from, left) + 4, top + high / 2);
        }
      }
    });
    pen.strokeStyle = colours("faint");
    pen.globalAlpha = 0.5;
    for (let step = 0; step < begins.length; step++) {
      if (begins[step] === undefined || begins[step] < first || begins[step] > last) continue;
      const at = Math.round(x(begins[step])) + 0.5;
      pen.beginPath();
      pen.moveTo(at, 0);
      pen.lineTo(at, rows.length * ROW);
      pen.stroke();
    }
    pen.restore();
    labels(pen, width, left, x);
    drawn.dataset.view = view.join(" ");
    mouse(drawn, left, scale);
  }

  let known = {};
  function colours(name) { return known[name] || (known[name] = colour(name)); }

  function hatch(pen, from, to, top, high) {
    pen.strokeStyle = colours("line");
    pen.beginPath();
    for (let at = from - high; at < to; at += 7) {
      const [a, b] = [Math.max(at, from), Math.min(at + high, to)];
      if (b <= a) continue;
      pen.moveTo(a, top + high - (a - at));
      pen.lineTo(b, top + high - (b - at));
    }
    pen.stroke();
  }

  function labels(pen, width, left, x) {
    pen.fillStyle = colours("ink");
    pen.textAlign = "right";
    shown.rows.forEach((name, row) => pen.fillText(left < 40 ? name.replace("worker ", "").replace("master", "M") : name, left - 6, row * ROW + ROW / 2));
    pen.fillStyle = colours("faint");
    pen.textAlign = "left";
    let free = left;
    for (let step = 0; step < begins.length - 1; step++) {
      if (begins[step] === undefined || begins[step] < view[0] || begins[step] > view[1]) continue;
      const text = free === left ? `step ${step}` : String(step), at = x(begins[step]);
      if (at < free || at + pen.measureText(text).width > width) continue;
      pen.fillText(text, at + 2, rows.length * ROW + BELOW / 2);
      free = at + pen.measureText(text).width + 14;
    }
    if (free === left) pen.fillText(`${number(view[0] / 1e6)} s`, left, rows.length * ROW + BELOW / 2);
  }

  function mouse(drawn, left, scale) {
    const time = (event) => view[0] + (event.clientX - drawn.getBoundingClientRect().left - left) / scale;
    drawn.onpointerdown = (event) => {
      dragged = { from: event.clientX, view: [...view] };
      drawn.setPointerCapture(event.pointerId);
    };
    drawn.onpointerup = () => { dragged = null; };
    drawn.onpointermove = (event) => {
      if (dragged) {
        const moved = (event.clientX - dragged.from) / scale;
        show([dragged.view[0] - moved, dragged.view[1] - moved]);
        return;
      }
      const row = Math.floor((event.clientY - drawn.getBoundingClientRect().top) / ROW), at = time(event);
      const slices = rows[row] || [], slice = slices[after(slices, at)];
      const inside = slice && at >= view[0] && slice.start <= at;
      tip(event, inside ? `${shown.rows[row]}, step ${slice.step}: ${slice.kind}, ${duration(slice.end - slice.start)}` : "");
    };
    drawn.onpointerleave = (event) => tip(event, "");
    drawn.onwheel = (event) => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      zoomed(event.deltaY > 0 ? 1.25 : 0.8, time(event));
    };
  }

  function zoomed(factor, around = (view[0] + view[1]) / 2) {
    show([around - (around - view[0]) * factor, around + (view[1] - around) * factor]);
  }

  function moved(direction) {
    element("from").value = Number(element("from").value) + direction * Number(element("count").value);
    bySteps();
  }

  element("from").onchange = bySteps;
  element("count").onchange = bySteps;
  element("at").oninput = () => { element("from").value = element("at").value; bySteps(); };
  element("earlier").onclick = () => moved(-1);
  element("later").onclick = () => moved(1);
  element("closer").onclick = () => zoomed(0.5);
  element("wider").onclick = () => zoomed(2);
  return { open, draw, recoloured: (run) => { known = {}; open(run); } };
})();
