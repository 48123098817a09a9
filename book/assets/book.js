// A page opened from a file may not read its neighbours, so the search there lists titles without extracts.
if (location.protocol === "file:" && typeof DOCUMENTATION_OPTIONS !== "undefined") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}

// What scrolls sideways is reached by keyboard, as long as it does scroll.
const BOXES = ["pre", "figure", "table", ".table-box", ".claims", ".cell_output", ".output",
  ".pst-scrollable-table-container", "mjx-container[display='true']", "dt.sig"]
  .map((box) => `.bd-article ${box}`).join(", ");
const scrolls = (box) => box.scrollWidth > box.clientWidth + 1
  && ["auto", "scroll"].includes(getComputedStyle(box).overflowX);
const reach = (box) => {
  if (scrolls(box)) box.tabIndex = 0;
  else if (!box.matches(".claims")) box.removeAttribute("tabindex");
};
const watched = new ResizeObserver((entries) => entries.forEach((entry) => reach(entry.target)));
const watch = () => document.querySelectorAll(BOXES).forEach((box) => watched.observe(box));

// Rows that a phone shows as cards are still a table to a screen reader.
const ROLES = { table: "table", thead: "rowgroup", tbody: "rowgroup", tr: "row", td: "cell" };
const keepTables = () => {
  for (const [tag, role] of Object.entries(ROLES)) {
    document.querySelectorAll(`.claims.verdicts ${tag}`).forEach((e) => e.setAttribute("role", role));
  }
  document.querySelectorAll(".claims.verdicts th").forEach((e) => e.setAttribute("role", "columnheader"));
};

// The theme names some controls by other words than those that they show.
const nameControls = () => {
  document.querySelectorAll("summary[aria-label]").forEach((e) => e.removeAttribute("aria-label"));
};

document.addEventListener("DOMContentLoaded", () => {
  watch();
  keepTables();
  nameControls();
});
// Formulae become boxes only once they are set.
window.addEventListener("load", () => window.MathJax?.startup?.promise?.then(watch));
