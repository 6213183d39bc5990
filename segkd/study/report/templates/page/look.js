// Look for yourself: two answers to one frame under a slider, their errors, how sure they are, IoU of each class. Nothing is loaded.
document.addEventListener("DOMContentLoaded", async () => {
  const place = document.getElementById("look");
  if (!place) return;
  const { classes, palette, frames } = JSON.parse(document.getElementById("look-data").textContent);
  if (!frames.length) return;
  const VOID = 255, WRONG = [214, 39, 40], VIEWS = { answer: "answers", error: "errors (red)", sure: "how sure (white)" };
  const make = (tag, values = {}, ...children) => { const made = Object.assign(document.createElement(tag), values); made.append(...children); return made; };
  const names = frames[0].rows.map((row) => row.name), answer = (one, name) => one.rows.find((row) => row.name === name);
  const choice = (label, values, chosen) => {
    const box = make("select", {}, ...values.map(([value, text]) => make("option", { value, textContent: text, selected: value === chosen })));
    return [box, make("label", {}, label + " ", box)];
  };
  const rows = names.map((name) => [name, name]);
  const [left, leftLabel] = choice("Left:", rows, names[0]);
  const [right, rightLabel] = choice("Right:", rows, names[1] ?? names[0]);
  const [view, viewLabel] = choice("Show:", Object.entries(VIEWS), "answer");
  const split = make("input", { type: "range", min: 0, max: 100, value: 50, ariaLabel: "Where left ends and right begins" });
  const under = make("canvas"), over = make("canvas"), label = make("canvas"), photo = make("img", { alt: "The image" }), bars = make("table");
  const strip = make("div", { className: "look-strip" });
  frames.forEach((one, i) => {
    const button = make("button", { type: "button", ariaLabel: `Frame ${i + 1}` }, make("img", { src: "data:image/webp;base64," + one.image, alt: "" }));
    button.addEventListener("click", () => { at = i; draw(); });
    strip.append(button);
  });
  const figure = (text, ...children) => make("figure", {}, ...children, make("figcaption", { textContent: text }));
  place.append(
    make("p", { className: "look-choices" }, leftLabel, rightLabel, viewLabel), strip,
    make("div", { className: "look-panes" },
      make("div", {}, make("div", { className: "look-stack" }, under, over), split),
      make("div", {}, figure("image", photo), figure("label (black: not labelled)", label))), bars);
  let at = 0;

  const values = async (code) => { // the grey values of a picture
    const picture = make("img", { src: "data:image/png;base64," + code });
    await picture.decode();
    const canvas = make("canvas", { width: picture.width, height: picture.height }), context = canvas.getContext("2d");
    context.drawImage(picture, 0, 0);
    return { width: picture.width, at: context.getImageData(0, 0, picture.width, picture.height).data };
  };
  const paint = (canvas, [height, width], colour) => {
    Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d"), pixels = context.createImageData(width, height);
    for (let i = 0; i < width * height; i++) pixels.data.set([...colour(i), 255], 4 * i);
    context.putImageData(pixels, 0, 0);
  };
  const coloured = (map) => (i) => (map.at[4 * i] === VOID ? [0, 0, 0] : palette[map.at[4 * i]]);
  const show = async (canvas, one, name, truth) => {
    const map = await values(answer(one, name).map), sure = await values(answer(one, name).sure), width = one.size[1];
    const kinds = {
      answer: coloured(map),
      error: (i) => { const y = truth.at[4 * i]; return y === VOID ? [0, 0, 0] : y === map.at[4 * i] ? [225, 225, 225] : WRONG; },
      sure: (i) => { const v = sure.at[4 * ((Math.floor(i / width) >> 1) * sure.width + ((i % width) >> 1))]; return [v, v, v]; },
    };
    paint(canvas, one.size, kinds[view.value]);
  };
  const bar = (value) => make("td", { className: "look-bar" }, ...(value === null ? ["–"] : [make("i", { style: `width:${value * 0.8}%` }), value.toFixed(1)]));
  const draw = async () => {
    const one = frames[at], truth = await values(one.label);
    [...strip.children].forEach((button, i) => { button.ariaPressed = i === at; });
    photo.src = "data:image/webp;base64," + one.image;
    paint(label, one.size, coloured(truth));
    await Promise.all([show(under, one, right.value, truth), show(over, one, left.value, truth)]);
    const [a, b] = [answer(one, left.value).iou, answer(one, right.value).iou];
    const head = ["class", `left: ${left.value}`, `right: ${right.value}`].map((text) => make("th", { textContent: text }));
    const lines = classes.map((name, c) => [name, c]).filter(([, c]) => a[c] !== null || b[c] !== null);
    bars.replaceChildren(make("caption", { textContent: "IoU in percent in this frame alone; the tables have that of the whole split." }), make("thead", {}, make("tr", {}, ...head)),
      make("tbody", {}, ...lines.map(([name, c]) => make("tr", {}, make("td", {}, make("b", { className: "look-dot", style: `background:rgb(${palette[c]})` }), name), bar(a[c]), bar(b[c])))));
    cut();
  };
  const cut = () => { over.style.clipPath = `inset(0 ${100 - split.value}% 0 0)`; };
  split.addEventListener("input", cut);
  [left, right, view].forEach((box) => box.addEventListener("change", draw));
  draw();
});
