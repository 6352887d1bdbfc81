// Parts of a page that renew themselves, curves that can be asked, and the two buttons. All of it is on top of pages that
// work without it, but for the buttons.
"use strict";

const connection = document.getElementById("connection");
const token = document.querySelector('meta[name="rlft-token"]')?.content ?? "";

// Parts: asked for again and again, replaced only when they changed, left alone while nobody looks.

async function renew(part) {
  const state = part.state;
  if (document.hidden || state.busy) return;
  state.busy = true;
  try {
    const answer = await fetch(part.dataset.live, { headers: state.tag ? { "If-None-Match": state.tag } : {}, cache: "no-store" });
    if (answer.status === 401) location.assign("/login");
    if (answer.status === 200) {
      state.tag = answer.headers.get("ETag");
      replace(part, await answer.text());
    }
    connection.hidden = answer.ok || answer.status === 304;
  } catch {
    connection.hidden = false;
  } finally {
    state.busy = false;
  }
}

function replace(part, text) {
  if (text === part.state.text) return;
  part.state.text = text;
  const open = [...part.querySelectorAll("details[open][data-keep]")].map((one) => one.dataset.keep);
  const ticked = [...part.querySelectorAll("input:checked")].map((one) => one.value);
  const focused = part.contains(document.activeElement) ? keyOf(document.activeElement) : null;
  const before = part.querySelector("[data-reloads]")?.dataset.reloads;
  part.innerHTML = text;
  const after = part.querySelector("[data-reloads]")?.dataset.reloads;
  if (before !== undefined && before !== after) location.reload(); // another stage, or nothing left to steer: the whole page differs
  for (const one of part.querySelectorAll("details[data-keep]")) one.open = open.includes(one.dataset.keep);
  for (const one of part.querySelectorAll("input[type=checkbox]")) one.checked = ticked.includes(one.value);
  prepareCharts(part);
  if (focused) [...part.querySelectorAll("a, input, summary, svg")].find((one) => keyOf(one) === focused)?.focus();
}

const keyOf = (element) =>
  [element.tagName, element.getAttribute("href"), element.value, element.getAttribute("data-chart"), element.textContent.slice(0, 40)].join();

for (const part of document.querySelectorAll("[data-live]")) {
  part.state = {};
  setInterval(() => renew(part), 1000 * Number(part.dataset.every));
  document.addEventListener("visibilitychange", () => renew(part));
}

// Forms that take effect at once.

for (const form of document.querySelectorAll("form[data-submits]")) {
  let timer;
  form.addEventListener("change", (event) => {
    if (event.target.name !== "metric") form.requestSubmit();
  });
  form.addEventListener("input", (event) => {
    if (event.target.type !== "search") return;
    clearTimeout(timer);
    timer = setTimeout(() => filterRuns(form), 250);
  });
}

function filterRuns(form) {
  const query = new URLSearchParams(new FormData(form));
  const part = document.getElementById("runs");
  history.replaceState(null, "", `/?${query}`);
  part.dataset.live = `/parts/runs?${query}`;
  part.state.tag = null;
  renew(part);
}

// The list's ticks and the choices over a comparison become RUN or RUN:STAGE.

document.querySelector("form[data-compare]")?.addEventListener("submit", (event) => {
  event.preventDefault();
  const picked = [...event.target.querySelectorAll("input:checked")].map((one) => one.value);
  if (picked.length === 2) location.assign(`/compare?${new URLSearchParams({ a: picked[0], b: picked[1] })}`);
  else event.target.querySelector("[data-told]").textContent = `Tick two runs; ${picked.length} are ticked.`;
});

document.querySelector("form[data-pairs]")?.addEventListener("change", (event) => {
  const form = event.currentTarget;
  if (event.target.name === "metric") return;
  for (const letter of ["a", "b"]) {
    const run = form.querySelector(`[data-run=${letter}]`).value;
    const stage = form.querySelector(`[data-stage=${letter}]`)?.value;
    const changed = event.target.dataset.run === letter;
    form.elements[letter].value = run && stage && !changed ? `${run}:${stage}` : run;
  }
  if (form.elements.a.value && form.elements.b.value) form.requestSubmit();
});

// Curves: the numbers under the pointer, the finger, or the arrow keys. The circles that carry them are in the drawing.

function prepareCharts(root) {
  for (const [index, svg] of root.querySelectorAll("figure svg.chart").entries()) {
    svg.tabIndex = 0;
    svg.dataset.chart = index;
    for (const title of svg.querySelectorAll(".hit title")) {
      title.parentNode.dataset.told = title.textContent;
      title.remove(); // the browser's own tooltip would come on top
    }
  }
}

