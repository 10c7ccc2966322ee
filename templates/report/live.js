"use strict";
// The live part of the page: what goes on now, and whatever is new in the run, told by the server as it happens.
(() => {
  const ark = window.ark;
  const SILENCE = 40; // seconds; the server says something every 15
  const AWAY = 20; // seconds that a page may be out of sight before it stops listening
  const RETRY = [1, 2, 4, 8, 10]; // seconds
  const style = document.createElement("style");
  style.textContent = `
    #live-body { display: grid; gap: 0.6rem; }
    #live-body > * { min-width: 0; }
    #live-words b { font-weight: 600; }
    #live-bar { width: 100%; height: 0.5rem; accent-color: var(--accent); }
    #live-log { font: 0.8rem/1.5 var(--mono); white-space: pre-wrap; overflow-wrap: anywhere; background: var(--raised);
      border-radius: 6px; padding: 0.7rem 0.9rem; height: 16rem; overflow: auto; }
    #live-curve { height: 190px; }
    #live-lost { border-left: 3px solid var(--crash-mark); padding-left: 0.8rem; }
    @media print { #live { display: none; } }`;
  document.head.append(style);

  const body = document.getElementById("live-body");
  body.removeAttribute("aria-live"); // a bar and a log that change each second are not to be read aloud
  const part = (name, id, attributes = {}) => {
    const element = document.createElement(name);
    element.id = id;
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.hidden = true;
    body.append(element);
    return element;
  };
  const lost = part("p", "live-lost", { role: "status" });
  const words = part("p", "live-words", { role: "status" });
  const title = part("p", "live-title");
  const bar = part("progress", "live-bar", { "aria-label": "Time of this phase" });
  const times = part("p", "live-times", { class: "quiet n" });
  const note = part("p", "live-note", { class: "quiet" });
  const about = part("p", "live-curve-text", { class: "quiet" });
  const box = part("div", "live-curve", { role: "img", "aria-labelledby": "live-curve-text" });
  const caption = part("p", "live-log-text", { class: "quiet" });
  const log = part("pre", "live-log", { "aria-labelledby": "live-log-text", tabindex: "0" });

  function say(element, text) {
    element.hidden = !text;
    if (element.textContent !== text) element.textContent = text;
  }
  const number = (value) => String(Number(value.toPrecision(6)));
  function duration(seconds) {
    if (seconds < 100) return `${Math.round(seconds)} s`;
    const pad = (n) => String(n).padStart(2, "0");
    const whole = Math.floor(seconds);
    if (whole < 3600) return `${Math.floor(whole / 60)}:${pad(whole % 60)} min`;
    return `${Math.floor(whole / 3600)}:${pad(Math.floor(whole / 60) % 60)} h`;
  }

  // What goes on

  let live = null, late = 0; // the server's clock less ours, in seconds
  const roomy = { log: false, curve: false };

  function show(next) {
    live = next;
    if (!live) return;
    late = live.moment - Date.now() / 1000;
    document.getElementById("live").dataset.state = live.at_work ? "running" : "resting";
    say(words, live.words || (live.at_work ? "" : "Nothing goes on."));
    say(title, live.title ? `tries: ${live.title}${live.agent && live.agent !== "ark" ? ` (by ${live.agent})` : ""}` : "");
    say(note, live.trouble ? `trouble: ${live.trouble}` : live.note ? `note: ${live.note}` : "");
    const lines = live.lines || [];
    // While it goes on the room stays, so that nothing below jumps between two attempts.
    roomy.log = live.at_work && (roomy.log || lines.length > 0);
    say(caption, lines.length ? `the end of ${live.log}` : roomy.log ? "no log yet" : "");
    say(log, lines.join("\n"));
    log.hidden = !lines.length && !roomy.log;
    log.scrollTop = log.scrollHeight;
    tick();
    drawCurve();
  }

  function tick() {
    if (!live) return;
    const elapsed = live.began ? Math.max(0, Date.now() / 1000 + late - live.began) : null;
    const over = live.limit && elapsed > live.limit ? ", over it" : "";
    const phase = elapsed === null ? "" : duration(elapsed) + (live.limit ? ` of ${duration(live.limit)}${over}` : "");
    bar.hidden = elapsed === null || !live.limit;
    if (!bar.hidden) {
      bar.max = live.limit;
      bar.value = Math.min(elapsed, live.limit);
    }
    say(times, [phase, live.rate, live.left].filter(Boolean).join(" · "));
  }

  // Its learning curve

  const wantsDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (document.documentElement.dataset.theme || (wantsDark.matches ? "dark" : "light")) === "dark";
  let view = null, drawn = null, queue = Promise.resolve();

  function drawCurve() {
    const curve = live && live.curve;
    roomy.curve = Boolean(live && live.at_work && (roomy.curve || curve));
    const last = curve && curve.points[curve.points.length - 1];
    const none = roomy.curve ? "no curve yet" : "";
    const whose = curve && `attempt ${curve.number}${curve.of_head ? ", the head in turn" : ""}`;
    say(about, curve ? `${curve.name} by ${curve.along}, ${whose}: ${number(last.y)}` : none);
    box.hidden = !curve && !roomy.curve;
    box.style.visibility = curve ? "" : "hidden";
    if (!curve || !window.vega) return;
    queue = queue.then(() => draw(curve)).catch((error) => console.error(error));
  }

  async function draw({ points, name, along, counts }) {
    const dark = isDark(), kind = JSON.stringify([dark, name, along, counts]);
    const values = points.map((point) => ({ ...point })); // Vega writes into its rows
    const width = Math.max(200, box.clientWidth);
    if (view && drawn === kind) {
      await view.data("curve", values).width(width).runAsync();
      box.dataset.points = String(points.length);
      return;
    }
    const spec = structuredClone(ark.document.curves[dark ? "dark" : "light"]);
    for (const data of spec.data) if (data.name === "curve") data.values = values;
    for (const axis of spec.axes) {
      if (axis.labels === false) continue; // lines across the chart
      axis.title = axis.scale === "x" ? along : name;
      axis.titleLimit = 150;
      if (axis.scale === "x" && counts) Object.assign(axis, { tickMinStep: 1, format: ",d" }); // there is no half a step
    }
    spec.width = width;
    const safe = Boolean(window.vegaInterpreter);
    const holder = document.createElement("div");
    if (view) view.finalize();
    view = new window.vega.View(window.vega.parse(spec, null, { ast: safe }), {
      renderer: "svg", container: holder, hover: false, ...(safe ? { expr: window.vegaInterpreter } : {}),
    });
    view.tooltip(() => {});
    drawn = kind;
    await view.runAsync();
    box.replaceChildren(holder);
    box.dataset.points = String(points.length);
  }
  new MutationObserver(drawCurve).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  wantsDark.addEventListener("change", drawCurve);

  // The connection: one EventSource, opened anew by us with the state that we have, so that nothing is missed

  let state = ark.document.state, source = null, failures = 0, timer = 0, heard = Date.now(), hiddenSince = 0;
  let chain = ark.ready;

  function connect() {
    close();
    heard = Date.now();
    source = new EventSource(`events?since=${encodeURIComponent(state)}`);
    source.addEventListener("open", () => {
      failures = 0;
      heard = Date.now();
      say(lost, "");
    });
    source.addEventListener("beat", () => (heard = Date.now()));
    source.addEventListener("message", (event) => {
      heard = Date.now();
      if (event.lastEventId) state = event.lastEventId;
      take(JSON.parse(event.data));
    });
    source.addEventListener("error", fail);
  }
  function close() {
    clearTimeout(timer);
    timer = 0;
    if (source) source.close();
    source = null;
  }
  function fail() {
    close();
    say(lost, "Connection lost: what is shown may be old. Trying again …");
    timer = setTimeout(connect, 1000 * RETRY[Math.min(failures++, RETRY.length - 1)]);
  }
  function take(news) {
    if (news.reload) return location.reload();
    // One after another: an update takes its time.
    chain = chain.then(() => ark.update(news)).catch((error) => console.error(error));
  }

  document.addEventListener("ark-live", (event) => show(event.detail));
  setInterval(() => {
    tick();
    if (document.hidden && source && Date.now() - hiddenSince > 1000 * AWAY) close();
    // After a sleep, or where a tunnel hangs, nothing comes and nothing says so.
    else if (source && Date.now() - heard > 1000 * SILENCE) fail();
  }, 1000);
  document.addEventListener("visibilitychange", () => {
    hiddenSince = Date.now();
    if (!document.hidden && !source) connect();
  });
  addEventListener("online", () => !document.hidden && connect());
  addEventListener("pagehide", close);
  addEventListener("pageshow", (event) => event.persisted && connect());

  ark.ready.then(() => show(ark.document.live));
  connect();
})();
