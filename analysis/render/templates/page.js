"use strict";

// A click on a header sorts each section of its table: ascending, descending, as rendered.
// What is not finite comes after every number, and a cell without a number last.

const NEXT = { none: "ascending", ascending: "descending", descending: "none" };

function compare(column, sign) {
  const key = (row) => {
    const { textContent: text, dataset } = row.cells[column];
    const value = dataset.value === undefined ? NaN : Number(dataset.value.replace("inf", "Infinity"));
    return { text, value, rank: Number.isNaN(value) ? 2 : Number.isFinite(value) ? 0 : 1 };
  };
  return (one, other) => {
    const [a, b] = [key(one), key(other)];
    const order = a.rank === 0 ? a.value - b.value : a.text.localeCompare(b.text, "en", { numeric: true });
    return a.rank - b.rank || sign * order;
  };
}

function makeSortable(table) {
  const headers = [...table.tHead.rows[0].cells];
  const sections = [...table.tBodies].map((body) => [body, [...body.querySelectorAll("tr:not(.title)")]]);
  if (sections.every(([, rows]) => rows.length < 2)) return;
  headers.forEach((header, column) => {
    const button = document.createElement("button");
    button.append(...header.childNodes);
    header.append(button);
    button.addEventListener("click", () => {
      const direction = NEXT[header.ariaSort ?? "none"];
      for (const other of headers) other.removeAttribute("aria-sort");
      if (direction !== "none") header.setAttribute("aria-sort", direction);
      const order = compare(column, direction === "ascending" ? 1 : -1);
      for (const [body, rows] of sections) body.append(...(direction === "none" ? rows : rows.toSorted(order)));
      document.querySelector("[role=status]").textContent = `${button.textContent}: ${direction}`;
    });
  });
}

document.querySelectorAll("table").forEach(makeSortable);

// Only what overflows can be reached by Tab, to be scrolled by the arrow keys.

const watch = new ResizeObserver((entries) => {
  for (const { target: box } of entries) {
    const wide = box.scrollWidth > box.clientWidth + 1;
    const tall = box.scrollHeight > box.clientHeight + 1;
    if (wide || tall) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
});
document.querySelectorAll(".scroll, pre").forEach((box) => watch.observe(box));
