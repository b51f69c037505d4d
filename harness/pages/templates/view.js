// Keys: j and k move among questions, u goes up to the list, / searches. The pages work without it.
"use strict";
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, select, textarea")) return;
  const go = (relation) => {
    const link = document.querySelector(`a[rel="${relation}"]`);
    if (link) link.click();
    return Boolean(link);
  };
  const move = (step) => {
    const links = [...document.querySelectorAll(".questions a")];
    const current = links.indexOf(document.activeElement);
    const next = links[current < 0 ? 0 : Math.min(Math.max(current + step, 0), links.length - 1)];
    if (next) next.focus();
  };
  if (event.key === "j" || event.key === "ArrowRight") { if (!go("next") && event.key === "j") move(1); }
  else if (event.key === "k" || event.key === "ArrowLeft") { if (!go("prev") && event.key === "k") move(-1); }
  else if (event.key === "u") go("up");
  else if (event.key === "/") {
    const search = document.getElementById("search") || document.getElementById("filter");
    if (search) { event.preventDefault(); search.focus(); }
  }
});

const lines = document.querySelector("input[data-lines]");
if (lines) lines.addEventListener("input", () => {
  const words = lines.value.trim().toLowerCase();
  for (const line of document.querySelectorAll(".questions li")) line.hidden = !line.textContent.toLowerCase().includes(words);
});
