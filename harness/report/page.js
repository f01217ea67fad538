"use strict";
// Tables: a click on a heading sorts by it, numbers from the largest; a second one turns round, a third undoes it.
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0];
  const written = [...body.rows];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => {
    const first = heading.classList.contains("numbers") ? "descending" : "ascending";
    const second = first === "descending" ? "ascending" : "descending";
    const before = heading.getAttribute("aria-sort");
    const order = before === null ? first : before === first ? second : null;
    headings.forEach((each) => each.removeAttribute("aria-sort"));
    if (order !== null) heading.setAttribute("aria-sort", order);
    const sign = order === "descending" ? -1 : 1;
    const key = (row) => {
      const { dataset, textContent } = row.cells[column];
      return dataset.value === undefined ? textContent.trim() : Number(dataset.value);
    };
    // Cells without a number come last whichever way, and rows that tie stay as they were written.
    const compare = (a, b) => {
      if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
      return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en"));
    };
    const rows = written.map((row) => [key(row), row]);
    if (order !== null) rows.sort(([a], [b]) => compare(a, b));
    body.append(...rows.map(([, row]) => row));
  }));
}
// A link to a training opens it.
function reveal() {
  const target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const details = target && target.closest("details");
  if (!details) return;
  details.open = true;
  target.scrollIntoView({ block: "start" });
  (target.querySelector("summary") || target).focus({ preventScroll: true });
}
addEventListener("hashchange", reveal);
reveal();
// Pictures of samples beside each other, or one as wide as the page.
for (const enlarge of document.querySelectorAll(".enlarge")) {
  enlarge.hidden = false;
  enlarge.addEventListener("click", () => {
    const large = enlarge.closest("figure").classList.toggle("large");
    enlarge.setAttribute("aria-expanded", String(large));
    enlarge.textContent = large ? "smaller" : "larger";
  });
}
// Colours: the reader's own choice, else the system's.
const button = document.getElementById("theme");
const system = matchMedia("(prefers-color-scheme: dark)");
const stored = { get: () => { try { return localStorage.getItem("crossbev-theme"); } catch { return null; } },
  set: (value) => { try { localStorage.setItem("crossbev-theme", value); } catch { /* a page without storage */ } } };
const isDark = () => (document.documentElement.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
const name = () => { button.textContent = isDark() ? "Light colours" : "Dark colours"; };
if (["light", "dark"].includes(stored.get())) document.documentElement.dataset.theme = stored.get();
button.hidden = false;
button.addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  stored.set(theme);
  name();
});
system.addEventListener("change", name);
name();
