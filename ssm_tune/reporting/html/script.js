// Sorting, filters and the cells' windows. Contents come from the page's own templates and are never put together here.
"use strict";
for (const table of document.querySelectorAll("table.results")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, place) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") !== "descending";
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = row => row.cells[place].dataset.value;
    const order = (a, b) => {
      const x = key(a), y = key(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const by = place ? x - y : x.localeCompare(y);
      return down ? -by : by;
    };
    [...body.rows].sort(order).forEach(row => body.append(row));
  }));
}
function filter(name, attribute) {
  const boxes = [...document.querySelectorAll(`input[name=${name}]`)];
  const apply = () => {
    const shown = new Set(boxes.filter(box => box.checked).map(box => box.value));
    for (const part of document.querySelectorAll(`[data-${attribute}]`)) {
      part.hidden = !shown.has(part.dataset[attribute]);
    }
  };
  boxes.forEach(box => box.addEventListener("change", apply));
  apply();
}
filter("task", "task");
filter("family", "family");
const dialog = document.querySelector("dialog"), inside = dialog.querySelector("div");
document.addEventListener("click", event => {
  const cell = event.target.closest("td button[data-cell]");
  if (cell) {
    inside.replaceChildren(document.getElementById(cell.dataset.cell).content.cloneNode(true));
    dialog.showModal();
  } else if (event.target === dialog || event.target.closest(".close")) {
    dialog.close();
  }
});
