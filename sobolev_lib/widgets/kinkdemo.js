// One kink at t, one at s: the derivative loss, its sampled version and the kernel estimate of its slope.
const WIDTHS = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4];
const COUNTS = [5, 10, 20, 50, 100, 200, 500, 1000, 2000];
const STEPS = 200; // places of the slider for t

const stepAt = (x, place) => (x > place ? 1 : 0);

/** Points of a seed; the first n of any larger sample with that seed are the same. */
function points(n, seed) {
  const random = uniform(seed * 15485863 + 11);
  return Array.from({ length: n }, random);
}

/** Logistic density of width h. */
function kernel(z, h) {
  const s = 1 / (1 + Math.exp(-Math.abs(z) / h)); // of |z|: exp never overflows
  return (s * (1 - s)) / h;
}

/** Mean of (m' - f')^2 over the points. */
const sampledLoss = (xs, t, s) => xs.reduce((sum, x) => sum + (stepAt(x, t) - stepAt(x, s)) ** 2, 0) / xs.length;

/** Kernel estimate of the loss's slope in t: -2 mean (m' - f') k_h(x - t). */
function kernelSlope(xs, t, s, h) {
  return xs.reduce((sum, x) => sum - 2 * (stepAt(x, t) - stepAt(x, s)) * kernel(x - t, h), 0) / xs.length;
}

/** What `kernelSlope` is on average over uniform points; tends to the sign of t - s as h falls. */
const meanSlope = (t, s, h) => Math.tanh((t - s) / (2 * h));

function drawKink(c, width, height, ink, state) {
  const { xs, t, s, h, slope } = state;
  const left = 38;
  const inner = width - left - 10;
  const top = { x: left, y: 20, w: inner, h: height * 0.32 };
  const low = { x: left, y: top.y + top.h + 52, w: inner, h: height - top.h - 20 - 52 - 38 };

  const one = axes(c, ink, top, [0, 1], [-0.25, 1.25], "Derivatives of target and model", "x");
  c.fillStyle = COLOURS.sobolev; // the points that the loss counts lie here
  c.globalAlpha = 0.18;
  c.fillRect(one.X(Math.min(s, t)), top.y, one.X(Math.max(s, t)) - one.X(Math.min(s, t)), top.h);
  c.globalAlpha = 1;
  polyline(c, top, one, [0, s, s, 1], [0, 0, 1, 1], ink, 2, [2, 3]);
  polyline(c, top, one, [0, t, t, 1], [0, 0, 1, 1], COLOURS.sobolev, 2.4);
  const bell = Array.from({ length: 201 }, (_, i) => i / 200);
  const high = kernel(0, h);
  polyline(c, top, one, bell, bell.map((x) => (0.6 * kernel(x - t, h)) / high), COLOURS.kernel, 1.8, [5, 1.5]);
  c.strokeStyle = ink;
  c.lineWidth = 1;
  c.globalAlpha = Math.max(0.15, Math.min(0.8, 40 / xs.length));
  c.beginPath();
  for (const x of xs) {
    c.moveTo(one.X(x), top.y + top.h);
    c.lineTo(one.X(x), top.y + top.h - 9);
  }
  c.stroke();
  c.globalAlpha = 1;

  const most = Math.max(s, 1 - s) * 1.15;
  const two = axes(c, ink, low, [0, 1], [0, most], "Derivative loss", "kink of the model, t");
  polyline(c, low, two, [0, s, 1], [s, 0, 1 - s], ink, 1.8, [2, 3]);
  const [stairs, heights] = [[], []]; // the staircase changes only at a point, a little before and after
  const places = [0, ...[...xs].sort((a, b) => a - b), 1];
  for (let i = 0; i + 1 < places.length; i++) {
    const loss = sampledLoss(xs, (places[i] + places[i + 1]) / 2, s);
    stairs.push(places[i], places[i + 1]);
    heights.push(loss, loss);
  }
  polyline(c, low, two, stairs, heights, COLOURS.values, 1.6);
  const here = sampledLoss(xs, t, s);
  const tangent = (gradient, colour, dash) =>
    polyline(c, low, two, [t - 0.16, t + 0.16], [here - 0.16 * gradient, here + 0.16 * gradient], colour, 3, dash);
  tangent(0, COLOURS.values, []);
  tangent(slope, COLOURS.kernel, [7, 2]);
  c.fillStyle = COLOURS.sobolev;
  c.beginPath();
  c.arc(two.X(t), two.Y(here), 5, 0, 2 * Math.PI);
  c.fill();
}

