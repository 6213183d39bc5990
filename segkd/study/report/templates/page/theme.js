// The bar of links: the current page in sight, and a switch. Light or dark is the reader's choice, kept for all pages; without one, what the system says. Without scripts: the system's.
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
    document.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });
  });
})();
