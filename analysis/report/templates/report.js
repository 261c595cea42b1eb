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

for (const table of document.querySelectorAll("table")) {
  const headers = [...table.tHead.rows[0].cells];
  const rendered = [...table.tBodies].map((body) => [body, [...body.querySelectorAll("tr:not(.title)")]]);
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
          ? `${table.caption.textContent}: in the order of the study`
          : `${table.caption.textContent}: sorted by ${button.textContent}, ${direction}`;
    });
  });
}
