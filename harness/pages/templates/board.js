// The leaderboard page: tabs, sorting, filtering, columns, chosen models, copying, and figures.
// Without this script the page is all its tables, one below the other. What a reader chose lies in the
// address after "#", so that a link shows it. Names are untrusted: they are set as text, never as markup.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const root = document.documentElement;
  root.classList.add("js");
  const phone = matchMedia("(max-width: 46rem)");

  // ---------------------------------------------------------------------------------- elements and texts

  const build = (element, attributes, children) => {
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children.filter((child) => child !== null));
    return element;
  };
  const html = (tag, attributes = {}, ...children) => build(document.createElement(tag), attributes, children);
  const svg = (tag, attributes = {}, ...children) =>
    build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
  const button = (text, act) => {
    const element = html("button", { type: "button" }, text);
    element.addEventListener("click", act);
    return element;
  };
  const signed = (value) => (value > -0.005 ? "+" : "-") + Math.abs(value).toFixed(2);  // never -0.00
  /** Both the test and the interval must show a difference, as in harness compare. */
  const isShown = (p, apart) => p <= 0.05 && Boolean(apart);
  const pText = (p, apart) => (p < 0.001 ? "< 0.001" : p.toFixed(3)) + (isShown(p, apart) ? " *" : "");
  /** Models of one family differ at the ends of their names, so the middle is left out. */
  const short = (text, length) => {
    if (text.length <= length) return text;
    const end = Math.floor((length - 1) / 2);
    return text.slice(0, length - 1 - end) + "…" + text.slice(text.length - end);
  };
  const say = (text) => { byId("status").textContent = text; };

  // ---------------------------------------------------------------------------------- what the address keeps

  const hash = location.hash.slice(1);
  const state = new URLSearchParams(hash.includes("=") ? hash : "");
  const remember = (key, ...values) => {
    state.delete(key);
    values.forEach((value) => state.append(key, value));
    const text = state.toString();
    history.replaceState(null, "", text ? "#" + text : location.pathname + location.search);
  };

  const theme = byId("theme");
  const setTheme = () => {
    if (theme.value === "auto") delete root.dataset.theme; else root.dataset.theme = theme.value;
  };
  if ([...theme.options].some((option) => option.value === state.get("theme"))) theme.value = state.get("theme");
  setTheme();
  theme.addEventListener("change", () => {
    setTheme();
    remember("theme", ...(theme.value === "auto" ? [] : [theme.value]));
  });

  // ---------------------------------------------------------------------------------- tabs

  const tabs = [...document.querySelectorAll("nav.tabs a")];
  const panels = tabs.map((tab) => byId(tab.hash.slice(1)).closest("section"));
  let current = 0;
  const panel = () => panels[current];
  const tableData = () => data.tables[panel().dataset.table];
  const mainTable = () => panel().querySelector("table.sortable");
  const show = (position) => {
    current = position;
    tabs.forEach((tab, at) => {
      tab.setAttribute("aria-selected", String(at === position));
      tab.tabIndex = at === position ? 0 : -1;
      panels[at].hidden = at !== position;
    });
    listColumns();
    applyFilter();
    drawChosen();
  };
  const open = (position) => {
    show(position);
    remember("tab", tabs[position].hash.slice(1));
  };
  const prepareTabs = () => {
    const list = document.querySelector("nav.tabs ul");
    list.setAttribute("role", "tablist");
    tabs.forEach((tab, at) => {
      tab.parentElement.setAttribute("role", "presentation");
      panels[at].id = `p-${at}`;
      panels[at].setAttribute("role", "tabpanel");
      build(tab, { role: "tab", "aria-controls": `p-${at}` }, []);
      tab.addEventListener("click", (event) => { event.preventDefault(); open(at); });
      tab.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (event.key === " ") { event.preventDefault(); open(at); }
        if (!step) return;
        event.preventDefault();
        open((at + step + tabs.length) % tabs.length);
        tabs[current].focus();
      });
    });
  };

  // ---------------------------------------------------------------------------------- sorting

  const columnAt = (table, name) => [...table.tHead.rows[0].cells].findIndex((cell) => nameOf(cell) === name);
  const nameOf = (cell) => cell.dataset.col ?? cell.textContent.trim();
  const keyOf = (row, column) => row.cells[column].dataset.key ?? row.cells[column].textContent.trim();
  const compareKeys = (a, b) => {
    if (a === "" || b === "") return a === b ? 0 : a === "" ? Infinity : -Infinity; // missing values come last
    const x = Number(a), y = Number(b);
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  };
  const sort = (table, name, direction) => {
    const column = columnAt(table, name);
    if (column < 0) return;
    const sign = direction === "descending" ? -1 : 1;
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const order = compareKeys(keyOf(a, column), keyOf(b, column));
      return Math.abs(order) === Infinity ? Math.sign(order) : sign * order;
    });
    table.tBodies[0].append(...rows);
    [...table.tHead.rows[0].cells].forEach((cell, at) => {
      if (at === column) cell.setAttribute("aria-sort", direction); else cell.removeAttribute("aria-sort");
    });
    say(`sorted by ${name}, ${direction}`);
  };
  const chooseSort = (table, name, direction) => {
    sort(table, name, direction);
    remember("sort", `${table.id}.${direction}.${name}`);
  };
  const prepareSorting = (table) => {
    for (const cell of table.tHead.rows[0].cells) {
      const head = cell.querySelector("button");
      if (!head) continue;
      head.addEventListener("click", () => {
        const first = cell.dataset.first || "ascending";
        const opposite = first === "ascending" ? "descending" : "ascending";
        chooseSort(table, nameOf(cell), cell.getAttribute("aria-sort") === first ? opposite : first);
      });
    }
    const choice = document.querySelector(`select[data-sorts="${table.id}"]`);
    if (choice) choice.addEventListener("change", () => {
      const [direction, ...name] = choice.value.split(".");
      chooseSort(table, name.join("."), direction);
    });
  };

  // ---------------------------------------------------------------------------------- filter

  const filter = byId("filter");
  const matcher = (text) => {
    const words = text.trim().toLowerCase();
    if (!/[*?]/.test(words)) return (name) => name.toLowerCase().includes(words);
    const parts = words.replace(/[.+^${}()|[\]\\]/g, "\\$&").replaceAll("*", ".*").replaceAll("?", ".");
    const pattern = new RegExp(`^${parts}$`, "s");
    return (name) => pattern.test(name.toLowerCase());
  };
  const clearFilter = () => {
    filter.value = "";
    remember("filter");
    applyFilter();
    filter.focus();
  };
  const applyFilter = () => {
    const matches = matcher(filter.value);
    document.querySelectorAll("tr[data-model]").forEach((row) => { row.hidden = !matches(row.dataset.model); });
    const rows = [...panel().querySelectorAll("tr[data-model]")];
    const models = new Set(rows.map((row) => row.dataset.model));
    const shown = new Set(rows.filter((row) => !row.hidden).map((row) => row.dataset.model));
    say(filter.value.trim() ? `${shown.size} of ${models.size} models` : "");
    for (const details of panel().querySelectorAll("details:has(tr[data-model])")) { // reported figures are folded
      details.open = Boolean(filter.value.trim()) && Boolean(details.querySelector("tr[data-model]:not([hidden])"));
    }
    panel().querySelectorAll(".empty").forEach((element) => element.remove());
    panel().classList.toggle("nothing", !shown.size);
    if (!shown.size) {
      const text = `No model here matches “${filter.value.trim()}”. `;
      panel().querySelector("h2").after(html("p", { class: "empty" }, text, button("Clear the filter", clearFilter)));
    }
    drawFigures();
  };
  filter.addEventListener("input", () => {
    remember("filter", ...(filter.value.trim() ? [filter.value.trim()] : []));
    applyFilter();
  });

  // ---------------------------------------------------------------------------------- columns

  const ALWAYS = ["rank", "model", "choose"];
  const hidden = () => {
    if (state.has("hide")) return state.getAll("hide");
    if (!phone.matches) return ["run"];
    return [...document.querySelectorAll("th[data-col]")].map(nameOf)
      .filter((name) => name !== "95 % interval" && !name.startsWith("against ") && !isScore(name));
  };
  const isScore = (name) => Object.values(data.tables).some((table) => table.metric === name);
  const hideColumns = () => {
    const names = hidden().filter((name) => !ALWAYS.includes(name));
    for (const table of document.querySelectorAll("section[data-table] table.sortable")) {
      const heads = [...table.tHead.rows[0].cells];
      const away = heads.map((cell) => names.includes(nameOf(cell)));
      for (const row of table.rows) [...row.cells].forEach((cell, at) => { cell.hidden = away[at]; });
    }
  };
  const listColumns = () => {
    const menu = byId("columns");
    menu.hidden = !panel().dataset.table;
    for (const id of ["copy-markdown", "copy-csv"]) byId(id).hidden = tabs[current].hash === "#reported";
    if (menu.hidden) return;
    const names = [...mainTable().tHead.rows[0].cells].map(nameOf).filter((name) => !ALWAYS.includes(name));
    byId("column-list").replaceChildren(...names.map((name) => {
      const box = html("input", { type: "checkbox" });
      box.checked = !hidden().includes(name);
      box.addEventListener("change", () => {
        const rest = hidden().filter((other) => other !== name);
        remember("hide", ...(box.checked ? (rest.length ? rest : [""]) : [...rest, name]));
        hideColumns();
      });
      return html("label", {}, box, " ", name);
    }));
  };
  document.addEventListener("click", (event) => {
    if (!event.target.closest(".menu")) byId("columns").open = false;
  });
  byId("columns").addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    byId("columns").open = false;
    byId("columns").querySelector("summary").focus();
  });

  // ---------------------------------------------------------------------------------- chosen models

  let chosen = state.getAll("chosen");
  const choose = (runs) => {
    chosen = runs;
    remember("chosen", ...chosen);
    drawChosen();
    drawFigures();
  };
  const prepareChoosing = (table) => {
    const first = table.tHead.rows[0].insertCell(0);
    first.replaceWith(html("th", { scope: "col", role: "columnheader", "data-col": "choose", class: "choose" },
      html("span", { class: "hidden-text" }, "choose")));
    for (const row of table.tBodies[0].rows) {
      const box = html("input", { type: "checkbox", "aria-label": `choose ${row.dataset.model}`, value: row.dataset.run });
      box.addEventListener("change", () =>
        choose(box.checked ? [...chosen, box.value] : chosen.filter((run) => run !== box.value)));
      row.insertCell(0).append(box);
      build(row.cells[0], { role: "cell", class: "choose" }, []);
    }
  };
  /** Rows of the current table that were chosen, in the order of choosing. */
  const chosenRows = () => chosen.map((run) => tableData().rows.find((row) => row.run === run)).filter(Boolean);
  /** `row` minus `other` as harness compare states it; undefined if the page has no such pair. */
  const pairOf = (table, row, other) => {
    table.byPair ??= new Map(table.pairs.map((pair) => [`${pair[0]} ${pair[1]}`, pair]));
    const a = table.rows.indexOf(row), b = table.rows.indexOf(other);
    const pair = table.byPair.get(`${a} ${b}`) ?? table.byPair.get(`${b} ${a}`);
    if (!pair) return undefined;
    const [first, , difference, low, high, p, won, lost, n, paired, apart] = pair;
    const same = { difference, low, high, p, won, lost, n, paired, apart };
    return first === a ? same : { ...same, difference: -difference, low: -high, high: -low, won: lost, lost: won };
  };
  /** Direct games in which `row` played `other`, as seen by `row`. */
  const gamesOf = (table, row, other) => {
    const a = table.rows.indexOf(row), b = table.rows.indexOf(other);
    return (table.games ?? []).flatMap(([first, second, rate, low, high, p, won, tied, lost, judge, apart]) =>
      first === a && second === b ? [{ rate, low, high, p, won, tied, lost, judge, apart }]
        : first === b && second === a ? [{ rate: 100 - rate, low: 100 - high, high: 100 - low, p, won: lost, tied, lost: won, judge, apart }] : []);
  };
  const gamesText = (game) => `${game.rate.toFixed(2)} % of the points [${game.low.toFixed(2)}, ${game.high.toFixed(2)}], `
    + `p ${pText(game.p, game.apart)}; ${game.won} / ${game.tied} / ${game.lost} questions won / tied / lost, judge ${game.judge}`;
  /** Holm's correction, as in harness compare: the largest (m - i) p(i) so far, in ascending order of p. */
  const holm = (ps) => {
    const order = ps.map((p, at) => at).sort((a, b) => ps[a] - ps[b]);
    let highest = 0;
    const adjusted = [];
    order.forEach((at, rank) => { adjusted[at] = highest = Math.max(highest, Math.min(1, (ps.length - rank) * ps[at])); });
    return adjusted;
  };
  const shellWord = (text) => (/^[\w./:@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
  const compareLink = (first, row) => {
    if (!data.viewer || !first.folder || !row.folder) return null;
    const query = new URLSearchParams({ a: first.folder, b: row.folder });
    return html("a", { href: `${data.viewer}/compare?${query}` }, "questions");
  };
  const drawChosen = () => {
    if (!panel().dataset.table) return;
    const table = tableData();
    const rows = chosenRows();
    for (const box of panel().querySelectorAll("td.choose input")) {
      box.checked = chosen.includes(box.value);
      box.closest("tr").classList.toggle("picked", box.checked);
    }
    const place = byId(`c-${panel().dataset.table}`);
    place.classList.toggle("some", rows.length > 0);
    if (rows.length < 2) {
      const text = !table.pairs.length ? "" : rows.length ? `${rows[0].model} is chosen. Choose another model to see the difference.`
        : "Choose two models to see their difference.";
      place.replaceChildren(html("p", { class: "muted" }, text, " ", rows.length ? button("Clear", () => choose([])) : null));
      return;
    }
    const [first, ...others] = rows;
    const pairs = others.map((row) => pairOf(table, row, first));
    const known = pairs.filter(Boolean);
    const adjusted = holm(known.map((pair) => pair.p));
    const lines = others.map((row, at) => {
      const pair = pairs[at];
      const name = html("th", { scope: "row" }, html("bdi", {}, row.model));
      if (!pair) return html("tr", {}, name, html("td", { colspan: 5, class: "muted" }, "not compared: incomplete, or without errors"));
      const gain = table.better * pair.difference;
      const p = adjusted[known.indexOf(pair)];
      const verdict = !isShown(p, pair.apart) || gain === 0 ? "" : gain > 0 ? "good" : "bad";
      const ties = pair.n - pair.won - pair.lost;
      return html("tr", {}, name,
        html("td", { class: `number ${verdict}` }, html("strong", {}, signed(pair.difference))),
        html("td", { class: "number" }, `[${signed(pair.low)}, ${signed(pair.high)}]`),
        html("td", { class: "number", "data-label": "p" }, pText(p, pair.apart)),
        html("td", { class: "number", "data-label": "won / tied / lost" }, pair.n && table.better ? `${pair.won} / ${ties} / ${pair.lost}` : "-"),
        html("td", {}, pair.paired ? "paired" : "unpaired", " ", compareLink(first, row)));
    });
    const head = ["model", `minus ${short(first.model, 40)}`, "95 %", "p", "won / tied / lost questions", ""];
    const cells = head.map((text, at) => html("th", { scope: "col", class: at && at < 5 ? "number" : "" }, text));
    const command = `harness compare ${rows.map((row) => shellWord(row.model)).join(" ")} --suite ${shellWord(table.suite)}`;
    const games = others.flatMap((row) => gamesOf(table, row, first).map((game) => html("p", { class: "games" },
      "Direct games: ", html("bdi", {}, row.model), " against ", html("bdi", {}, first.model), `, ${gamesText(game)}`)));
    place.replaceChildren(
      html("h3", {}, `Difference in ${table.metric} from `, html("bdi", {}, first.model)),
      html("div", { class: "scroll" }, html("table", {}, html("thead", {}, html("tr", {}, ...cells)), html("tbody", {}, ...lines))),
      ...games,
      html("p", { class: "muted" }, known.length > 1 ? `p two-sided, corrected by Holm over ${known.length} models; * is p <= 0.05 and an interval without 0. `
        : "p two-sided; * is p <= 0.05 and an interval without 0. ", "The same numbers: ", html("code", {}, command), " ",
        button("Copy", () => copy(command, "the command")), " ", button("Clear", () => choose([]))));
  };

  // ---------------------------------------------------------------------------------- copying

  const copy = async (text, what) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch { // a page from disk may not have the permission
      const area = html("textarea", { class: "hidden-text" });
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    say(`copied ${what}`);
  };
  const escapeMarkdown = (text) => text.replace(/([\\`*_[\]|#~])/g, "\\$1").replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  /** A CSV cell that no spreadsheet executes. */
  const csvCell = (text) => {
    const safe = /^\s*[=+\-@＝＋－＠]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
    return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const visibleTable = () => {
    const table = panel().querySelector("table.sortable");
    const heads = [...table.tHead.rows[0].cells];
    const columns = heads.map((cell, at) => at)
      .filter((at) => !heads[at].hidden && !["choose", "95 % interval"].includes(nameOf(heads[at])));
    const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden);
    return { heads, columns, rows };
  };
  byId("copy-markdown").addEventListener("click", () => {
    const { heads, columns, rows } = visibleTable();
    const line = (texts) => `| ${texts.join(" | ")} |`;
    const text = (cell) => escapeMarkdown(cell.textContent.replace(/\s+/g, " ").trim());
    const rule = columns.map((at) => (heads[at].classList.contains("number") ? "---:" : "---"));
    const lines = [line(columns.map((at) => escapeMarkdown(nameOf(heads[at])))), line(rule),
      ...rows.map((row) => line(columns.map((at) => text(row.cells[at]))))];
    const source = [panel().querySelector("h2").textContent, document.querySelector(".facts").textContent];
    const caption = escapeMarkdown(source.join(", ").replace(/\s+/g, " ").trim());
    copy(`${lines.join("\n")}\n\n${caption}\n`, `${rows.length} rows as Markdown`);
  });
  byId("copy-csv").addEventListener("click", () => {
    const { heads, columns, rows } = visibleTable();
    const scores = new Map((tableData()?.rows ?? []).map((row) => [row.run, row.score]));
    const ends = scores.size ? ["95 % low", "95 % high"] : [];
    const lines = [[...columns.map((at) => nameOf(heads[at])), ...ends], ...rows.map((row) => [
      ...columns.map((at) => row.cells[at].dataset.key ?? row.cells[at].textContent.trim()),
      ...ends.map((_, at) => String(scores.get(row.dataset.run)[at + 1] ?? "")),
    ])];
    copy(lines.map((line) => line.map(csvCell).join(",")).join("\n") + "\n", `${rows.length} rows as CSV`);
  });

  // ---------------------------------------------------------------------------------- figures

  const axis = (values, start, end, pad = 0.06) => {
    const low = Math.min(...values), high = Math.max(...values);
    const room = (high - low) * pad || Math.max(Math.abs(high) * pad, 0.5);
    const scale = (value) => start + ((value - low + room) / (high - low + 2 * room)) * (end - start);
    const raw = (high - low + 2 * room) / 5, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((factor) => power * factor).find((size) => size >= raw * 0.999);
    scale.ticks = [];
    for (let at = Math.ceil((low - room) / step); at * step <= high + room; at += 1) scale.ticks.push(Number((at * step).toPrecision(10)));
    return scale;
  };
  const line = (x1, y1, x2, y2, css) => svg("line", { x1, y1, x2, y2, class: css });
  const label = (x, y, text, css = "", anchor = "start") => svg("text", { x, y, class: css, "text-anchor": anchor }, text);
  const across = (scale, top, bottom) => scale.ticks.flatMap((tick) => [
    line(scale(tick), top, scale(tick), bottom, "grid"), label(scale(tick), bottom + 16, String(tick), "small muted", "middle")]);
  const drawing = (width, height, title, children) =>
    svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title }, ...children);
  const figure = (heading, picture, note, ...tools) => html("figure", {},
    html("div", { class: "heading" }, html("h3", {}, heading), ...tools),
    html("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Figure: ${heading}` }, picture),
    note ? html("figcaption", {}, note) : null);
  const choice = (name, label, options, act) => {
    const select = html("select", { "aria-label": label },
      ...options.map(({ key, label: text }) => html("option", { value: key }, text)));
    const kept = state.get(name);
    if (options.some(({ key }) => key === kept)) select.value = kept;
    select.addEventListener("change", () => {
      remember(name, select.value);
      act();
      byId(`f-${panel().dataset.table}`).querySelector(`select[aria-label="${label}"]`).focus();
    });
    return select;
  };
  const spanText = ([value, low, high], decimals = 2) =>
    value.toFixed(decimals) + (low === null ? "" : ` [${low.toFixed(2)}, ${high.toFixed(2)}]`);
  const markOf = (row) => {
    const at = chosenRows().indexOf(row);
    return at < 0 ? "mark" : `m${(at % 8) + 1}`;
  };

  const scatter = (table, rows, width) => {
    if (!table.axes.length) return null;
    const select = choice("x", "Across", table.axes, drawFigures);
    const { key, label: name } = table.axes.find((candidate) => candidate.key === select.value);
    const points = rows.filter((row) => row[key] !== undefined && row.score[0] !== null);
    if (points.length < 2) return null;
    const height = 340, left = 46, right = 12, bottom = height - 40;
    const x = axis(points.map((row) => row[key]), left, width - right);
    const y = axis(points.flatMap((row) => row.score.filter((value) => value !== null)), bottom, 10);
    const parts = [...across(x, 10, bottom), ...y.ticks.flatMap((tick) => [
      line(left, y(tick), width - right, y(tick), "grid"), label(left - 6, y(tick) + 4, String(tick), "small muted", "end")]),
      label((left + width) / 2, height - 6, name, "small muted", "middle")];
    const taken = points.map(({ [key]: at, score: [value, low, high] }) => {
      const top = y(high ?? value) - 5;
      return { x: x(at) - 4, y: top, width: 8, height: y(low ?? value) + 5 - top };
    });
    const names = [];
    const first = new Set(chosenRows());
    for (const row of [...points].sort((a, b) => first.has(b) - first.has(a))) {
      const [value, low, high] = row.score, at = x(row[key]);
      const css = markOf(row);
      parts.push(svg("g", { class: first.size && !first.has(row) ? "faint" : "" },
        low === null ? null : line(at, y(low), at, y(high), css === "mark" ? "whisker" : css),
        svg("circle", { cx: at, cy: y(value), r: first.has(row) ? 5 : 4, class: css }),
        svg("title", {}, `${row.model}: ${spanText(row.score)} at ${row[key]}`)));
      const text = short(row.model, 26), size = 6 * text.length;
      // a name goes where it covers nothing: right or left of its mark, else it only shows on hovering
      const places = [{ x: at + 8, anchor: "start" }, { x: at - 8 - size, anchor: "end" }];
      const free = places.find((place) => place.x > left && place.x + size < width && !taken.some((box) =>
        place.x < box.x + box.width && box.x < place.x + size && y(value) - 6 < box.y + box.height && box.y < y(value) + 6));
      if (!free) continue;
      taken.push({ x: free.x, y: y(value) - 6, width: size, height: 12 });
      names.push(label(free.anchor === "start" ? free.x : at - 8, y(value) + 4, text, "small", free.anchor));
    }
    const title = `${table.metric} against ${name}`;
    return figure(title, drawing(width, height, title, [...parts, ...names]),
      "Point at a mark for its model. Names that would overlap are left out; chosen models stand out.", select);
  };

  const categories = (table, rows, width, alone) => {
    const shown = (chosenRows().length ? chosenRows() : rows.slice(0, 4)).slice(0, 8)
      .filter((row) => Object.keys(row.categories).length > 1);
    const names = [...new Set(shown.flatMap((row) => Object.keys(row.categories)))];
    if (!names.length) return null;
    const band = Math.max(22, 9 * shown.length + 8), left = Math.min(150, 14 + 6.5 * Math.max(...names.map((name) => name.length)));
    const bottom = 6 + band * names.length;
    const scores = shown.flatMap((row) => Object.values(row.categories)).flat().filter((value) => value !== null);
    if (!scores.length) return null;
    const x = axis(scores, left, width - 12);
    const parts = [...across(x, 6, bottom)];
    names.forEach((name, at) => {
      const top = 6 + band * at;
      parts.push(line(8, top, width - 12, top, "grid"), label(8, top + band / 2 + 4, short(name, 22)));
      shown.forEach((row, series) => {
        const score = row.categories[name];
        if (!score || score[0] === null) return;
        const y = top + 8 + 9 * series + (band - 8 - 9 * shown.length) / 2, css = `m${series + 1}`;
        parts.push(svg("g", {}, score[1] === null ? null : line(x(score[1]), y, x(score[2]), y, css),
          svg("circle", { cx: x(score[0]), cy: y, r: 3.5, class: css }),
          svg("title", {}, `${row.model}, ${name}: ${spanText(score)}`)));
      });
    });
    const legend = html("ul", { class: "legend" }, ...shown.map((row, series) => html("li", {},
      svg("svg", { width: 12, height: 12, "aria-hidden": "true" }, svg("circle", { cx: 6, cy: 6, r: 4.5, class: `m${series + 1}` })),
      html("bdi", {}, row.model))));
    const title = `${table.categoryMetric} by category`;
    const note = html("div", {}, legend, chosenRows().length ? "The chosen models, with 95 % intervals." :
      "The first models of the table, with 95 % intervals; choose others in the table, up to eight.");
    const result = figure(title, drawing(width, bottom + 24, title, parts), note);
    if (alone) result.classList.add("whole");
    return result;
  };

  const MATRIX = [{ key: "won", label: "share of questions won" }, { key: "difference", label: "difference in score" }];
  const matrix = (table, rows, width) => {
    const pairs = rows.map((row) => rows.map((other) => (row === other ? undefined : pairOf(table, row, other))));
    const direct = (row, other) => gamesOf(table, row, other)[0];
    const ranked = rows.filter((row, at) => pairs[at].some(Boolean) || rows.some((other) => direct(row, other)));
    const played = ranked.some((row) => ranked.some((other) => direct(row, other)));
    if (ranked.length < (played ? 2 : 3)) return null;
    const options = played || (table.better && pairs.flat().some((pair) => pair?.n)) ? MATRIX : MATRIX.slice(1);
    const select = choice("matrix", "Cells", options, drawFigures);
    const longest = Math.max(...ranked.map((row) => row.model.length));
    const left = Math.min(phone.matches ? 110 : 230, 34 + 6.2 * longest);
    const size = Math.max(12, Math.min(40, Math.floor((width - left - 4) / ranked.length)));
    const known = pairs.flat().filter(Boolean);
    const widest = Math.max(...known.map((pair) => Math.abs(pair.difference))) || 1;
    const strength = (pair, game) => (select.value === "difference" ? table.better * pair.difference / widest
      : game ? game.rate / 50 - 1 : pair.n && table.better ? (pair.won - pair.lost) / pair.n : 0);
    const parts = [];
    ranked.forEach((row, down) => {
      const y = 20 + size * down;
      parts.push(label(left - 6, y + size / 2 + 4, `${short(row.model, Math.floor((left - 34) / 6))} ${down + 1}`, "small", "end"),
        label(left + size * (down + 0.5), 14, String(down + 1), size < 16 ? "tiny muted" : "small muted", "middle"));
      ranked.forEach((other, right) => {
        const pair = pairOf(table, row, other), game = select.value === "difference" ? undefined : direct(row, other);
        if (row === other || !(pair || game)) return;
        const inset = isShown((game ?? pair).p, (game ?? pair).apart) ? 0.5 : size * 0.28, x = left + size * right, value = strength(pair, game);
        parts.push(svg("rect", { x: x + inset, y: y + inset, width: size - 2 * inset, height: size - 2 * inset,
          class: (value > 0 ? "plus" : value < 0 ? "minus" : "even") + (game ? " direct" : ""), "fill-opacity": (0.1 + 0.5 * Math.min(1, Math.abs(value))).toFixed(2),
          "data-pair": `${table.rows.indexOf(row)} ${table.rows.indexOf(other)}` }));
        if (size < 26) return;
        const text = select.value === "difference" ? pair.difference.toFixed(widest < 10 ? 1 : 0) : String(Math.round(50 + 50 * value));
        parts.push(label(x + size / 2, y + size / 2 + 3.5, text, "tiny", "middle"));
      });
    });
    const title = "Every model against every other";
    const picture = drawing(left + size * ranked.length + 4, 24 + size * ranked.length, title, parts);
    const readout = html("p", { class: "readout" }, "Point at a cell for the two models; click or tap it to choose them.");
    const rowsAt = (target) => (target.dataset?.pair ?? "").split(" ").filter(Boolean).map((at) => table.rows[Number(at)]);
    picture.addEventListener("mousemove", (event) => {
      const [row, other] = rowsAt(event.target);
      if (!row) return;
      const pair = pairOf(table, row, other);
      const won = pair?.n && table.better ? `; better on ${pair.won}, worse on ${pair.lost} of ${pair.n} questions` : "";
      const score = pair ? [html("bdi", {}, row.model), " minus ", html("bdi", {}, other.model),
        `: ${signed(pair.difference)} [${signed(pair.low)}, ${signed(pair.high)}], p ${pText(pair.p, pair.apart)}${won}`] : [];
      const games = gamesOf(table, row, other).flatMap((game) => [html("br"),
        "Direct games: ", html("bdi", {}, row.model), " against ", html("bdi", {}, other.model), `, ${gamesText(game)}`]);
      readout.replaceChildren(...(score.length ? [...score, ...games] : games.slice(1)));
    });
    picture.addEventListener("click", (event) => {
      const [row, other] = rowsAt(event.target);
      if (row) choose([other.run, row.run]);
    });
    const what = select.value === "difference" ? `row minus column in ${table.metric}`
      : "percent of the common questions on which the row scores better than the column, ties as half";
    const outlined = played && select.value !== "difference"
      ? " Outlined cells: the two models' direct games (harness compare --head-to-head), percent of the points." : "";
    const note = html("div", {}, readout,
      `Cells: ${what}.${outlined} Small squares: no difference shown (p > 0.05, or an interval with 0). p is not corrected for the number of pairs.`);
    const result = figure(title, picture, note, select);
    result.classList.add("whole");
    return result;
  };

  const drawFigures = () => {
    if (!panel().dataset.table) return;
    const place = byId(`f-${panel().dataset.table}`);
    const table = tableData();
    const matches = matcher(filter.value);
    const rows = table.rows.filter((row) => matches(row.model));
    const whole = Math.max(300, place.clientWidth - 34);
    const half = place.clientWidth > 1040 ? Math.floor((place.clientWidth - 22) / 2) - 34 : whole;
    const byLength = scatter(table, rows, half);
    place.replaceChildren(...[byLength, categories(table, rows, byLength ? half : whole, !byLength), matrix(table, rows, whole)].filter(Boolean));
  };
  let drawn = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === drawn) return; // a phone's address bar changes the height alone
    drawn = innerWidth;
    hideColumns();
    listColumns();
    drawFigures();
  });

  // ---------------------------------------------------------------------------------- start

  prepareTabs();
  document.querySelectorAll("section[data-table] table.sortable").forEach(prepareChoosing);
  document.querySelectorAll("table.sortable").forEach(prepareSorting);
  const sorted = (state.get("sort") || "").match(/^([\w-]+)\.(ascending|descending)\.(.*)$/s);
  if (sorted && byId(sorted[1])?.tHead) sort(byId(sorted[1]), sorted[3], sorted[2]);
  hideColumns();
  filter.value = state.get("filter") || "";
  const wanted = state.get("tab") || hash;
  const asked = tabs.findIndex((tab) => tab.hash.slice(1) === wanted);
  show(asked >= 0 ? asked : Math.max(0, tabs.findIndex((tab) => "opens" in tab.dataset)));
})();
