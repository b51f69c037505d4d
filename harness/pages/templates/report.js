// Sorting, filtering and the theme of the leaderboard page. The page works without it.
"use strict";
(() => {
  const state = new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
  const remember = (key, value) => {
    if (value) state.set(key, value); else state.delete(key);
    const hash = state.toString();
    history.replaceState(null, "", hash ? "#" + hash : "#top");
  };

  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const setTheme = (value) => {
    if (value === "auto") delete root.dataset.theme; else root.dataset.theme = value;
  };
  if (theme) {
    theme.value = state.get("theme") || "auto";
    setTheme(theme.value);
    theme.addEventListener("change", () => {
      setTheme(theme.value);
      remember("theme", theme.value === "auto" ? "" : theme.value);
    });
  }

  const key = (row, column) => row.children[column].dataset.key ?? row.children[column].textContent.trim();
  const compare = (a, b) => {
    if (a === "" || b === "") return a === b ? 0 : a === "" ? Infinity : -Infinity; // missing values come last
    const x = Number(a), y = Number(b);
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  };
  const sort = (table, column, direction) => {
    const sign = direction === "descending" ? -1 : 1;
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((a, b) => {
      const order = compare(key(a, column), key(b, column));
      return Math.abs(order) === Infinity ? Math.sign(order) : sign * order;
    });
    body.append(...rows);
    [...table.tHead.rows[0].cells].forEach((cell, index) => {
      if (index === column) cell.setAttribute("aria-sort", direction); else cell.removeAttribute("aria-sort");
    });
    const status = document.getElementById("status");
    if (status) status.textContent = `sorted by ${table.tHead.rows[0].cells[column].textContent.trim()}, ${direction}`;
  };
  document.querySelectorAll("table.sortable").forEach((table) => {
    [...table.tHead.rows[0].cells].forEach((cell, column) => {
      const button = cell.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const first = cell.dataset.first || "ascending";
        const opposite = first === "ascending" ? "descending" : "ascending";
        const direction = cell.getAttribute("aria-sort") === first ? opposite : first;
        sort(table, column, direction);
        remember("sort", `${table.id}.${column}.${direction}`);
      });
    });
    const choice = document.querySelector(`select[data-sorts="${table.id}"]`);
    if (choice) choice.addEventListener("change", () => {
      const [direction, ...name] = choice.value.split(".");
      const column = [...table.tHead.rows[0].cells].findIndex((cell) => cell.dataset.col === name.join("."));
      sort(table, column, direction);
      remember("sort", `${table.id}.${column}.${direction}`);
    });
  });
  const sorted = (state.get("sort") || "").match(/^([\w-]+)\.(\d+)\.(ascending|descending)$/);
  const target = sorted && document.getElementById(sorted[1]);
  if (target && target.tHead && Number(sorted[2]) < target.tHead.rows[0].cells.length) {
    sort(target, Number(sorted[2]), sorted[3]);
  }

  const filter = document.getElementById("filter");
  if (filter) {
    const apply = () => {
      const text = filter.value.trim().toLowerCase();
      let shown = 0, all = 0;
      document.querySelectorAll("tr[data-model]").forEach((row) => {
        row.hidden = !row.dataset.model.toLowerCase().includes(text);
        all += 1;
        shown += row.hidden ? 0 : 1;
      });
      document.getElementById("status").textContent = text ? `${shown} of ${all} rows` : "";
    };
    filter.value = state.get("filter") || "";
    if (filter.value) apply();
    filter.addEventListener("input", () => { apply(); remember("filter", filter.value.trim()); });
  }
})();
