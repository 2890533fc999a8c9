// Sorts datasets by the column whose heading is clicked; each is a <tbody>, its message included.
const table = document.querySelector("table.sortable");
const compare = (a, b) => (isNaN(a - b) ? a.localeCompare(b) : a - b);
table.querySelectorAll("th button").forEach((button) => button.addEventListener("click", () => {
  const heading = button.parentNode;
  const way = heading.ariaSort === "ascending" ? -1 : 1;
  table.querySelectorAll("th").forEach((each) => each.removeAttribute("aria-sort"));
  heading.ariaSort = way > 0 ? "ascending" : "descending";
  const rows = [...table.tBodies].map((body) => {
    const cell = body.rows[0].cells[heading.cellIndex];
    return [cell.dataset.key ?? cell.textContent.trim(), body];
  });
  // What is not known stays at the end.
  rows.sort(([a], [b]) => !a - !b || way * compare(a, b));
  table.append(...rows.map(([, body]) => body));
}));
