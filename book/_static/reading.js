/* Repairs to what the theme makes of the pages, for readers with a keyboard, a screen reader or paper. */
(() => {
  "use strict";

  // What may be wider than the column and then scrolls by itself.
  const SCROLLERS = [
    "pre", "div.math", "span.math", "mjx-container", "div.text_html", "div.pst-scrollable-table-container",
    "figure[data-wide]",
  ].map((selector) => `.bd-article ${selector}`).join(", ");
  const KIND = { PRE: "Code or text", "MJX-CONTAINER": "Formula", SPAN: "Formula" };
  const SLACK = 4; // pixels by which the invisible part of a formula stands out
  const WIDE = 700; // pixels from which a figure has panels side by side

  /* Whoever has no mouse scrolls with the arrow keys, which needs the focus: only what overflows gets it. */
  function markScroller(block) {
    const overflows = block.scrollWidth > block.clientWidth + SLACK;
    const scrolls = overflows && (block.tagName === "SPAN" || /auto|scroll/.test(getComputedStyle(block).overflowX));
    if (scrolls && !block.hasAttribute("data-scrolls")) {
      block.setAttribute("data-scrolls", "");
      block.setAttribute("tabindex", "0");
      if (block.tagName === "FIGURE") return; // has a role, and its caption for a name
      block.setAttribute("role", "group");
      block.setAttribute("aria-label", `${KIND[block.tagName] ?? "Table"}, wider than the page`);
    } else if (!scrolls && block.hasAttribute("data-scrolls")) {
      ["data-scrolls", "tabindex", "role", "aria-label"].forEach((name) => block.removeAttribute(name));
    }
  }

  const markWideFigures = () => document.querySelectorAll(".bd-article figure img").forEach((picture) => {
    if (picture.naturalWidth > WIDE) picture.closest("figure").setAttribute("data-wide", "");
  });

  const resizes = new ResizeObserver((entries) => entries.forEach((entry) => markScroller(entry.target)));
  const watchScrollers = () => document.querySelectorAll(SCROLLERS).forEach((block) => {
    markScroller(block);
    resizes.observe(block);
  });

  /* The title of the book is outside of every landmark, the bibliography has retired roles, and pandas calls the empty
     corner of a table a heading. */
  function repairRoles() {
    const brand = document.querySelector(".bd-sidebar-primary .navbar-brand")?.parentElement;
    brand?.setAttribute("role", "navigation");
    brand?.setAttribute("aria-label", "Title page");
    document.querySelectorAll('[role="doc-biblioentry"]').forEach((entry) => entry.setAttribute("role", "listitem"));
    document.querySelectorAll("th:empty").forEach((corner) => corner.replaceWith(document.createElement("td")));
  }

  /* Where the menu can be unfolded, say what; and without a list of sections on the page there is none to mark, where
     the theme would go through all links and stop at the first that it does not understand. */
  function repairMenus() {
    document.querySelectorAll(".bd-docs-nav summary").forEach((summary) => {
      const link = summary.closest("li")?.querySelector("a");
      if (link) summary.setAttribute("aria-label", `Pages below ${link.textContent.trim()}`);
    });
    if (!document.querySelector(".bd-toc-nav")) document.body.removeAttribute("data-bs-spy");
  }

  /* Paper is white and has no buttons: print in light colours with everything unfolded, then put it back. */
  let restore = null;
  function beforePrint() {
    if (restore !== null) return;
    const theme = document.documentElement.dataset.theme;
    const folded = [...document.querySelectorAll(".bd-article details:not([open])")];
    document.documentElement.dataset.theme = "light";
    folded.forEach((details) => { details.open = true; });
    restore = () => {
      document.documentElement.dataset.theme = theme;
      folded.forEach((details) => { details.open = false; });
      restore = null;
    };
  }

  window.addEventListener("beforeprint", beforePrint);
  window.addEventListener("afterprint", () => restore?.());
  window.matchMedia("print").addEventListener("change", (print) => (print.matches ? beforePrint() : restore?.()));
  document.addEventListener("DOMContentLoaded", () => {
    repairRoles();
    repairMenus();
  });
  window.addEventListener("load", () => {
    markWideFigures();
    watchScrollers();
    window.MathJax?.startup?.promise?.then(watchScrollers);
  });
})();
