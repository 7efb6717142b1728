"use strict";
// Colours and small helpers that the parts of the page share.

const DATA = JSON.parse(document.getElementById("data").textContent);
const RUNS = DATA.runs;
// Okabe and Ito's first: colour-blind people tell them apart. A run keeps its colour everywhere.
const RUN_COLOURS = {
  light: ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f3c8d", "#8c6d31"],
  dark: ["#58a6e0", "#f08040", "#2fc79a", "#e093bf", "#f0b429", "#8ecdf2", "#b58ad0", "#c9a868"],
};

const element = (id) => document.getElementById(id);
const theme = () => document.documentElement.dataset.theme;
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const runColour = (run) => RUN_COLOURS[theme()][run % RUN_COLOURS.light.length];

function make(tag, text = "", parent = null) {
  const made = document.createElement(tag);
  made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function number(value) {
  if (value === null || value === undefined) return "";
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  return Number(value).toPrecision(4).replace(/(\.\d*?)0+(e|$)/, "$1$2").replace(/\.(e|$)/, "$1");
}

function duration(microseconds) {
  if (microseconds >= 1e6) return `${number(microseconds / 1e6)} s`;
  if (microseconds >= 1e3) return `${number(microseconds / 1e3)} ms`;
  return `${Math.round(microseconds)} µs`;
}

function legend(parent, entries) {
  parent.replaceChildren(...entries.map(([text, fill]) => {
    const entry = make("span");
    make("i", "", entry).className = "key";
    entry.firstChild.style.background = fill;
    entry.append(text);
    return entry;
  }));
}

// A canvas as wide as its parent, in the pixels of the screen; returns what to draw with, and its width.
function canvas(parent, height) {
  const scale = window.devicePixelRatio || 1;
  const width = parent.clientWidth;
  const drawn = parent.querySelector("canvas") || parent.appendChild(document.createElement("canvas"));
  drawn.width = Math.round(width * scale);
  drawn.height = Math.round(height * scale);
  drawn.style.height = `${height}px`;
  const pen = drawn.getContext("2d");
  pen.scale(scale, scale);
  pen.clearRect(0, 0, width, height);
  pen.font = "12px system-ui, sans-serif";
  pen.textBaseline = "middle";
  return { pen, width, drawn };
}

function tip(event, text) {
  const shown = element("tip");
  shown.hidden = !text;
  shown.textContent = text || "";
  if (!text) return;
  shown.style.left = `${Math.max(0, Math.min(event.clientX + 12, window.innerWidth - shown.offsetWidth - 8))}px`;
  shown.style.top = `${event.clientY + 16}px`;
}
