"use strict";
(() => {
  const root = document.documentElement;
  const MOST = 1200; // blocks that are drawn at once: as many as there are pixels, or more
  const BATCH = 200; // places of a finding that are shaded at once
  const TOP = 0.985, BOTTOM = 0.015; // where losses are marked that have no place

  // Arrays come as bytes of little-endian numbers.
  const decode = (text, kind) => {
    if (text === null) return null;
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    if (kind === "u1") return bytes;
    const [size, read] = { i4: [4, "getInt32"], f4: [4, "getFloat32"], f8: [8, "getFloat64"] }[kind];
    const view = new DataView(bytes.buffer), numbers = new Float64Array(bytes.length / size);
    for (let i = 0; i < numbers.length; i++) numbers[i] = view[read](i * size, true);
    return numbers;
  };
  const spoken = (value) => {
    if (Number.isNaN(value)) return "NaN";
    if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
    const size = Math.abs(value);
    if (size !== 0 && (size < 1e-4 || size >= 1e15)) return Number(value.toPrecision(5)).toExponential();
    return Number(value.toPrecision(6)).toLocaleString("en", { maximumFractionDigits: 10 });
  };
  const exact = (whole) => whole.toLocaleString("en", { maximumFractionDigits: 0 });
  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  // The first place in sorted numbers that is not below a value.
  const search = (numbers, value) => {
    let low = 0, high = numbers.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (numbers[middle] < value) low = middle + 1; else high = middle;
    }
    return low;
  };

  class Chart {
    constructor(box, log) {
      this.box = box;
      this.log = log;
      this.rows = decode(log.rows, "i4");
      this.x = decode(log.x, "f8");
      this.steps = decode(log.steps, "f8");
      this.losses = decode(log.losses, "f8");
      this.findings = log.findings.map((one) => ({
        ...one, spans: decode(one.spans, "i4"), places: decode(one.places, "f8"),
      }));
      this.rules = log.rules.map((rule) => ({
        name: rule.name, num: rule.num, of: rule.of, limited: decode(rule.limited, "u1"),
        upper: decode(rule.upper, rule.kind), lower: decode(rule.lower, rule.kind),
      }));
      this.rule = this.rules[0];
      this.isLog = log.log;
      const article = box.closest("article");
      this.button = article.querySelector(".reset");
      this.button.addEventListener("click", () => this.reset());
      article.querySelector(".scale")?.addEventListener("change", (event) => {
        this.isLog = event.target.checked;
        this.reset();
      });
      article.querySelectorAll('input[type="radio"]').forEach((radio) => {
        if (radio.value === "0") radio.checked = true; // browsers remember other choices
        radio.addEventListener("change", () => {
          this.rule = this.rules[Number(radio.value)];
          this.draw();
        });
      });
      box.addEventListener("keydown", (event) => this.key(event));
      box.replaceChildren();
      this.home();
      this.draw();
      box.on("plotly_relayout", (change) => this.moved(change));
      box.on("plotly_doubleclick", () => { this.reset(); return false; });
    }

    home() {
      this.across = [...this.log.places];
      const heights = this.log.heights[this.isLog ? 1 : 0];
      this.up = this.isLog ? heights.map(Math.log10) : [...heights];
    }

    get zoomed() {
      const [a, b] = this.across, [c, d] = this.log.places;
      const heights = this.log.heights[this.isLog ? 1 : 0];
      const [low, high] = this.isLog ? heights.map(Math.log10) : heights;
      return a !== c || b !== d || this.up[0] !== low || this.up[1] !== high;
    }

    reset() {
      this.home();
      this.draw();
      follow(this);
    }

    // Without redrawing what is in view already, a zoom would show thinned rows.
    moved(change) {
      const keys = Object.keys(change);
      if (keys.some((key) => key.includes("autorange"))) return this.reset();
      if (!keys.some((key) => key.includes("axis"))) return undefined;
      this.across = [...this.box.layout.xaxis.range];
      this.up = [...this.box.layout.yaxis2.range];
      this.draw();
      return follow(this);
    }

    show(across) {
      this.across = [...across];
      this.draw();
    }

    key(event) {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target !== this.box) return;
      const [a, b] = this.across, width = b - a;
      const moves = {
        ArrowLeft: [-0.2, -0.2], ArrowRight: [0.2, 0.2],
        "+": [0.25, -0.25], "=": [0.25, -0.25], "-": [-0.5, 0.5],
      };
      if (event.key === "0" || event.key === "Escape") this.reset();
      else if (event.key in moves) {
        const [left, right] = moves[event.key];
        this.show([a + left * width, b + right * width]);
        follow(this);
      } else return;
      event.preventDefault();
    }

    // Of the rows in view, and one more on either side, as many as can be seen: in each block the
    // extremes, also of those that are limited, and the ends of what is not finite.
    inView() {
      const first = Math.max(search(this.x, this.across[0]) - 1, 0);
      const end = Math.min(search(this.x, this.across[1]) + 1, this.x.length);
      const count = end - first, rows = [];
      if (count <= 4 * MOST) {
        for (let i = first; i < end; i++) rows.push(i);
        return rows;
      }
      const { losses, rule } = this;
      for (let block = 0; block < MOST; block++) {
        const from = first + Math.floor((block * count) / MOST);
        const to = first + Math.floor(((block + 1) * count) / MOST);
        const kept = new Set();
        let low = -1, high = -1, least = -1, most = -1, one = -1, last = -1;
        for (let i = from; i < to; i++) {
          if (!Number.isFinite(losses[i])) {
            if (one < 0) one = i;
            last = i;
            continue;
          }
          if (low < 0 || losses[i] < losses[low]) low = i;
          if (high < 0 || losses[i] > losses[high]) high = i;
          if (!rule.limited[i]) continue;
          if (losses[i] <= rule.upper[i]) { // it was limited from below
            if (least < 0 || losses[i] < losses[least]) least = i;
          } else if (most < 0 || losses[i] > losses[most]) most = i;
        }
        [low, high, least, most, one, last].forEach((i) => { if (i >= 0) kept.add(i); });
        rows.push(...[...kept].sort((a, b) => a - b));
      }
      return rows;
    }

    words(i) {
      const lines = [], { rule } = this, row = this.rows[i], loss = this.losses[i];
      if (this.log.axis === "step") lines.push(`step ${exact(this.x[i])} (row ${exact(row)})`);
      else if (this.steps) lines.push(`row ${exact(row)} (step ${exact(this.steps[i])})`);
      else lines.push(`row ${exact(row)}`);
      lines.push(`<b>loss ${spoken(loss)}</b>`);
      const upper = rule.upper[i];
      lines.push(Number.isFinite(upper) ? `limit ${spoken(upper)}` : "no limit yet");
      if (rule.lower && Number.isFinite(rule.lower[i])) {
        lines.push(`lower limit ${spoken(rule.lower[i])}`);
      }
      if (Number.isFinite(loss)) {
        lines.push(rule.limited[i] ? "limited" : "not limited");
      } else lines.push("left as it is");
      for (const { kind, spans } of this.findings) {
        for (let k = 0; k < spans.length; k += 2) {
          if (spans[k] <= row && row < spans[k + 1]) { lines.push(kind); break; }
        }
      }
      return lines.join("<br>");
    }

    traces() {
      const rows = this.inView(), { rule, losses, isLog } = this;
      const pick = (numbers) => rows.map((i) => numbers[i]);
      const seen = (value) => Number.isFinite(value) && (value > 0 || !isLog);
      const heights = (numbers) => rows.map((i) => (seen(numbers[i]) ? numbers[i] : null));
      const x = pick(this.x), text = rows.map((i) => this.words(i));
      const hover = { text, hovertemplate: "%{text}<extra></extra>", hoverinfo: "text" };
      const line = { type: "scatter", mode: "lines", x, yaxis: "y2" };
      const shaded = this.findings.map((finding) => this.shade(finding));
      const traces = [
        ...shaded,
        {
          ...line, ...hover, name: "loss", y: heights(losses),
          line: { color: colour("loss"), width: 1, simplify: false },
        },
      ];
      const limited = rows.filter((i) => rule.limited[i] && seen(losses[i]));
      traces.push({
        type: "scatter", mode: "markers", yaxis: "y2", hoverinfo: "skip",
        name: `limited: ${exact(rule.num)} of ${exact(rule.of)}`,
        x: limited.map((i) => this.x[i]), y: limited.map((i) => losses[i]),
        marker: {
          color: colour("limited"), symbol: "circle-open",
          size: limited.length < 200 ? 8 : 5, line: { width: limited.length < 200 ? 1.8 : 1 },
        },
      });
      traces.push({
        ...line, name: "limit", y: heights(rule.upper), hoverinfo: "skip",
        line: { color: colour("ink"), width: 1.3, simplify: false },
      });
      if (rule.lower) {
        traces.push({
          ...line, name: "lower limit", y: heights(rule.lower), hoverinfo: "skip",
          line: { color: colour("ink"), width: 1.3, dash: "dash" },
        });
      }
      const edges = [["not finite", "triangle-down", TOP, (value) => !Number.isFinite(value)]];
      if (isLog) {
        edges.push(["not above 0", "triangle-up", BOTTOM, (value) => value <= 0 && value > -Infinity]);
      }
      for (const [name, symbol, height, holds] of edges) {
        const y = rows.map((i) => (holds(losses[i]) ? height : null));
        if (!losses.some(holds)) continue;
        traces.push({
          type: "scatter", mode: "lines+markers", name, x, y, ...hover,
          line: { color: colour("limited"), width: 4 },
          marker: { color: colour("limited"), symbol, size: 9 },
        });
      }
      return traces;
    }

    // From the bottom to the top; places that are closer than can be seen become one.
    shade({ kind, colour: fill, places }) {
      const [a, b] = this.across, near = (b - a) / BATCH / 8, x = [], y = [];
      const push = (from, to) => { x.push(from, from, to, to, null); y.push(0, 1, 1, 0, null); };
      let from = null, to = null, count = 0;
      for (let k = 0; k < places.length; k += 2) {
        if (places[k + 1] < a || places[k] > b) continue;
        count++;
        if (from !== null && places[k] - to < near) { to = Math.max(to, places[k + 1]); continue; }
        if (from !== null) push(from, to);
        [from, to] = [places[k], places[k + 1]];
      }
      if (from !== null) push(from, to);
      const number = places.length / 2;
      const name = number > 1 ? `${kind}: ${exact(number)}` : kind;
      const shape = kind === "restart"
        ? { x: x.filter((_, i) => i % 5 < 2 || i % 5 === 4), y: y.filter((_, i) => i % 5 < 2 || i % 5 === 4),
            line: { color: colour("faint"), width: 1.5, dash: "dot" } }
        : { x, y, fill: "toself", fillcolor: `${fill}48`, line: { color: `${fill}a0`, width: 1 } };
      return { type: "scatter", mode: "lines", hoverinfo: "skip", name, legendrank: 2000, ...shape };
    }

    // 1, 2 and 5 of each decade, or decades alone; few enough to be read.
    ticks() {
      const [low, high] = this.up, decades = high - low;
      if (!this.isLog || decades < 0.7 || !Number.isFinite(decades)) {
        return { tickmode: "auto", exponentformat: "e", minexponent: 6 };
      }
      const every = Math.ceil(decades / 8), tickvals = [];
      for (let power = Math.floor(low); power <= high; power++) {
        if (power % every === 0) tickvals.push(10 ** power);
        if (decades < 2.2) tickvals.push(2 * 10 ** power, 5 * 10 ** power);
      }
      return { tickmode: "array", tickvals, ticktext: tickvals.map(spoken) };
    }

    draw() {
      const ink = colour("ink"), grid = colour("line");
      const font = { color: ink, family: 'system-ui, "DejaVu Sans", sans-serif' };
      const axis = { gridcolor: grid, linecolor: grid, zeroline: false, tickcolor: grid };
      const layout = {
        margin: { l: 60, r: 10, t: 10, b: 45 }, hovermode: "closest", hoverdistance: 40,
        dragmode: "zoom", paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        font: { ...font, size: 12 },
        hoverlabel: {
          align: "left", bgcolor: colour("shade"), bordercolor: colour("faint"), font,
        },
        legend: { orientation: "h", x: 0, y: -0.16, yanchor: "top" },
        xaxis: {
          ...axis, showgrid: false, showline: true, ticks: "outside", separatethousands: true,
          exponentformat: "none", range: this.across, title: { text: this.log.words, standoff: 6 },
          nticks: Math.max(3, Math.floor(this.box.clientWidth / 110)),
        },
        yaxis: { range: [0, 1], fixedrange: true, visible: false },
        yaxis2: {
          ...axis, overlaying: "y", side: "left", automargin: true,
          separatethousands: true, type: this.isLog ? "log" : "linear",
          range: this.up, title: { text: "loss", standoff: 4 },
          ...this.ticks(),
        },
        showlegend: true,
      };
      const config = {
        responsive: true, displaylogo: false, doubleClick: false, scrollZoom: false,
        modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "resetScale2d"],
        displayModeBar: false, showTips: false,
      };
      this.button.disabled = !this.zoomed;
      Plotly.react(this.box, this.traces(), layout, config);
    }
  }

  const data = JSON.parse(document.getElementById("data").textContent);
  const boxes = [...document.querySelectorAll(".chart")];
  const charts = [];
  const linked = document.getElementById("linked");
  const follow = (chart) => {
    if (!linked?.checked) return;
    charts.filter((other) => other !== chart).forEach((other) => {
      if (chart.zoomed) other.show(chart.across); else { other.home(); other.draw(); }
    });
  };
  boxes.forEach((box) => charts.push(new Chart(box, data[Number(box.dataset.log)])));

  // Light or dark as the system is, or the other while the page is open.
  const theme = document.getElementById("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const dress = () => {
    theme.textContent = isDark() ? "Light" : "Dark";
    charts.forEach((chart) => chart.draw());
  };
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    dress();
  });
  system.addEventListener("change", dress);
  theme.textContent = isDark() ? "Light" : "Dark";
  theme.hidden = false;

  document.querySelectorAll(".paste").forEach((line) => {
    const button = line.querySelector(".copy"), code = line.querySelector("code");
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch { // where the browser does not allow it, Ctrl-C does
        window.getSelection().selectAllChildren(code);
        button.textContent = "Press Ctrl-C";
      }
    });
  });
})();
