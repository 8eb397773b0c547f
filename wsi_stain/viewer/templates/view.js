"use strict";
// The page: one view that both panes share, how mouse, keys and buttons change it, and what is written over the slides.
// The view is {x, y}: what lies in the middle of every pane, and `scale`, both in the slides' unit (um) and CSS pixels.

import { Loader, Slide } from "./tiles.js";

const EASE = 0.35;
const MOST_ENLARGED = 16;
const UM_AT_1X = 10; // 40x is 0.25 um on a pixel of the screen

const element = (id) => document.getElementById(id);
const stage = element("stage");
const canvas = stage.querySelector("canvas");
const context = canvas.getContext("2d", { alpha: false });
const labels = stage.querySelectorAll(".label");
const problems = stage.querySelectorAll(".problem");
const divider = element("divider");
const loader = new Loader(redraw);

let shown = { number: -1, known: false, panes: [] };
let slides = []; // in the panes' order; null where one cannot be opened
let view = { x: 0, y: 0, scale: 1 };
let target = view;
let mode = "side";
let split = 0.5;
let due = false;

// ---- geometry, CSS pixels

const isPair = () => slides.length === 2 && slides.every(Boolean);
const isBeside = () => slides.length === 2 && (mode === "side" || !isPair());

/** Where each pane lies. In swipe mode both fill the stage, and the divider says what is seen of them. */
function boxes() {
  const [width, height] = [stage.clientWidth, stage.clientHeight];
  const middle = Math.round(width / 2);
  if (!isBeside()) return slides.map(() => ({ left: 0, width, height }));
  return [{ left: 0, width: middle - 1, height }, { left: middle + 1, width: width - middle - 1, height }];
}

const paneAt = (x) => boxes().find((box) => x < box.left + box.width) ?? boxes().at(-1);

function clamped(wanted) {
  const there = slides.filter(Boolean);
  const [width, height] = ["width", "height"].map((side) => Math.max(...there.map((slide) => slide[side])));
  const finest = Math.min(...there.map((slide) => Math.min(slide.pane.mpp_x, slide.pane.mpp_y)));
  return {
    x: Math.min(width, Math.max(0, wanted.x)),
    y: Math.min(height, Math.max(0, wanted.y)),
    scale: Math.min(fitted().scale * 2, Math.max(finest / MOST_ENLARGED, wanted.scale)),
  };
}

function fitted() {
  const there = slides.filter(Boolean);
  const [width, height] = ["width", "height"].map((side) => Math.max(...there.map((slide) => slide[side])));
  const box = boxes()[0];
  const scale = Math.max(width / Math.max(1, box.width - 16), height / Math.max(1, box.height - 16));
  return { x: width / 2, y: height / 2, scale };
}

// ---- changing the view

function go(wanted, at_once = false) {
  if (!slides.some(Boolean)) return;
  target = clamped(wanted);
  if (at_once) view = target;
  redraw();
}

/** Zoom by a factor, leaving what lies at a place of the stage where it is. */
function zoom(factor, x, y) {
  const box = x === undefined ? boxes()[0] : paneAt(x);
  const [dx, dy] = x === undefined ? [0, 0] : [x - box.left - box.width / 2, y - box.height / 2];
  const { scale } = clamped({ ...target, scale: target.scale / factor });
  go({ x: target.x + dx * (target.scale - scale), y: target.y + dy * (target.scale - scale), scale });
}

const pan = (dx, dy, at_once) => go({ ...target, x: target.x + dx * target.scale, y: target.y + dy * target.scale }, at_once);

function setMode(wanted) {
  const isWhole = target.scale === fitted().scale;
  mode = wanted;
  go(isWhole ? fitted() : target, true);
}

function setSplit(wanted) {
  split = Math.min(1, Math.max(0, wanted));
  redraw();
}

function exchange() {
  if (slides.length < 2) return;
  slides.reverse();
  shown.panes.reverse();
  redraw();
}

// ---- drawing

function redraw() {
  if (!due) requestAnimationFrame(draw);
  due = true;
}

