// Keys for what the page's buttons do. Without this script everything works by mouse, touch and Tab.
"use strict";

const opened = performance.now();
const click = (selector) => document.querySelector(selector)?.click();
const choose = (value) => click(`#verdict button[value="${value}"]`);

function compare() {
  const button = document.getElementById("compare");
  if (!button) return;
  const on = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(on));
  for (const text of document.querySelectorAll("[data-view]")) text.hidden = (text.dataset.view === "compared") !== on;
}

function write() {
  const form = document.getElementById("write");
  if (!form) return;
  form.open = true;
  form.querySelector("textarea").focus();
}

const KEYS = {
  1: () => choose("left"), ArrowLeft: () => choose("left"),
  2: () => choose("right"), ArrowRight: () => choose("right"),
  3: () => choose("tie"), t: () => choose("tie"),
  4: () => choose("both_bad"), b: () => choose("both_bad"),
  s: () => choose("skip"),
  u: () => click("#undo button"), Backspace: () => click("#undo button"),
  d: compare, e: write,
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select");
  if (event.key === "Escape" && typing) typing.blur();
  // A key held down must not judge a row of items.
  if (typing || event.repeat || event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
  if (event.key.startsWith("Arrow") && event.target.closest("pre")) return; // it scrolls there
  event.preventDefault();
  KEYS[event.key]();
});

document.getElementById("compare")?.addEventListener("click", compare);

// One verdict a page: a second press while the next one loads must not count for it.
let sent = false;
document.getElementById("verdict")?.addEventListener("submit", (event) => {
  if (sent) return event.preventDefault();
  sent = true;
  document.getElementById("seconds").value = ((performance.now() - opened) / 1000).toFixed(1);
});
