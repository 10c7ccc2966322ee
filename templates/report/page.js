"use strict";
// The report page. Everything that is shown comes from the document in #ark-data; all of it is put in as text.
(() => {
  const get = (id) => document.getElementById(id);
  const doc = JSON.parse(get("ark-data").textContent);
  const MANY = 1500; // dots that are drawn as elements; more of them go to a canvas
  const NEAR = 36; // pixels
  const attempts = new Map(); // number -> entry
  let details = null; // number -> details, unpacked when the first is asked for

  function make(name, className, ...children) {
    const element = document.createElement(name);
    if (className) element.className = className;
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  }

  // A browser would break a line behind any hyphen, also inside `->` and `-O3`.
  function titled(text) {
    const found = document.createDocumentFragment();
    for (const [at, part] of (text || "").split(/(->|(?<!\S)--?\w)/).entries()) found.append(at % 2 ? make("span", "joined", part) : part);
    return found;
  }

  async function unpack(text) {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  const pause = () => new Promise((resolve) => setTimeout(resolve));

  async function start() {
    if (document.readyState === "loading") await new Promise((go) => addEventListener("DOMContentLoaded", go));
    await pause(); // the page is painted before anything is unpacked
    for (const entry of JSON.parse(await unpack(doc.packed.attempts))) attempts.set(entry.number, entry);
    setFilter();
    listen();
    showHash();
    await draw();
  }

  // Numbers and words

  function number(value, digits = 6) {
    if (value === undefined || value === null) return "";
    const text = Number(value.toPrecision(digits));
    return String(Math.abs(text) >= 1e16 || (text && Math.abs(text) < 1e-4) ? text.toExponential() : text);
  }
  const measured = (value) => number(value, doc.chart.digits); // kept values can be told apart
  const signed = (value) => (value > 0 ? "+" : "") + number(value);
  function duration(seconds) {
    const units = [[60, 1, " s"], [3600, 60, " min"], [172800, 3600, " h"], [Infinity, 86400, " days"]];
    const [, unit, word] = units.find(([limit]) => seconds < limit);
    return Number((seconds / unit).toPrecision(seconds < 10 ? 2 : 3)) + word;
  }
  const word = (entry) => doc.words[entry.outcome] || entry.outcome;
  const sentence = (entry) => entry.problem || (entry.reason || "").replace(/^[^:]*: /, "");

  // Light and dark

  const wantsDark = matchMedia("(prefers-color-scheme: dark)");
  let printing = false; // paper is light
  const isDark = () => !printing && (document.documentElement.dataset.theme || (wantsDark.matches ? "dark" : "light")) === "dark";
  function keep(name, value) {
    try {
      if (value !== undefined) localStorage.setItem(name, value);
      return localStorage.getItem(name);
    } catch {
      return null; // a page from a file may have no storage
    }
  }
  const chosen = keep("ark-theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
  get("theme").hidden = false;
  get("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    keep("ark-theme", document.documentElement.dataset.theme);
    draw();
  });
  wantsDark.addEventListener("change", () => draw());

  // The chart

  const box = get("chart");
  let view = null, drawnDark = null, marks = "", rows = [];

  function chartRows() {
    rows = [...attempts.values()].sort((a, b) => a.number - b.number);
    return rows.map((a) => ({ ...a, mark: word(a) })); // Vega writes into its rows
  }
  function size() {
    const width = Math.max(240, box.clientWidth);
    return [width, width < 600 ? 320 : 420];
  }

  async function draw() {
    if (!attempts.size && !doc.chart.best.length) {
      box.replaceChildren(make("p", "quiet", "There is nothing to draw yet."));
      box.style.minHeight = "0";
      return;
    }
    if (!window.vega) {
      const script = document.createElement("script");
      script.textContent = await unpack(get("ark-vega").textContent);
      document.head.append(script);
    }
    const dark = isDark();
    const spec = structuredClone(doc.chart.specs[dark ? "dark" : "light"]);
    for (const data of spec.data) {
      if (data.name === "attempts") data.values = chartRows();
      if (data.name === "best") data.values = structuredClone(doc.chart.best);
    }
    [spec.width, spec.height] = size();
    for (const legend of spec.legends) Object.assign(legend, { values: doc.chart.marks, columns: spec.width < 600 ? 3 : 7 });
    for (const signal of spec.signals) if (["low", "high", "last"].includes(signal.name)) signal.value = doc.chart[signal.name];
    const holder = make("div");
    if (view) view.finalize();
    view = new window.vega.View(window.vega.parse(spec, null, { ast: true }), {
      renderer: rows.length > MANY ? "canvas" : "svg",
      container: holder,
      hover: false,
      expr: window.vegaInterpreter, // instead of `eval`, which this page forbids
    });
    view.tooltip(() => {});
    box.replaceChildren(holder);
    drawnDark = dark;
    marks = doc.chart.marks.join();
    if (printing) view.run();
    else await view.runAsync();
    for (const drawing of holder.querySelectorAll("canvas, svg")) {
      drawing.setAttribute("aria-hidden", "true"); // the sentence below says what is in it
      drawing.removeAttribute("role");
    }
    box.tabIndex = 0;
    box.setAttribute("role", "application");
    box.setAttribute("aria-label", "Progress chart; arrow keys go from attempt to attempt, Enter opens one");
    box.setAttribute("aria-describedby", "chart-text");
    get("chart-help").hidden = false;
    box.dataset.drawn = String(rows.length);
  }

  async function refresh() {
    if (!view || marks !== doc.chart.marks.join() || (rows.length > MANY) !== (attempts.size > MANY)) return draw();
    view.data("attempts", chartRows()).data("best", structuredClone(doc.chart.best));
    for (const name of ["low", "high", "last"]) view.signal(name, doc.chart[name]);
    await view.runAsync();
    box.dataset.drawn = String(rows.length);
  }

  function place(entry) {
    const [left, top] = view.origin(), padding = view.padding();
    const height = view.signal("height"), { low, high } = doc.chart;
    const has = entry.value !== undefined && entry.value !== null;
    const y = has ? view.scale("y")(Math.max(low, Math.min(high, entry.value))) : doc.maximize ? height - 5 : 5;
    return [left + padding.left + view.scale("x")(entry.number), top + padding.top + y];
  }
  function nearest(x, y, near) {
    let found = null, best = near * near;
    for (const entry of rows) {
      const [px, py] = place(entry);
      // Of two dots at one place the kept one is meant.
      const far = (px - x) ** 2 + (py - y) ** 2 - (entry.outcome === "keep" ? 30 : 0);
      if (far < best) [found, best] = [entry, far];
    }
    return found;
  }

  let tip = null, ring = null, pointed = null;
  function point(entry) {
    pointed = entry;
    tip?.remove();
    ring?.remove();
    if (!entry || !view) return;
    const [x, y] = place(entry);
    ring = make("div", "ring");
    ring.style.left = `${x}px`;
    ring.style.top = `${y}px`;
    const value = entry.value === undefined ? "" : ` · ${measured(entry.value)}`;
    tip = make("div", "tip", make("b", "", titled(entry.title)), make("span", "n", `${entry.number} · ${word(entry)}${value}`));
    if (sentence(entry)) tip.append(make("br"), make("span", "", sentence(entry)));
    box.append(ring, tip);
    const left = Math.max(0, Math.min(x + 14, box.clientWidth - tip.offsetWidth));
    const below = y + 16 + tip.offsetHeight < box.clientHeight;
    tip.style.left = `${left}px`;
    tip.style.top = `${below ? y + 16 : Math.max(0, y - 16 - tip.offsetHeight)}px`;
  }

  function listenToChart() {
    const at = (event) => {
      const corner = box.getBoundingClientRect();
      return view && nearest(event.clientX - corner.left, event.clientY - corner.top, NEAR);
    };
    box.addEventListener("pointermove", (event) => {
      const found = at(event);
      if (found !== pointed) point(found);
    });
    box.addEventListener("pointerleave", () => point(null));
    let touched = null; // a finger cannot hover: its first tap shows what is there, the second opens it
    box.addEventListener("pointerdown", (event) => {
      touched = event.pointerType === "touch" ? pointed : null;
    });
    box.addEventListener("click", (event) => {
      const found = at(event);
      point(found);
      if (found && (event.pointerType !== "touch" || touched === found)) open(found.number);
    });
    box.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      if (event.key === "Enter" && pointed) open(pointed.number);
      else if (event.key === "Escape") point(null);
      else if (step || event.key === "Home" || event.key === "End") {
        const index = rows.indexOf(pointed);
        const next = event.key === "Home" ? 0 : event.key === "End" ? rows.length - 1 : index < 0 ? 0 : index + step;
        point(rows[Math.max(0, Math.min(rows.length - 1, next))]);
        const value = pointed.value === undefined ? "no value" : measured(pointed.value);
        get("chart-said").textContent = `${pointed.number}, ${word(pointed)}, ${value}: ${pointed.title}`;
      } else return;
      event.preventDefault();
    });
    box.addEventListener("blur", () => point(null));
    let waiting = 0;
    new ResizeObserver(() => {
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        const [width, height] = size();
        if (!view || Math.abs(view.width() - width) <= 1) return;
        if (view.height() !== height) draw(); // a phone was turned
        else view.width(width).runAsync();
      }, 120);
    }).observe(box);
    addEventListener("beforeprint", () => {
      for (const more of document.querySelectorAll("main details:not([open])")) [more.open, more.dataset.shut] = [true, "1"];
      printing = true;
      if (drawnDark) draw();
      showRows(Infinity);
      fillPaper();
    });
    addEventListener("afterprint", () => {
      for (const more of document.querySelectorAll("details[data-shut]")) more.open = false;
      printing = false;
      get("paper").replaceChildren();
      if (isDark()) draw();
    });
  }

  // Paper cannot be clicked: it gets the kept changes and the ends of the logs of crashes, as far as there is room

  const PAPER_LINES = 3000; // of all changes, about 50 pages
  const PAPER_CRASHES = 40; // the latest
  const PAPER_LOG = 20; // lines

  function fillPaper() {
    if (!details) return;
    const all = [...attempts.values()].sort((a, b) => a.number - b.number);
    const kept = all.filter((a) => a.outcome === "keep" && details.get(a.number)?.patch);
    const crashed = all.filter((a) => details.get(a.number)?.log);
    const head = (a) => make("h3", "", `${a.number} · `, titled(a.title));
    const found = [];
    let room = PAPER_LINES;
    for (const entry of kept) {
      const more = details.get(entry.number);
      const lines = more.patch.split("\n").length;
      if (lines > room) continue;
      room -= lines;
      found.push(make("div", "printed", head(entry), change(entry, more)));
    }
    const some = (shown, of) => (shown < of ? make("p", "quiet", `${shown} of ${of}; the others are in the page itself.`) : "");
    const parts = [];
    if (kept.length) parts.push(make("h2", "", "Kept changes"), some(found.length, kept.length), ...found);
    const logs = crashed.slice(-PAPER_CRASHES);
    if (logs.length) parts.push(make("h2", "", "Logs of crashes, their last lines"), some(logs.length, crashed.length));
    for (const entry of logs) {
      const tail = details.get(entry.number).log.trimEnd().split("\n").slice(-PAPER_LOG).join("\n");
      parts.push(make("div", "printed", head(entry), make("pre", "", tail)));
    }
    get("paper").replaceChildren(...parts);
  }

  // One attempt, in a panel

  const panel = get("panel");
  let shown = null;

  async function open(n, push = true) {
    if (!attempts.has(n)) return;
    shown = n;
    if (push && location.hash !== `#attempt-${n}`) history.pushState(null, "", `#attempt-${n}`);
    await unpackDetails();
    if (shown !== n) return; // another was asked for meanwhile
    fill(attempts.get(n), details.get(n));
    if (!panel.open) panel.showModal();
    panel.scrollTop = 0;
    get("panel-title").focus({ preventScroll: true });
  }

  async function unpackDetails() {
    if (!details) {
      const found = Object.entries(JSON.parse(await unpack(doc.packed.details)));
      details ||= new Map(found.map(([n, more]) => [Number(n), more]));
    }
    return details;
  }

  function neighbour(step) {
    const seen = fitting.includes(shown) ? fitting : [...attempts.keys()].sort((a, b) => a - b);
    return seen[seen.indexOf(shown) + step];
  }

  function round(sign, label, action, enabled = true) {
    const button = make("button", "round", make("span", "", sign));
    button.type = "button";
    button.setAttribute("aria-label", label);
    button.title = label;
    button.disabled = !enabled;
    button.addEventListener("click", action);
    return button;
  }

  function fill(entry, more) {
    const heading = make("h2", "", titled(entry.title));
    heading.id = "panel-title";
    heading.tabIndex = -1;
    const state = make("p", entry.outcome, make("i"), `attempt ${entry.number} · ${word(entry)}`);
    const [before, after] = [neighbour(-1), neighbour(1)];
    const header = make("header", "", state,
      round("←", "Previous attempt (left arrow)", () => open(before), before !== undefined),
      round("→", "Next attempt (right arrow)", () => open(after), after !== undefined),
      round("×", "Close (Escape)", () => panel.close()));
    const body = make("div", "", heading);
    if (entry.value !== undefined) {
      const gain = entry.gain === undefined ? "" : ` (${signed(entry.gain)})`;
      body.append(make("p", "big", `${doc.metric} ${measured(entry.value)}${gain}`));
    }
    if (entry.problem || entry.reason) body.append(make("p", "quiet", entry.reason || entry.problem));
    if (more?.why) body.append(make("p", "why", more.why));
    if (more?.log) body.append(make("h3", "", "The end of its log"), make("pre", "", more.log));
    body.append(make("h3", "", "The change"), change(entry, more));
    body.append(make("h3", "", "Measured"), meta(entry, more || {}));
    panel.replaceChildren(header, body);
  }

  function meta(entry, more) {
    const cost = more.cost || {};
    const rows = [
      ["values", more.values?.map(measured).join(", ")],
      ["head, in turn", more.head_values?.map(measured).join(", ")],
      ["noise", more.noise && `${number(more.noise)} (standard deviation of one measurement)`],
      ["took", entry.seconds && duration(entry.seconds)],
      ["started", entry.started && `${entry.started.slice(0, 19).replace("T", " ")} UTC`],
      ["agent", entry.agent],
      ["its turn", [cost.seconds && duration(cost.seconds), cost.tokens && `${cost.tokens.toLocaleString("en")} tokens`,
        cost.money && `${number(cost.money)} in money`].filter(Boolean).join(", ")],
      ["taken over from", more.origin?.join(", ")],
      ["machine", more.machine],
      ["commit", entry.commit],
      ...Object.entries(more.also || {}).map(([name, value]) => [name, number(value)]),
    ];
    const list = make("dl", "meta");
    for (const [name, text] of rows) if (text) list.append(make("dt", "", name), make("dd", "", text));
    return list;
  }

  function change(entry, more) {
    const number = String(entry.number).padStart(4, "0");
    const command = doc.show.replace(/NNNN$/, number).replace(/COMMIT$/, entry.commit);
    const whole = (why) => make("p", "quiet", why, ...(command ? [" ", make("code", "", command)] : []));
    if (!more) return whole("This page has no room for it.");
    if (!more.patch) return whole(entry.commit ? "It changed nothing." : "Its source has no patches.");
    const found = make("div", "", diff(more.patch));
    if (more.cut) found.append(whole("It goes on. The whole of it:"));
    return found;
  }

  function diff(patch) {
    const body = make("tbody");
    let old = 0, now = 0, inHunk = false;
    const line = (kind, a, b, text) => {
      const cells = [make("td", "at", a), make("td", "at", b), make("td", "", text)];
      if (kind === "added") cells[2].setAttribute("aria-label", `added: ${text.slice(1)}`);
      if (kind === "removed") cells[2].setAttribute("aria-label", `removed: ${text.slice(1)}`);
      body.append(make("tr", kind, ...cells));
    };
    for (const text of patch.replace(/\n$/, "").split("\n")) {
      const hunk = /^@@ -(\d+)(?:,\d+)? \+(\d+)/.exec(text);
      if (text.startsWith("diff --git ")) {
        inHunk = false;
        const paths = /^diff --git (.*)$/.exec(text)[1].split(" b/");
        line("file", "", "", paths.length === 2 ? paths[1] : text.slice(11));
      } else if (hunk) {
        inHunk = true;
        [old, now] = [Number(hunk[1]), Number(hunk[2])];
        line("hunk", "", "", text);
      } else if (!inHunk) {
        if (!/^(index|---|\+\+\+) /.test(text)) line("meta-line", "", "", text); // modes, renames, binary files
      } else if (text[0] === "+") line("added", "", String(now++), text);
      else if (text[0] === "-") line("removed", String(old++), "", text);
      else if (text[0] === "\\") line("meta-line", "", "", text);
      else line("", String(old++), String(now++), text);
    }
    const box = make("div", "diff", make("table", "", make("caption", "unseen", "The change, line by line"), body));
    box.tabIndex = 0; // to be scrolled by keys
    return box;
  }

  function showHash() {
    const found = /^#attempt-(\d+)$/.exec(location.hash);
    if (found) open(Number(found[1]), false);
    else if (panel.open) panel.close();
  }

  // The table

  const table = get("rows");
  const PAGE = 400; // rows
  let fitting = [], limit = PAGE; // numbers of the attempts that the filter lets through
  const texts = new Map(); // number -> what the search looks into
  const searched = (a) => `${a.number} ${a.title} ${a.reason || ""} ${a.problem || ""} ${a.agent || ""}`.toLowerCase();

  function setFilter() {
    const form = get("filter");
    form.hidden = attempts.size < 2;
    for (const [n, entry] of attempts) texts.set(n, searched(entry));
    const here = new Set([...attempts.values()].map((entry) => entry.outcome));
    for (const toggle of form.querySelectorAll(".toggle")) toggle.hidden = !here.has(toggle.querySelector("input").value);
    filter();
  }

  function filter() {
    const words = get("query").value.toLowerCase().split(/\s+/).filter(Boolean);
    const outcomes = new Set([...document.querySelectorAll("#filter input:checked")].map((input) => input.value));
    const fits = ([n, entry]) => outcomes.has(entry.outcome) && words.every((word) => texts.get(n).includes(word));
    fitting = [...attempts].filter(fits).map(([n]) => n).sort((a, b) => a - b);
    showRows(PAGE);
    get("count").textContent = fitting.length === attempts.size ? `all ${attempts.size}` : `${fitting.length} of ${attempts.size}`;
  }

  // Laying out thousands of rows takes a second, so the first of those that fit are shown and more of them on demand.
  function showRows(count) {
    limit = count;
    const shown = new Set(fitting.slice(0, limit));
    for (const row of table.rows) {
      const isShown = shown.has(Number(row.id.slice("attempt-".length)));
      if (row.hidden === isShown) row.hidden = !isShown;
    }
    oneStop(table);
    get("more").hidden = fitting.length <= limit;
    get("more").textContent = `Show more of ${fitting.length - limit} others`;
  }

  function rowOf(entry) {
    const link = make("a", "", String(entry.number));
    link.href = `#attempt-${entry.number}`;
    const row = make("tr", entry.outcome,
      make("td", "n", link), make("td", "", make("i"), make("span", "", word(entry))), make("td", "n", measured(entry.value)),
      make("td", "n gain", entry.gain === undefined ? "" : signed(entry.gain)),
      make("td", "", make("b", "", titled(entry.title)), make("small", "", titled(sentence(entry)))),
      make("td", "agent", entry.agent || ""), make("td", "n took", duration(entry.seconds || 0)),
      make("td", "when", (entry.started || "").slice(0, 16).replace("T", " ")));
    row.id = `attempt-${entry.number}`;
    return row;
  }

  const LISTS = [table, get("tree"), get("crashes")];
  const linksIn = (list) => [...list.querySelectorAll("a")].filter((link) => !link.closest("[hidden]"));

  // Of the links of a list that can be seen, Tab stops at one.
  function oneStop(list) {
    const links = linksIn(list);
    const stop = links.find((link) => link.getAttribute("tabindex") === "0") || links[0];
    for (const link of links) {
      const wanted = link === stop ? "0" : "-1";
      if (link.getAttribute("tabindex") !== wanted) link.setAttribute("tabindex", wanted);
    }
  }

  function listen() {
    listenToChart();
    let waiting = 0;
    get("filter").addEventListener("submit", (event) => event.preventDefault());
    get("filter").addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(filter, 60);
    });
    document.addEventListener("click", (event) => {
      const plain = !(event.ctrlKey || event.metaKey || event.shiftKey || event.button);
      const link = event.target.closest('a[href^="#attempt-"]');
      const row = event.target.closest("#rows tr");
      if (!plain || (!link && (!row || String(getSelection())))) return;
      event.preventDefault();
      (link || row.querySelector("a")).focus({ preventScroll: true }); // where the focus returns to
      open(Number((link ? link.hash : row.id).replace(/^#?attempt-/, "")));
    });
    for (const kind of ["pointerover", "focusin"]) {
      document.addEventListener(kind, (event) => {
        const chip = event.target.closest?.("a.chip"); // says what it stands for only when it is asked
        const entry = chip && attempts.get(Number(chip.hash.slice("#attempt-".length)));
        if (entry) chip.title = `${word(entry)}: ${entry.title}${sentence(entry) ? `\n${sentence(entry)}` : ""}`;
      });
    }
    // In lists of many links Tab goes on and the arrow keys go from one to the next.
    for (const list of LISTS) {
      oneStop(list);
      list.addEventListener("keydown", (event) => {
        const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
        if (!event.target.matches("a") || (!step && event.key !== "Home" && event.key !== "End")) return;
        if (list === table && event.target.closest("tr").matches(`#attempt-${fitting[limit - 1]}`)) showRows(limit + PAGE);
        const all = linksIn(list), index = all.indexOf(event.target);
        const next = event.key === "Home" ? all[0] : event.key === "End" ? all[all.length - 1] : all[index + step];
        if (!next) return;
        event.preventDefault();
        event.target.tabIndex = -1;
        next.tabIndex = 0;
        next.focus();
      });
    }
    const more = () => showRows(limit + PAGE);
    get("more").addEventListener("click", more);
    new IntersectionObserver((seen) => seen.some((one) => one.isIntersecting) && more(), { rootMargin: "600px" }).observe(get("more"));
    panel.addEventListener("keydown", (event) => {
      const next = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!next || event.target.closest(".diff, pre")) return;
      const to = neighbour(next);
      if (to !== undefined) open(to);
    });
    panel.addEventListener("click", (event) => event.target === panel && panel.close());
    panel.addEventListener("close", () => {
      // Whoever came by an address had the focus nowhere, and it would stay in what is shut.
      const at = document.activeElement;
      if (at === document.body || panel.contains(at)) (get(`attempt-${shown}`)?.querySelector("a") || get("attempts")).focus();
      shown = null;
      if (location.hash.startsWith("#attempt-")) history.replaceState(null, "", location.pathname + location.search);
    });
    addEventListener("hashchange", showHash);
    addEventListener("popstate", showHash);
  }

  // A page that goes on: what is new comes in parts

  async function update(part) {
    await ready;
    const digits = doc.chart.digits;
    if (part.chart) Object.assign(doc.chart, part.chart);
    else if (part.attempts) doc.chart.last = Math.max(doc.chart.last, ...part.attempts.map((a) => a.number));
    if (doc.chart.digits !== digits) {
      get("table").style.setProperty("--digits", doc.chart.digits);
      for (const row of table.rows) row.cells[2].textContent = measured(attempts.get(Number(row.id.slice("attempt-".length)))?.value);
    }
    for (const entry of part.attempts || []) {
      const known = attempts.get(entry.number);
      attempts.set(entry.number, entry);
      texts.set(entry.number, searched(entry));
      if (entry.details) (await unpackDetails()).set(entry.number, entry.details);
      const row = rowOf(entry), old = get(`attempt-${entry.number}`);
      const hasFocus = Boolean(old && old.contains(document.activeElement));
      if (old) old.replaceWith(row);
      else table.append(row);
      if (hasFocus) row.querySelector("a").focus({ preventScroll: true });
      if (shown === entry.number && known && known.outcome !== entry.outcome) open(entry.number, false);
    }
    const isOther = Boolean(part.chart && part.chart.specs); // another kind of axis
    if (part.summary) setTiles(part.summary.tiles || []);
    for (const [id, html] of Object.entries(part.html || {})) replace(get(id), html);
    if (part.attempts || part.chart) {
      get("none")?.remove();
      if (part.chart) get("chart-text").textContent = part.chart.text;
      setFilter();
      await (isOther ? draw() : refresh());
    }
    if ("live" in part) document.dispatchEvent(new CustomEvent("ark-live", { detail: (doc.live = part.live) }));
  }

  const written = new Map(); // element -> the HTML that it was given last

  function replace(element, html) {
    if (written.get(element) === html) return;
    written.set(element, html);
    const isOpen = element.querySelector("details")?.open;
    element.innerHTML = html; // escaped where it was made
    if (isOpen && element.querySelector("details")) element.querySelector("details").open = true;
    if (LISTS.includes(element)) oneStop(element);
  }

  function setTiles(tiles) {
    const find = (key) => document.querySelector(`.tile[data-key="${key}"]`);
    const isNew = tiles.some(({ key }) => !find(key));
    for (const { key, label, value, note } of tiles) {
      const tile = find(key) || make("div", "tile", make("dt"), make("dd", "", make("b"), make("span")));
      tile.dataset.key = key;
      if (isNew) get("tiles").append(tile); // each of them, so that they stand in order
      tile.classList.toggle("none", value === "none");
      for (const [name, text] of [["dt", label], ["b", value], ["span", note]]) {
        const element = tile.querySelector(name);
        if (element.textContent !== text) element.textContent = text;
      }
    }
  }

  const ready = start().catch((error) => {
    box.replaceChildren(make("p", "quiet", "This browser cannot draw the chart; the tables below are complete."));
    throw error;
  });
  ready.then(pause).then(unpackDetails); // printing cannot wait for it
  window.ark = { update, document: doc, ready };
})();
