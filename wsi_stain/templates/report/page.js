"use strict";
const dialog = document.querySelector("dialog");
let shots = [];
let shown = 0;

function show(index) {
  shown = index % shots.length;
  document.getElementById("title").textContent = shots[shown].dataset.slide;
  document.getElementById("caption").textContent = shots[shown].dataset.caption;
  document.getElementById("large").src = shots[shown].querySelector("img").src;
}

for (const shot of document.querySelectorAll(".shot")) {
  shot.addEventListener("click", () => {
    shots = [...(shot.closest(".pair") ?? shot.parentElement).querySelectorAll(".shot")];
    show(shots.indexOf(shot));
    dialog.showModal();
  });
}

dialog.addEventListener("click", (event) => (event.target.id === "large" ? show(shown + 1) : dialog.close()));
dialog.addEventListener("keydown", (event) => {
  if ([" ", "ArrowLeft", "ArrowRight"].includes(event.key)) {
    event.preventDefault();
    show(shown + 1);
  }
});
