"use strict";

// A header becomes a button: ascending, descending, as rendered. Each section of a table is sorted
// by itself. What is not finite comes after every number, and a cell without a number last.

const NEXT = { none: "ascending", ascending: "descending", descending: "none" };

function key(row, column) {
  const cell = row.cells[column];
  const value = cell.dataset.value;
  if (value === undefined) return { rank: 2, value: 0, text: cell.textContent };
  const finite = !value.endsWith("inf");
  return { rank: finite ? 0 : 1, value: finite ? Number(value) : 0, text: "" };
}

function sort(rows, column, direction) {
  const sign = direction === "ascending" ? 1 : -1;
  return rows
    .map((row) => ({ row, ...key(row, column) }))
    .sort(
      (a, b) =>
        a.rank - b.rank ||
        sign * (a.value - b.value) ||
        sign * a.text.localeCompare(b.text, "en", { numeric: true })
    )
    .map(({ row }) => row);
}

function titleOf(element) {
  return document.getElementById(element.getAttribute("aria-labelledby")).textContent;
}

function makeSortable(table) {
  const headers = [...table.tHead.rows[0].cells];
  const rendered = [...table.tBodies].map((body) => [body, [...body.querySelectorAll("tr:not(.title)")]]);
  if (rendered.every(([, rows]) => rows.length < 2)) return;
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const direction = NEXT[header.getAttribute("aria-sort") ?? "none"];
      for (const other of headers) other.removeAttribute("aria-sort");
      if (direction !== "none") header.setAttribute("aria-sort", direction);
      for (const [body, rows] of rendered) {
        body.append(...(direction === "none" ? rows : sort(rows, column, direction)));
      }
      document.querySelector("[role=status]").textContent =
        direction === "none"
          ? `${titleOf(table)}: in the order of the study`
          : `${titleOf(table)}: sorted by ${button.textContent}, ${direction}`;
    });
  });
}

// A figure wider than its box is shown whole; a button or a tap shows it in its own size, which
// scrolls.

function makeZoomable(panel) {
  const figure = panel.querySelector("svg");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "zoom";
  button.setAttribute("aria-describedby", panel.getAttribute("aria-labelledby"));
  panel.after(button);
  panel.classList.add("fit");

  const show = (fit, at = 0) => {
    panel.classList.toggle("fit", fit);
    button.textContent = fit ? "Enlarge" : "Fit to width";
    update(panel);
    panel.scrollLeft = at * panel.scrollWidth - panel.clientWidth / 2;
  };
  button.addEventListener("click", () => show(!panel.classList.contains("fit")));
  panel.addEventListener("click", (event) => {
    if (button.hidden || !getSelection().isCollapsed) return;
    const box = figure.getBoundingClientRect();
    show(!panel.classList.contains("fit"), (event.clientX - box.left) / box.width);
  });
  onResize(panel.parentElement, () => {
    const shrunk = figure.getBoundingClientRect().width < figure.width.baseVal.value - 1;
    button.hidden = !(shrunk || overflows(panel));
    panel.classList.toggle("zoomable", !button.hidden);
  });
  show(true);
}

// Only what overflows can be reached by Tab, to be scrolled by the arrow keys.

function overflows(box) {
  const tall = box.matches("pre") && box.scrollHeight > box.clientHeight + 1;
  return tall || box.scrollWidth > box.clientWidth + 1;
}

function update(box) {
  if (overflows(box)) box.tabIndex = 0;
  else box.removeAttribute("tabindex");
}

function onResize(element, action) {
  new ResizeObserver(() => requestAnimationFrame(action)).observe(element);
}

document.querySelectorAll("table").forEach(makeSortable);
document.querySelectorAll(".paper").forEach(makeZoomable);
for (const box of document.querySelectorAll("[tabindex='0']")) onResize(box, () => update(box));
