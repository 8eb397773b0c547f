"use strict";

addEventListener("input", ({ target }) => {
  if (target.matches(".compare input")) target.parentElement.style.setProperty("--at", target.value + "%");
});

const form = document.querySelector(".controls");
const cards = [...document.querySelectorAll("article")];

function arrange() {
  const name = form.elements.name.value.toLowerCase();
  const which = form.elements.which.value;
  const order = form.elements.order.value;
  const up = order === "number" ? 1 : -1;
  const sorted = [...cards].sort((a, b) => up * (a.dataset[order] - b.dataset[order]) || a.dataset.number - b.dataset.number);
  const kept = sorted.filter(({ dataset }) =>
    dataset.name.toLowerCase().includes(name) && (!which || dataset.status === which || (which === "outlier" && dataset.score > 0)));
  const numbers = new Set(kept.map((card) => card.dataset.number));
  for (const list of document.querySelectorAll("[data-sorted]")) {
    const items = new Map([...list.children].map((item) => [item.dataset.number, item]));
    for (const item of items.values()) item.hidden = !numbers.has(item.dataset.number);
    list.append(...sorted.map((card) => items.get(card.dataset.number)));
  }
  document.getElementById("shown").textContent = `${kept.length} of ${cards.length} slides`;
}

if (form) {
  form.addEventListener("input", arrange);
  form.addEventListener("submit", (event) => event.preventDefault());
  arrange();
}
