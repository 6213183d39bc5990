// Search over the sections of all pages: every word must occur; sections with words in the heading come first.
document.addEventListener("DOMContentLoaded", () => {
  const MOST = 20, AROUND = 90;
  const sections = JSON.parse(document.getElementById("sections").textContent);
  const lower = sections.map((s) => ({ heading: (s.page + " " + s.heading).toLowerCase(), text: s.text.toLowerCase() }));
  const box = document.getElementById("query"), list = document.getElementById("found"), count = document.getElementById("count");
  document.getElementById("search").hidden = false;

  const score = (low, words) => {
    let total = 0;
    for (const word of words) {
      const inHeading = low.heading.includes(word), inText = low.text.includes(word);
      if (!inHeading && !inText) return 0;
      total += (inHeading ? 10 : 0) + (inText ? 1 : 0);
    }
    return total;
  };

  const marked = (text, words) => { // nodes, never HTML: what is shown is what the page says
    const pattern = new RegExp(words.map((w) => w.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|"), "gi");
    const nodes = []; let end = 0;
    for (const match of text.matchAll(pattern)) {
      const mark = document.createElement("mark");
      mark.textContent = match[0];
      nodes.push(text.slice(end, match.index), mark);
      end = match.index + match[0].length;
    }
    return [...nodes, text.slice(end)];
  };

  const snippet = (index, words) => {
    const { text } = sections[index], places = words.map((w) => lower[index].text.indexOf(w)).filter((i) => i >= 0);
    const at = places.length ? Math.min(...places) : 0, from = Math.max(0, at - AROUND), to = Math.min(text.length, at + AROUND);
    return (from ? "… " : "") + text.slice(from, to) + (to < text.length ? " …" : "");
  };

  const item = (index, words) => {
    const section = sections[index], entry = document.createElement("li"), link = document.createElement("a");
    const line = document.createElement("p");
    link.href = section.href;
    link.textContent = section.heading === section.page ? section.page : section.page + " › " + section.heading;
    line.append(...marked(snippet(index, words), words));
    entry.append(link, line);
    return entry;
  };

  box.addEventListener("input", () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    const scored = words.length ? lower.map((low, i) => [score(low, words), i]).filter(([s]) => s > 0) : [];
    scored.sort((a, b) => b[0] - a[0] || a[1] - b[1]);
    list.replaceChildren(...scored.slice(0, MOST).map(([, i]) => item(i, words)));
    count.textContent = words.length ? `${scored.length} section${scored.length === 1 ? "" : "s"}` : "";
  });
});
