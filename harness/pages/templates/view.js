// Keys: j and k move among questions, u goes up to the list, m switches
// between text and Markdown, / searches, n goes to the next mark, ? lists the keys. The pages work without it.
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
    const links = [...document.querySelectorAll(".questions li:not([hidden]) a")];
    const current = links.indexOf(document.activeElement);
    const next = links[current < 0 ? 0 : Math.min(Math.max(current + step, 0), links.length - 1)];
    if (next) next.focus();
  };
  if (event.key === "j" || event.key === "ArrowRight") { if (!go("next") && event.key === "j") move(1); }
  else if (event.key === "k" || event.key === "ArrowLeft") { if (!go("prev") && event.key === "k") move(-1); }
  else if (event.key === "u") go("up");
  else if (event.key === "m") { const link = document.getElementById("switch"); if (link) link.click(); }
  else if (event.key === "n") nextMark();
  else if (event.key === "?") document.getElementById("keys").showModal();
  else if (event.key === "/") {
    const search = document.getElementById("search") || document.getElementById("filter");
    if (search) { event.preventDefault(); search.focus(); }
  }
});

// Choices apply at once: a served list is asked for again, an exported one is filtered here.
const form = document.querySelector("form.choices");
const list = document.getElementById("list");
const LIVE = ["spread", "shown", "list"];
let asked = null;
const show = async (address) => {
  if (asked) asked.abort();
  asked = new AbortController();
  list.setAttribute("aria-busy", "true");
  try {
    const reply = await fetch(address, { signal: asked.signal });
    const next = new DOMParser().parseFromString(await reply.text(), "text/html");
    if (!next.getElementById("list")) { location.assign(address); return; } // an error: its page says what is wrong
    for (const id of LIVE) {
      const part = document.getElementById(id), fresh = next.getElementById(id);
      if (part && fresh) part.replaceChildren(...fresh.childNodes);
    }
    history.replaceState(null, "", address);
    list.removeAttribute("aria-busy");
  } catch (error) {
    if (error.name !== "AbortError") location.assign(address);
  }
};
const address = () => {
  const chosen = [...new FormData(form)].filter(([, value]) => value.trim());
  return `${form.action.split("?")[0]}?${new URLSearchParams(chosen)}`;
};
const originals = list ? [...list.children] : [];
const inRange = (text, score, top) => {
  if (!text) return true;
  if (score === "") return false;
  const [low, high] = text.split("..").map(Number), value = Number(score);
  if (high === undefined) return Math.abs(value - low) <= 1e-6 + 1e-5 * Math.abs(low);
  return (low <= value && value < high) || (value === high && high === top);
};
const ORDERS = {
  "score": (line) => line.dataset.score, "drop": (line) => line.dataset.score,
  "-score": (line) => -line.dataset.score, "gain": (line) => -line.dataset.score, "-length": (line) => -line.dataset.length,
};
const filterHere = () => {
  const value = (name) => (form.elements[name] ? form.elements[name].value : "");
  const words = value("q").trim().toLowerCase();
  const top = Math.max(...originals.map((line) => line.dataset.score).filter((score) => score).map(Number));
  let count = 0;
  for (const line of originals) {
    const { category, flag, score } = line.dataset;
    const kept = line.textContent.toLowerCase().includes(words) && (!value("category") || category === value("category"))
      && (!value("flag") || flag.split(" ").includes(value("flag"))) && inRange(value("score"), score, top);
    line.hidden = !kept;
    count += kept ? 1 : 0;
  }
  const key = ORDERS[value("sort")];
  const missing = (line) => (line.dataset.score === "" ? 1 : 0);
  list.append(...(key ? [...originals].sort((a, b) => missing(a) - missing(b) || key(a) - key(b)) : originals));
  const text = document.getElementById("shown").firstChild;
  text.textContent = text.textContent.replace(/^\d+/, count);
};
if (form && list) {
  const apply = "exported" in form.dataset ? filterHere : () => show(address());
  let timer = 0;
  form.addEventListener("input", (event) => {
    clearTimeout(timer);
    timer = setTimeout(apply, event.target.type === "search" ? 200 : 0); // milliseconds: a search waits for a pause in typing
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    clearTimeout(timer);
    await apply();
    const link = document.querySelector(".questions li:not([hidden]) a");
    if (link) link.focus();
  });
  form.querySelector("button").hidden = true;
  const spread = document.getElementById("spread");
  if (spread) spread.addEventListener("click", (event) => {
    const bar = event.target.closest("a");
    if (!bar || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    form.elements.score.value = new URL(bar.href.baseVal, location.href).searchParams.get("score") || "";
    apply();
  });
}
// n goes round the places that have the searched words
let marked = -1;
const nextMark = () => {
  const marks = document.querySelectorAll(".text mark");
  if (!marks.length) return;
  if (marked >= 0) marks[marked].classList.remove("current");
  marked = (marked + 1) % marks.length;
  for (let fold = marks[marked].closest("details"); fold; fold = fold.parentElement.closest("details")) fold.open = true;
  marks[marked].classList.add("current");
  marks[marked].scrollIntoView({ block: "center" });
};

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