function kinkLegend() {
  const items = [
    ["currentColor", "2 3", 2, "Target's derivative; population loss"],
    [COLOURS.sobolev, "", 2.4, "Model's derivative"],
    [COLOURS.values, "", 2, "Sampled loss; autograd's slope"],
    [COLOURS.kernel, "6 2", 2.4, "Kernel; its slope"],
  ];
  return h(
    "ul",
    { class: "sob-legend" },
    ...items.map(([colour, dash, wide, text]) => {
      const li = h("li", {});
      li.innerHTML = `<svg width="30" height="8" viewBox="0 0 30 8" aria-hidden="true"><path d="M0 4H30" stroke="${colour}"
        stroke-width="${wide}" stroke-dasharray="${dash}" fill="none"/></svg>`;
      li.append(text);
      return li;
    }),
  );
}

function render({ model, el }) {
  let [state, waiting] = [null, 0];
  const names = [
    ["sampled", "Sampled loss"],
    ["population", "Population loss |t − s|"],
    ["exact", "Its slope in t"],
    ["autograd", "Slope by autograd"],
    ["estimate", "Slope by the kernel"],
    ["mean", "Kernel's mean over samples"],
  ];
  const cells = Object.fromEntries(names.map(([key]) => [key, h("td", {})]));
  const table = h(
    "table",
    { class: "sob-table" },
    h("caption", {}, "At this t"),
    h("tbody", {}, ...names.map(([key, text]) => h("tr", {}, h("th", { scope: "row" }, text), cells[key]))),
  );
  const plot = stage("", (w) => Math.max(400, Math.min(470, w * 0.66)), (c, w, t, ink) => drawKink(c, w, t, ink, state));
  const status = h("p", { class: "sob-status", role: "status", "aria-live": "polite" });
  const signed = (v) => (v > 0 ? "+" : "") + digits(v).replace("-", "−");

  const refresh = () => {
    const [t, s, width] = [model.get("t"), model.get("s"), model.get("bandwidth")];
    const xs = points(model.get("n"), model.get("seed"));
    const slope = kernelSlope(xs, t, s, width);
    state = { xs, t, s, h: width, slope };
    const sampled = sampledLoss(xs, t, s);
    cells.sampled.textContent = digits(sampled);
    cells.population.textContent = digits(Math.abs(t - s));
    cells.exact.textContent = t === s ? "none: a corner" : signed(Math.sign(t - s));
    cells.autograd.textContent = "0";
    cells.estimate.textContent = signed(slope);
    cells.mean.textContent = signed(meanSlope(t, s, width));
    plot.paint();
    const text =
      `Kink of the model at ${digits(t)}, of the target at ${digits(s)}. ` +
      `Sampled loss ${digits(sampled)}, slope by autograd 0, by the kernel ${signed(slope)}.`;
    plot.canvas.setAttribute("aria-label", `Derivatives above, the derivative loss against t below. ${text}`);
    clearTimeout(waiting); // speak when the reader has stopped moving a slider
    waiting = setTimeout(() => (status.textContent = text), 400);
  };

  const put = (key) => (value) => {
    model.set(key, value);
    model.save_changes();
  };
  const nearest = (list, value) => list.reduce((best, v, i) => (Math.abs(v - value) < Math.abs(list[best] - value) ? i : best), 0);
  const places = (label, list, key) =>
    slider(label, 0, list.length - 1, 1, nearest(list, model.get(key)), (i) => String(list[i]), (i) => put(key)(list[i]));
  const controls = {
    t: slider("Kink of the model t", 0, STEPS, 1, Math.round(model.get("t") * STEPS), (i) => (i / STEPS).toFixed(3), (i) => put("t")(i / STEPS)),
    bandwidth: places("Kernel width h", WIDTHS, "bandwidth"),
    n: places("Points n", COUNTS, "n"),
    seed: slider("Seed", 0, 20, 1, model.get("seed"), String, put("seed")),
  };
  const changed = () => {
    controls.t.set(Math.round(model.get("t") * STEPS));
    controls.bandwidth.set(nearest(WIDTHS, model.get("bandwidth")));
    controls.n.set(nearest(COUNTS, model.get("n")));
    controls.seed.set(model.get("seed"));
    refresh();
  };
  const keys = ["s", "t", "bandwidth", "n", "seed"];
  for (const key of keys) model.on(`change:${key}`, changed);
  el.append(
    h(
      "section",
      { class: "sob sob-kink", "aria-label": "The derivative loss of a single kink" },
      h("div", { class: "sob-controls" }, ...Object.values(controls).map((control) => control.node)),
      kinkLegend(),
      plot.canvas,
      table,
      status,
    ),
  );
  refresh();
  return () => {
    clearTimeout(waiting);
    plot.stop();
    for (const key of keys) model.off(`change:${key}`, changed);
  };
}

export { COUNTS, WIDTHS, kernel, kernelSlope, meanSlope, points, sampledLoss };
export default { render };
