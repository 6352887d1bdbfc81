// The step slider, and tokens that tell what they earned to the pointer, the finger and the arrow keys.
"use strict";

// A step is fetched as the page that it is, and its samples put in the place of those that are shown.

const form = document.querySelector("form[data-samples]");
const slider = form?.querySelector("[data-slider]");
const steps = (form?.dataset.steps ?? "").split(",").map(Number);
let asked = 0;

function addressOf(step) {
  return `${location.pathname}?${new URLSearchParams({ stage: form.elements.stage.value, step })}`;
}

async function showStep(step) {
  const mine = ++asked;
  const answer = await fetch(addressOf(step));
  if (!answer.ok || mine !== asked) return; // the slider has gone on
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  document.getElementById("samples").replaceWith(page.getElementById("samples"));
  history.replaceState(null, "", addressOf(step));
}

slider?.addEventListener("input", () => {
  const step = steps[slider.value];
  form.querySelector("output").textContent = step;
  slider.setAttribute("aria-valuetext", `step ${step}`);
  clearTimeout(slider.timer);
  slider.timer = setTimeout(() => showStep(step), 120);
});

form?.elements.stage.addEventListener("change", (event) => {
  location.assign(`${location.pathname}?${new URLSearchParams({ stage: event.target.value })}`);
});

// Tokens. One text is one stop of the tab key; inside it the arrow keys go on.

function tell(token) {
  for (const old of document.querySelectorAll(".tok.at")) old.classList.remove("at");
  token.classList.add("at");
  const tip = document.getElementById("tip");
  if (tip) {
    tip.textContent = `“${token.textContent.trim()}” ${token.dataset.tip}`;
    tip.classList.add("said");
  }
  const text = token.closest(".heat");
  text.setAttribute("aria-label", `“${token.textContent}” ${token.dataset.tip}`);
}

document.addEventListener("keydown", (event) => {
  const text = event.target.closest?.(".heat");
  const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!text || !move) return;
  event.preventDefault();
  const tokens = [...text.querySelectorAll(".tok")];
  const now = tokens.findIndex((token) => token.classList.contains("at"));
  tell(tokens[Math.max(0, Math.min(tokens.length - 1, now + move))]);
});

for (const kind of ["pointerover", "click"]) {
  document.addEventListener(kind, (event) => {
    const token = event.target.closest?.(".heat .tok");
    if (token) tell(token);
  });
}
