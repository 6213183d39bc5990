// The bar of links: its menus close when one looks elsewhere; and a switch. In a chart the arrow keys go from mark to mark. Light or dark is the reader's choice, kept for all pages; without one, what the system says. Without scripts: the system's.
(() => {
  const root = document.documentElement;
  const kept = () => { try { return localStorage.getItem("segkd-theme"); } catch { return null; } };
  const system = () => (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  const choice = kept();
  if (choice === "light" || choice === "dark") root.dataset.theme = choice;
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const show = () => { button.textContent = (root.dataset.theme || system()) === "dark" ? "Light" : "Dark"; };
    button.hidden = false;
    button.addEventListener("click", () => {
      root.dataset.theme = (root.dataset.theme || system()) === "dark" ? "light" : "dark";
      try { localStorage.setItem("segkd-theme", root.dataset.theme); } catch { /* not kept: this page alone */ }
      show();
    });
    show();
    const menus = [...document.querySelectorAll("details.menu")];
    document.addEventListener("click", (event) => menus.forEach((menu) => { if (!menu.contains(event.target)) menu.open = false; }));
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") menus.forEach((menu) => { menu.open = false; });
      const chart = event.target.closest("figure.chart"), step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!chart || !step) return;
      const marks = [...chart.querySelectorAll("i")];
      marks.at((marks.indexOf(event.target) + (event.target === chart && step < 0 ? 0 : step)) % marks.length).focus();
      event.preventDefault();
    });
  });
})();