function pointsOf(svg) {
  const found = new Map();
  for (const hit of svg.querySelectorAll(".hit[data-told]")) {
    const x = Number(hit.getAttribute("cx"));
    found.set(x, [...(found.get(x) ?? []), hit]);
  }
  return [...found].sort((a, b) => a[0] - b[0]);
}

function show(svg, points, at) {
  hide(svg);
  if (!points[at]) return;
  const [x, hits] = points[at];
  const { height } = svg.viewBox.baseVal;
  const line = document.createElementNS(svg.namespaceURI, "line");
  for (const [name, value] of Object.entries({ class: "cross", x1: x, x2: x, y1: 8, y2: height - 36 })) line.setAttribute(name, value);
  svg.append(line);
  for (const hit of hits) {
    const dot = document.createElementNS(svg.namespaceURI, "circle");
    for (const [name, value] of Object.entries({ class: "picked", cx: x, cy: hit.getAttribute("cy"), r: 3.5 })) dot.setAttribute(name, value);
    svg.append(dot);
  }
  const box = document.createElement("div");
  box.className = "readout";
  box.setAttribute("role", "status");
  box.textContent = hits.map((hit) => hit.dataset.told).join("\n");
  const figure = svg.closest("figure");
  figure.append(box);
  const frame = svg.getBoundingClientRect();
  const left = (x / svg.viewBox.baseVal.width) * frame.width + frame.left - figure.getBoundingClientRect().left;
  box.style.left = `${Math.max(4, Math.min(left - box.offsetWidth / 2, figure.clientWidth - box.offsetWidth - 4))}px`;
  box.style.top = `${svg.getBoundingClientRect().top - figure.getBoundingClientRect().top - 8}px`;
  svg.dataset.at = at;
}

function hide(svg) {
  for (const old of svg.querySelectorAll(".cross, .picked")) old.remove();
  svg.closest("figure")?.querySelector(".readout")?.remove();
  delete svg.dataset.at;
}

document.addEventListener("pointermove", (event) => {
  const svg = event.target.closest?.("figure svg.chart");
  for (const other of document.querySelectorAll("svg.chart[data-at]")) if (other !== svg) hide(other);
  if (!svg) return;
  const frame = svg.getBoundingClientRect();
  const x = ((event.clientX - frame.left) / frame.width) * svg.viewBox.baseVal.width;
  const points = pointsOf(svg);
  if (!points.length) return;
  let best = 0;
  points.forEach(([place], index) => {
    if (Math.abs(place - x) < Math.abs(points[best][0] - x)) best = index;
  });
  show(svg, points, best);
});

document.addEventListener("keydown", (event) => {
  const svg = event.target.closest?.("figure svg.chart");
  if (!svg) return;
  const points = pointsOf(svg);
  const now = Number(svg.dataset.at ?? points.length);
  const to = { ArrowLeft: now - 1, ArrowRight: now + 1, Home: 0, End: points.length - 1 }[event.key];
  if (event.key === "Escape") hide(svg);
  if (to === undefined || !points.length) return;
  event.preventDefault();
  show(svg, points, Math.max(0, Math.min(points.length - 1, to)));
});

document.addEventListener("focusout", (event) => event.target.matches?.("svg.chart") && hide(event.target));

// Stop and scale.

async function steer(url, wish) {
  const told = document.querySelector(".steer [data-told]");
  const buttons = document.querySelectorAll(".steer button");
  const say = (text, bad) => {
    told.textContent = text;
    told.classList.toggle("bad", bad);
  };
  for (const button of buttons) button.disabled = true;
  say("Asked; waiting for the run's answer …", false);
  try {
    const headers = { "Content-Type": "application/json", "X-Rlft-Token": token };
    const answer = await fetch(url, { method: "POST", headers, body: JSON.stringify(wish) });
    const said = await answer.json();
    if (answer.ok) say(`The run says: ${Object.entries(said).map(([key, value]) => `${key} ${value}`).join(", ") || "yes"}`, false);
    else say(said.error.message, true);
  } catch {
    say("The viewer cannot be reached; nothing is known of what the run does.", true);
  } finally {
    for (const button of buttons) button.disabled = false;
  }
}

document.querySelector("form[data-steer]")?.addEventListener("submit", (event) => {
  event.preventDefault();
  const given = [...new FormData(event.target)].filter(([, value]) => value !== "");
  steer(event.target.dataset.steer, Object.fromEntries(given.map(([name, value]) => [name, Number(value)])));
});

document.querySelector("[data-opens]")?.addEventListener("click", (event) => {
  document.getElementById(event.target.dataset.opens).showModal();
});

document.querySelector("form[data-stop]")?.addEventListener("submit", (event) => {
  if (event.submitter?.value === "stop") steer(event.target.dataset.stop, { now: event.target.elements.now.checked });
});

prepareCharts(document);
