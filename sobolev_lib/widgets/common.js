// Shared by every widget: sobolev_lib/widgets/_assets.py puts this text before the widget's own.
const COLOURS = __COLOURS__;
const LABELS = __LABELS__;

/** Random numbers in [0, 1) from an integer seed (mulberry32): the same on every machine. */
function uniform(seed) {
  let a = (seed + 0x9e3779b9) >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

/** Standard normal numbers made of two uniform ones each (Box and Muller). */
function normal(random) {
  return () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
}

/** Build an element: h("p", { class: "a", onclick: f }, child, "text"). */
function h(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children);
  return node;
}

/** A labelled list of choices, an array of [value, text]. */
function choice(label, options, value, onchange) {
  const select = h("select", { onchange: () => onchange(select.value) });
  for (const [key, text] of options) select.append(h("option", { value: key }, text));
  select.value = value;
  return { node: h("label", { class: "sob-field" }, h("span", {}, label), select), input: select };
}

/** A labelled slider that shows its value; `show` turns the number into what is read and spoken. */
function slider(label, min, max, step, value, show, onchange) {
  const output = h("b", { "aria-hidden": "true" }, show(value)); // the slider speaks it
  const input = h("input", { type: "range", min, max, step, "aria-label": label });
  input.value = value;
  input.setAttribute("aria-valuetext", show(value));
  input.addEventListener("input", () => {
    const now = Number(input.value);
    output.textContent = show(now);
    input.setAttribute("aria-valuetext", show(now));
    onchange(now);
  });
  const set = (now) => {
    input.value = now;
    output.textContent = show(now);
    input.setAttribute("aria-valuetext", show(now));
  };
  return { node: h("label", { class: "sob-field" }, h("span", {}, label + ": ", output), input), input, set };
}

/** Three significant digits, with a power of ten where the number is far from 1. */
function digits(value) {
  if (!Number.isFinite(value)) return "not finite";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 0.001 && size < 10000) return String(Number(value.toPrecision(3)));
  const [mantissa, exponent] = value.toExponential(1).split("e");
  return `${mantissa}·10${raised(Number(exponent))}`;
}

/** A whole number as an exponent. */
function raised(power) {
  return String(power).replace(/[-0-9]/g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);
}

/** A canvas as wide as its box, sharp on any screen; `draw(context, width, height)` in CSS pixels. */
function stage(label, heightOf, draw) {
  const canvas = h("canvas", { role: "img", "aria-label": label, class: "sob-canvas" });
  const paint = () => {
    const width = canvas.clientWidth;
    if (!width) return;
    const height = heightOf(width);
    const ratio = window.devicePixelRatio || 1;
    const [w, t] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (canvas.width !== w || canvas.height !== t) {
      canvas.width = w;
      canvas.height = t;
      canvas.style.height = height + "px";
    }
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = "12px system-ui, sans-serif";
    const ink = getComputedStyle(canvas).color;
    draw(context, width, height, ink);
  };
  const resize = new ResizeObserver(paint);
  resize.observe(canvas);
  // the theme button changes an attribute of <html>; the system's own switch fires the media query
  const theme = new MutationObserver(() => requestAnimationFrame(paint));
  theme.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme", "data-mode", "class"] });
  const media = window.matchMedia("(prefers-color-scheme: dark)");
  media.addEventListener("change", paint);
  const stop = () => {
    resize.disconnect();
    theme.disconnect();
    media.removeEventListener("change", paint);
  };
  return { canvas, paint, stop };
}

/** About `count` round numbers between two ends. */
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= rough);
  const list = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) list.push(k * step);
  return list;
}

/** Axes of one panel; returns the maps from data to pixels. */
function axes(c, ink, box, xlim, ylim, title, xlabel) {
  const X = (x) => box.x + ((x - xlim[0]) / (xlim[1] - xlim[0])) * box.w;
  const Y = (y) => box.y + box.h - ((y - ylim[0]) / (ylim[1] - ylim[0])) * box.h;
  c.save();
  c.lineWidth = 1;
  c.strokeStyle = c.fillStyle = ink;
  c.textBaseline = "middle";
  for (const y of ticks(ylim[0], ylim[1], 4)) {
    c.globalAlpha = 0.15;
    c.beginPath();
    c.moveTo(box.x, Y(y));
    c.lineTo(box.x + box.w, Y(y));
    c.stroke();
    c.globalAlpha = 0.85;
    c.textAlign = "right";
    c.fillText(String(Number(y.toPrecision(6))).replace("-", "−"), box.x - 5, Y(y));
  }
  c.globalAlpha = 0.6;
  c.strokeRect(box.x, box.y, box.w, box.h);
  c.globalAlpha = 0.85;
  c.textAlign = "center";
  c.textBaseline = "top";
  if (xlabel !== null) {
    for (const x of ticks(xlim[0], xlim[1], 4)) {
      c.fillText(String(Number(x.toPrecision(6))).replace("-", "−"), X(x), box.y + box.h + 4);
    }
    c.fillText(xlabel, box.x + box.w / 2, box.y + box.h + 18);
  }
  c.globalAlpha = 1;
  c.textAlign = "left";
  c.textBaseline = "bottom";
  c.font = "600 12px system-ui, sans-serif";
  c.fillText(title, box.x, box.y - 4);
  c.restore();
  return { X, Y };
}

/** A line through data points, cut at the panel's edge. */
function polyline(c, box, scale, xs, ys, colour, width, dash) {
  c.save();
  c.beginPath();
  c.rect(box.x, box.y, box.w, box.h);
  c.clip();
  c.beginPath();
  for (let i = 0; i < xs.length; i++) c.lineTo(scale.X(xs[i]), scale.Y(ys[i]));
  c.strokeStyle = colour;
  c.lineWidth = width;
  c.setLineDash(dash || []);
  c.lineJoin = "round";
  c.stroke();
  c.restore();
}