function draw() {
  due = false;
  if (Math.abs(Math.log(target.scale / view.scale)) < 1e-3 && Math.hypot(target.x - view.x, target.y - view.y) < view.scale / 4) {
    view = target;
  } else {
    // A straight line in x, y and scale keeps the place under the pointer where it is.
    view = Object.fromEntries(["x", "y", "scale"].map((name) => [name, view[name] + EASE * (target[name] - view[name])]));
    redraw();
  }
  const ratio = devicePixelRatio;
  const [width, height] = [Math.round(stage.clientWidth * ratio), Math.round(stage.clientHeight * ratio)];
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  context.fillStyle = "#8a8a8a";
  context.fillRect(0, 0, width, height);
  const wanted = new Map();
  const unit = view.scale / ratio;
  boxes().forEach((box, number) => {
    const middle = [Math.round((box.left + box.width / 2) * ratio), Math.round((box.height / 2) * ratio)];
    const seen = { left: Math.round(box.left * ratio), right: Math.round((box.left + box.width) * ratio), top: 0, bottom: height };
    if (!isBeside() && slides.length === 2) seen[number ? "left" : "right"] = Math.round(split * width);
    const frame = { x: view.x - middle[0] * unit, y: view.y - middle[1] * unit, unit };
    slides[number]?.draw(context, frame, seen, loader, wanted);
  });
  if (isBeside()) {
    context.fillStyle = "#17151a";
    context.fillRect(Math.round((width / 2) - ratio), 0, Math.round(2 * ratio), height);
  }
  loader.want(wanted);
  write();
}

/** What is written over and beside the slides. */
function write() {
  const places = boxes();
  labels.forEach((label, number) => {
    const pane = shown.panes[number];
    label.hidden = !pane;
    if (!pane) return;
    const name = document.createElement("b");
    name.textContent = pane.label;
    label.replaceChildren(name, ...(pane.label ? [" "] : []), pane.file);
    label.classList.toggle("right", !isBeside() && number === 1);
    label.style.left = isBeside() || number === 0 ? `${places[number].left + 8}px` : "";
  });
  problems.forEach((box, number) => {
    const pane = shown.panes[number];
    box.hidden = !pane?.problem;
    if (box.hidden) return;
    box.style.left = `${places[number].left + places[number].width / 2}px`;
    box.replaceChildren(...[`${pane.problem}.`, pane.remedy && `${pane.remedy}.`].filter(Boolean).map(paragraph));
  });
  divider.hidden = isBeside() || !isPair();
  divider.style.left = `${split * 100}%`;
  divider.setAttribute("aria-valuenow", Math.round(split * 100));
  for (const button of document.querySelectorAll("[data-mode]")) {
    button.disabled = !isPair();
    button.setAttribute("aria-pressed", isPair() && button.dataset.mode === mode);
  }
  element("note").textContent = shown.note;
  element("note").hidden = !shown.note;
  writeScale();
  const place = { slide: shown.number, x: view.x.toFixed(1), y: view.y.toFixed(1), scale: view.scale.toPrecision(5), mode };
  if (view === target && shown.number >= 0) history.replaceState(null, "", `#${new URLSearchParams(place)}`);
}

function paragraph(text) {
  const made = document.createElement("p");
  made.textContent = text;
  return made;
}

function writeScale() {
  const any = slides.some(Boolean);
  element("scale").hidden = !any;
  const power = UM_AT_1X / view.scale;
  const magnified = `${power.toPrecision(power < 100 ? 3 : 4).replace(/\.?0+$/, "")}x · ${view.scale.toPrecision(3)} µm/px`;
  element("magnification").textContent = any ? (shown.known ? magnified : `${(100 / view.scale).toPrecision(3)} %`) : "";
  const longest = 160 * view.scale;
  const decade = 10 ** Math.floor(Math.log10(longest));
  const length = decade * [5, 2, 1].find((round) => round * decade <= longest);
  element("scale").querySelector("i").style.width = `${length / view.scale}px`;
  const unit = !shown.known ? `${length} px` : length >= 1000 ? `${length / 1000} mm` : `${Number(length.toPrecision(1))} µm`;
  element("scale").querySelector("span").textContent = unit;
}

// ---- cases

async function show(number, place) {
  const answer = await fetch(`cases/${number}`);
  if (!answer.ok) return;
  shown = { number, ...(await answer.json()) };
  slides = shown.panes.map((pane) => (pane.problem ? null : new Slide(pane)));
  for (const button of document.querySelectorAll("[data-case]")) {
    const current = Number(button.dataset.case) === number;
    button.setAttribute("aria-current", current);
    if (current) button.scrollIntoView({ block: "nearest" });
  }
  if (slides.some(Boolean)) go(place ?? fitted(), true);
  else redraw();
}

