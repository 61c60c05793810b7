"use strict";
(() => {
  // Light or dark, other than the system's, while the page is open.
  const root = document.documentElement;
  const theme = document.getElementById("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const label = () => { theme.textContent = isDark() ? "Light" : "Dark"; };
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    label();
  });
  system.addEventListener("change", label);
  theme.hidden = false;
  label();

  // On a narrow screen the findings come before the contents.
  if (!window.matchMedia("(min-width: 75rem)").matches) {
    document.querySelector("nav details").open = false;
  }

  // Numbers by their size, everything else as text; what is no number comes last either way.
  const number = (cell) => {
    const key = cell.dataset.key;
    const text = key === undefined ? cell.textContent.replace(/,/g, "") : key;
    return /^\s*[+\u2212-]?(\d|\.\d)/.test(text) ? parseFloat(text.replace("\u2212", "-")) : NaN;
  };
  const compare = (a, b, column, sign) => {
    const [one, other] = [a.cells[column], b.cells[column]];
    const [x, y] = [number(one), number(other)];
    if (!Number.isNaN(x) && !Number.isNaN(y)) return sign * (x - y);
    if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
    return sign * one.textContent.localeCompare(other.textContent, "en", { numeric: true });
  };
  const sort = (table, column) => {
    const headers = [...table.tHead.rows[0].cells];
    const ascending = headers[column].getAttribute("aria-sort") !== "ascending";
    const body = table.tBodies[0];
    const rows = [...body.rows];
    rows.sort((a, b) => compare(a, b, column, ascending ? 1 : -1));
    body.append(...rows);
    headers.forEach((header) => header.removeAttribute("aria-sort"));
    headers[column].setAttribute("aria-sort", ascending ? "ascending" : "descending");
  };
  const addFilter = (table) => {
    const box = table.closest(".box");
    const line = document.createElement("label");
    const input = document.createElement("input");
    const shown = document.createElement("span");
    const rows = [...table.tBodies[0].rows];
    input.type = "search";
    shown.setAttribute("role", "status");
    line.className = "filter";
    line.append("Show rows with", input, shown);
    input.addEventListener("input", () => {
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      rows.forEach((row) => {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        count += row.hidden ? 0 : 1;
      });
      shown.textContent = words.length ? `${count} of ${rows.length} rows` : "";
    });
    box.before(line);
  };
  document.querySelectorAll("table").forEach((table) => {
    [...table.tHead.rows[0].cells].forEach((header, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...header.childNodes);
      header.append(button);
      button.addEventListener("click", () => sort(table, column));
    });
    if (table.hasAttribute("data-filter")) addFilter(table);
  });
})();
