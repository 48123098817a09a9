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
  else box.removeAttribute("tabindex");
};
const watched = new ResizeObserver((entries) => entries.forEach((entry) => reach(entry.target)));
const watch = () => document.querySelectorAll(BOXES).forEach((box) => watched.observe(box));

// Rows that a phone shows as cards are still a table to a screen reader; the box around it need not
// be a landmark of the page.
const ROLES = {
  table: "table", thead: "rowgroup", tbody: "rowgroup", tr: "row", td: "cell",
  th: "columnheader",
};
const keepTables = () => {
  for (const [tag, role] of Object.entries(ROLES)) {
    document.querySelectorAll(`.claims.verdicts ${tag}`).forEach((e) => e.setAttribute("role", role));
  }
  document.querySelectorAll(".claims").forEach((e) => e.setAttribute("role", "group"));
};

// What the theme and docutils say to a screen reader, where it is not so: the name of a control has
// the words that it shows, and a list has items.
const correctRoles = () => {
  document.querySelectorAll("summary[aria-label], .search-button-field")
    .forEach((e) => e.removeAttribute("aria-label"));
  // what unfolds the pages below one of the contents is an arrow without a name
  document.querySelectorAll("nav li > details > summary").forEach((e) => {
    const page = e.closest("li").querySelector(":scope > a")?.textContent.trim();
    e.setAttribute("aria-label", `Pages below ${page}`);
  });
  // Font Awesome makes SVGs of these icons, before or after this, and of their titles texts.
  document.querySelectorAll(".theme-switch-button title").forEach((e) => e.remove());
  document.querySelectorAll(".theme-switch-button .theme-switch").forEach((e) => {
    ["title", "aria-labelledby"].forEach((name) => e.removeAttribute(name));
    e.setAttribute("aria-hidden", "true");
  });
  document.querySelectorAll(".citation-list > .citation").forEach((e) => e.setAttribute("role", "listitem"));
};

document.addEventListener("DOMContentLoaded", () => {
  watch();
  keepTables();
  correctRoles();
});
// Formulae become boxes only once they are set.
window.addEventListener("load", () => window.MathJax?.startup?.promise?.then(watch));