function step(by) {
  const all = [...document.querySelectorAll("li:not([hidden]) [data-case]")].map((button) => Number(button.dataset.case));
  const next = all[all.indexOf(shown.number) + by];
  if (next !== undefined) show(next);
}

element("cases").addEventListener("click", (event) => {
  const button = event.target.closest("[data-case]");
  if (button) show(Number(button.dataset.case));
});

element("filter").addEventListener("input", (event) => {
  const text = event.target.value.toLowerCase();
  for (const item of document.querySelectorAll("li")) item.hidden = !item.textContent.toLowerCase().includes(text);
});

// ---- mouse and keys

stage.addEventListener("wheel", (event) => {
  event.preventDefault();
  const lines = event.deltaMode === 1 ? 16 : 1;
  const { left, top } = stage.getBoundingClientRect();
  zoom(Math.exp(-event.deltaY * lines * (event.ctrlKey ? 0.01 : 0.002)), event.clientX - left, event.clientY - top);
}, { passive: false });

stage.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || event.target.closest(".problem")) return;
  const grabbed = event.target === divider ? "divider" : "slide";
  const { left, width } = stage.getBoundingClientRect();
  stage.setPointerCapture(event.pointerId);
  stage.classList.add("dragging");
  let last = event;
  const move = (now) => {
    if (grabbed === "divider") setSplit((now.clientX - left) / width);
    else pan(last.clientX - now.clientX, last.clientY - now.clientY, true);
    last = now;
  };
  const stop = () => {
    stage.classList.remove("dragging");
    stage.removeEventListener("pointermove", move);
  };
  stage.addEventListener("pointermove", move);
  stage.addEventListener("lostpointercapture", stop, { once: true });
});

stage.addEventListener("dblclick", (event) => {
  const { left, top } = stage.getBoundingClientRect();
  zoom(2, event.clientX - left, event.clientY - top);
});

const native = () => go({ ...target, scale: Math.min(...slides.filter(Boolean).map((slide) => slide.pane.mpp_x)) / devicePixelRatio });
const fit = () => go(fitted());
const keys = {
  ArrowLeft: () => pan(-100, 0), ArrowRight: () => pan(100, 0), ArrowUp: () => pan(0, -100), ArrowDown: () => pan(0, 100),
  "+": () => zoom(1.5), "=": () => zoom(1.5), "-": () => zoom(1 / 1.5), 0: fit, 1: native,
  m: () => isPair() && setMode(mode === "side" ? "swipe" : "side"), x: exchange,
  "[": () => setSplit(split - 0.05), "]": () => setSplit(split + 0.05),
  n: () => step(1), p: () => step(-1), "?": () => element("keys").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.matches("input") || element("keys").open) return;
  const onDivider = event.target === divider && { ArrowLeft: keys["["], ArrowRight: keys["]"] }[event.key];
  const action = onDivider || (keys[event.key] ?? keys[event.key.toLowerCase()]);
  if (!action) return;
  event.preventDefault();
  action();
});

for (const [id, key] of Object.entries({ in: "+", out: "-", native: "1", fit: "0", help: "?" })) {
  element(id).addEventListener("click", () => keys[key]());
}
for (const button of document.querySelectorAll("[data-mode]")) button.addEventListener("click", () => setMode(button.dataset.mode));
new ResizeObserver(redraw).observe(stage);

// ---- the server

/** Tells the server that this page is open, and the reader when the server is gone. */
function stayAlive() {
  const socket = new WebSocket(new URL("alive", location.href.replace(/^http/, "ws")));
  socket.addEventListener("open", () => { element("ended").hidden = true; });
  socket.addEventListener("close", () => {
    element("ended").hidden = false;
    setTimeout(stayAlive, 3000);
  });
}

const remembered = new URLSearchParams(location.hash.slice(1));
const place = Object.fromEntries(["x", "y", "scale"].map((name) => [name, Number(remembered.get(name))]));
mode = remembered.get("mode") === "swipe" ? "swipe" : "side";
stayAlive();
show(Number(remembered.get("slide")) || 0, place.scale > 0 ? place : undefined);
stage.focus();

/** For tests, and for the curious. */
window.viewer = {
  state: () => ({ ...view, mode, split, number: shown.number, boxes: boxes(), still: view === target && !due }),
  settled: () => shown.number >= 0 && view === target && !due && loader.idle && loader.flying.size === 0,
};
