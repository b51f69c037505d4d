// Keys: j and k move among questions, u goes up to the list, m switches
// between text and Markdown, / searches, ? lists the keys. The pages work without it.
"use strict";
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.getElementById("keys").open) return;
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
  else if (event.key === "m") { const link = document.getElementById("switch"); if (link) link.click(); }
  else if (event.key === "?") document.getElementById("keys").showModal();
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

document.getElementById("help").addEventListener("click", () => document.getElementById("keys").showModal());
const colours = document.getElementById("colours");
const setColours = (value) => { if (value) document.documentElement.dataset.theme = value; else delete document.documentElement.dataset.theme; };
try { colours.value = localStorage.getItem("harness-colours") || ""; } catch { /* storage is off: a choice lasts for its page */ }
setColours(colours.value);
colours.addEventListener("change", () => {
  setColours(colours.value);
  try { localStorage.setItem("harness-colours", colours.value); } catch { /* as above */ }
});
// a verdict leads to its reply, which may be folded
const unfold = () => {
  const reply = location.hash.startsWith("#reply-") && document.getElementById(location.hash.slice(1));
  if (reply) reply.open = true;
};
addEventListener("hashchange", unfold);
unfold();
// what drives the pages waits for this: keys typed earlier are lost
document.documentElement.dataset.keys = "ready";
