// What pages gain with JavaScript: copy buttons, rows that open on a click, a countdown. Every form works without.
"use strict";

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) {
    copy(document.querySelector(button.dataset.copy), button);
    return;
  }
  const row = event.target.closest("tr[data-href]");
  if (row && !event.target.closest("a, button, form, input") && !String(getSelection())) {
    location.assign(row.dataset.href);
  }
});

async function copy(source, button) {
  const text = source.value === undefined ? source.textContent : source.value;
  try {
    await navigator.clipboard.writeText(text);
    say(button, "Copied");
  } catch {
    select(source); // no clipboard without https: the text stands selected, ready for Ctrl-C
    say(button, document.execCommand("copy") ? "Copied" : "Press Ctrl-C");
  }
}

function select(source) {
  if (source.select) {
    source.select();
  } else {
    getSelection().selectAllChildren(source);
  }
}

function say(button, words) {
  const last = button.lastChild;
  button.dataset.label ??= last.textContent;
  last.textContent = words;
  setTimeout(() => {
    last.textContent = button.dataset.label;
  }, 2000);
}

function count() {
  for (const time of document.querySelectorAll("[data-until]")) {
    const left = Math.round((new Date(time.dataset.until) - Date.now()) / 1000);
    time.textContent = left > 0 ? `in ${clock(left)}` : "now";
  }
}

function clock(seconds) {
  const two = (number) => String(number).padStart(2, "0");
  const hours = Math.floor(seconds / 3600);
  const rest = `${two(Math.floor(seconds / 60) % 60)}:${two(seconds % 60)}`;
  return hours ? `${hours}:${rest}` : rest;
}

if (document.querySelector("[data-until]")) {
  count();
  setInterval(count, 1000);
}
