// Two small networks, one trained on values only and one on values and slopes, on the same points.
const TARGETS = {
  smooth: {
    label: "Smooth wave",
    f: (x) => Math.sin(Math.PI * x) + 0.3 * Math.cos(2.5 * Math.PI * x),
    df: (x) => Math.PI * Math.cos(Math.PI * x) - 0.75 * Math.PI * Math.sin(2.5 * Math.PI * x),
  },
  kinked: {
    label: "Kinked line",
    f: (x) => 1.5 * Math.abs(x + 0.35) - 2.5 * Math.max(0, x - 0.3) - 0.5,
    df: (x) => 1.5 * (x > -0.35 ? 1 : -1) - 2.5 * (x > 0.3 ? 1 : 0),
  },
  bumpy: {
    label: "Bumpy bowl",
    f: (x) => 1.5 * x * x - 0.6 + 0.14 * Math.cos(9 * Math.PI * x),
    df: (x) => 3 * x - 0.14 * 9 * Math.PI * Math.sin(9 * Math.PI * x),
  },
};
const ACTIVATIONS = { relu: "ReLU", kernel: "ReLU with the kink kernel", tanh: "tanh" };
const WEIGHTS = [0, 0.01, 0.03, 0.1, 0.3, 1, 3, 10];
const BANDWIDTH = 0.15; // width h of the kink kernel, in units of a pre-activation

const STEPS_A_FRAME = 10;

/** Number of parameters of a 1-H-H-1 network, stored as w1, b1, W2 (row by row), b2, w3, b3. */
const parameterCount = (H) => H * H + 4 * H + 1;

/** Random start: the first layer's kinks lie all over [-1, 1], later layers as He et al. propose. */
function initialise(H, activation, seed) {
  const random = uniform(seed * 7919 + 17);
  const gauss = normal(random);
  const theta = new Float64Array(parameterCount(H));
  const gain = activation === "tanh" ? 1 : 2;
  for (let i = 0; i < H; i++) {
    const w = gauss() * (activation === "tanh" ? 3 : Math.sqrt(2));
    theta[i] = w;
    theta[H + i] = -w * (2 * random() - 1);
  }
  for (let i = 0; i < H * H; i++) theta[2 * H + i] = gauss() * Math.sqrt(gain / H);
  for (let i = 0; i < H; i++) theta[H * H + 3 * H + i] = gauss() * Math.sqrt(1 / H);
  return theta;
}

/** Activation, its slope and the slope's slope at z; the kernel stands in for a delta function at the kink. */
function activate(kind, z, out) {
  if (kind === "tanh") {
    out[0] = Math.tanh(z);
    out[1] = 1 - out[0] * out[0];
    out[2] = -2 * out[0] * out[1];
    return;
  }
  out[0] = z > 0 ? z : 0;
  out[1] = z > 0 ? 1 : 0;
  out[2] = 0;
  if (kind === "kernel") {
    const s = 1 / (1 + Math.exp(-z / BANDWIDTH));
    out[2] = (s * (1 - s)) / BANDWIDTH;
  }
}

function workspace(H) {
  const names = ["a1", "s1", "k1", "t1", "a2", "s2", "k2", "u2", "t2", "z2bar", "u2bar"];
  return Object.fromEntries(names.map((name) => [name, new Float64Array(H)]));
}

/** Value and slope of the network at x; leaves the layers in `w`. */
function evaluate(theta, H, kind, x, w) {
  const [B1, M2, B2, W3] = [H, 2 * H, H * H + 2 * H, H * H + 3 * H];
  const out = [0, 0, 0];
  for (let i = 0; i < H; i++) {
    activate(kind, theta[i] * x + theta[B1 + i], out);
    [w.a1[i], w.s1[i], w.k1[i]] = out;
    w.t1[i] = out[1] * theta[i];
  }
  let value = theta[W3 + H];
  let slope = 0;
  for (let j = 0; j < H; j++) {
    let z = theta[B2 + j];
    let u = 0;
    for (let i = 0, row = M2 + j * H; i < H; i++) {
      z += theta[row + i] * w.a1[i];
      u += theta[row + i] * w.t1[i];
    }
    activate(kind, z, out);
    [w.a2[j], w.s2[j], w.k2[j]] = out;
    w.u2[j] = u;
    w.t2[j] = out[1] * u;
    value += theta[W3 + j] * w.a2[j];
    slope += theta[W3 + j] * w.t2[j];
  }
  return [value, slope];
}

/**
 * mean (m - y)^2 + weight (m' - dy)^2 and its gradient, added up by hand: back through the network and
 * its forward-mode derivative at once.  With "kernel" the slope of a unit's step is the kernel.
 */
function lossAndGradient(theta, H, kind, xs, ys, dys, weight, grad, w) {
  const [B1, M2, B2, W3] = [H, 2 * H, H * H + 2 * H, H * H + 3 * H];
  const n = xs.length;
  let [values, slopes] = [0, 0];
  grad.fill(0);
  for (let p = 0; p < n; p++) {
    const [m, dm] = evaluate(theta, H, kind, xs[p], w);
    values += (m - ys[p]) ** 2 / n;
    slopes += (dm - dys[p]) ** 2 / n;
    const e = (2 * (m - ys[p])) / n;
    const r = (2 * weight * (dm - dys[p])) / n;
    grad[W3 + H] += e;
    for (let j = 0; j < H; j++) {
      const v = theta[W3 + j];
      grad[W3 + j] += e * w.a2[j] + r * w.t2[j];
      w.z2bar[j] = v * (e * w.s2[j] + r * w.k2[j] * w.u2[j]);
      w.u2bar[j] = v * r * w.s2[j];
      grad[B2 + j] += w.z2bar[j];
    }
    for (let i = 0; i < H; i++) {
      let [a1bar, t1bar] = [0, 0];
      for (let j = 0, at = M2 + i; j < H; j++, at += H) {
        grad[at] += w.z2bar[j] * w.a1[i] + w.u2bar[j] * w.t1[i];
        a1bar += theta[at] * w.z2bar[j];
        t1bar += theta[at] * w.u2bar[j];
      }
      const z1bar = w.s1[i] * a1bar + w.k1[i] * theta[i] * t1bar;
      grad[i] += z1bar * xs[p] + w.s1[i] * t1bar;
      grad[B1 + i] += z1bar;
    }
  }
  return { values, slopes, total: values + weight * slopes };
}

/** Adam (Kingma and Ba 2015, with their constants); the rate falls to zero along a cosine. */
class Trainer {
  constructor(settings, weight) {
    this.settings = settings;
    this.weight = weight;
    this.theta = initialise(settings.hidden, settings.activation, settings.seed);
    this.grad = new Float64Array(this.theta.length);
    this.mean = new Float64Array(this.theta.length);
    this.square = new Float64Array(this.theta.length);
    this.work = workspace(settings.hidden);
    this.step = 0;
  }

  train(data) {
    const s = this.settings;
    lossAndGradient(this.theta, s.hidden, s.activation, data.x, data.y, data.dy, this.weight, this.grad, this.work);
    const rate = 0.5 * s.rate * (1 + Math.cos((Math.PI * this.step) / s.steps));
    this.step += 1;
    const [c1, c2] = [1 - 0.9 ** this.step, 1 - 0.999 ** this.step];
    for (let i = 0; i < this.theta.length; i++) {
      const g = this.grad[i];
      this.mean[i] += 0.1 * (g - this.mean[i]);
      this.square[i] += 0.001 * (g * g - this.square[i]);
      this.theta[i] -= (rate * (this.mean[i] / c1)) / (Math.sqrt(this.square[i] / c2) + 1e-8);
    }
  }

  /** Values and slopes at many points. */
  curve(xs) {
    const s = this.settings;
    const pairs = Array.from(xs, (x) => evaluate(this.theta, s.hidden, s.activation, x, this.work));
    return { y: pairs.map((p) => p[0]), dy: pairs.map((p) => p[1]) };
  }
}

/** Training points: uniform on [-1, 1], as the paper samples its domains. */
function sample(target, n, seed) {
  const random = uniform(seed * 104729 + 5);
  const x = Array.from({ length: n }, () => 2 * random() - 1).sort((a, b) => a - b);
  return { x, y: x.map(TARGETS[target].f), dy: x.map(TARGETS[target].df) };
}

const GRID = Array.from({ length: 401 }, (_, i) => -1 + i / 200);
const meanSquare = (a, b) => a.reduce((sum, v, i) => sum + (v - b[i]) ** 2, 0) / a.length;

/** Everything that one choice of settings fixes: the points, the two networks and the truth. */
function experiment(settings) {
  const target = TARGETS[settings.target];
  const data = sample(settings.target, settings.n, settings.seed);
  const nets = { values: new Trainer(settings, 0), sobolev: new Trainer(settings, settings.weight) };
  const truth = { y: GRID.map(target.f), dy: GRID.map(target.df) };
  const errors = () => {
    const table = {};
    for (const [name, net] of Object.entries(nets)) {
      const fit = net.curve(GRID);
      table[name] = { fit, value: meanSquare(fit.y, truth.y), slope: meanSquare(fit.dy, truth.dy) };
    }
    return table;
  };
  const advance = () => {
    nets.values.train(data);
    nets.sobolev.train(data);
    return nets.values.step;
  };
  return { data, nets, truth, errors, advance };
}

const LINES = { truth: [2, 3], values: [7, 4], sobolev: [] };

function paint(c, width, height, ink, run, now) {
  const left = 38;
  const top = { x: left, y: 20, w: width - left - 8, h: height * 0.54 };
  const low = { x: left, y: top.y + top.h + 26, w: top.w, h: height - top.h - 20 - 26 - 36 };
  for (const [box, key, title, xlabel] of [[top, "y", "Value", null], [low, "dy", "Derivative", "x"]]) {
    const [least, most] = [Math.min(...run.truth[key]), Math.max(...run.truth[key])];
    const margin = 0.25 * (most - least);
    const scale = axes(c, ink, box, [-1, 1], [least - margin, most + margin], title, xlabel);
    polyline(c, box, scale, GRID, run.truth[key], ink, 1.6, LINES.truth);
    for (const name of ["values", "sobolev"]) {
      polyline(c, box, scale, GRID, now[name].fit[key], COLOURS[name], name === "values" ? 2 : 2.4, LINES[name]);
    }
    marks(c, ink, scale, run.data, key);
  }
}

/** The training points; above, with a short line of the slope that is given there. */
function marks(c, ink, scale, data, key) {
  c.save();
  c.strokeStyle = c.fillStyle = ink;
  data.x.forEach((x, i) => {
    const [px, py] = [scale.X(x), scale.Y(data[key][i])];
    if (key === "y") {
      const [dx, dy] = [scale.X(1) - scale.X(0), (scale.Y(1) - scale.Y(0)) * data.dy[i]];
      const unit = 13 / Math.hypot(dx, dy);
      c.lineWidth = 1.8;
      c.beginPath();
      c.moveTo(px - dx * unit, py - dy * unit);
      c.lineTo(px + dx * unit, py + dy * unit);
      c.stroke();
    }
    c.beginPath();
    c.arc(px, py, 3.6, 0, 2 * Math.PI);
    c.fill();
  });
  c.restore();
}

function legend() {
  const item = (name, text, dash) => {
    const line = `<svg width="30" height="8" viewBox="0 0 30 8" aria-hidden="true"><path d="M0 4H30" fill="none" stroke-width="2.4"
      stroke="${name === "truth" ? "currentColor" : COLOURS[name]}" stroke-dasharray="${dash.join(" ")}"/></svg>`;
    const li = h("li", {});
    li.innerHTML = line;
    li.append(text);
    return li;
  };
  const dot = h("li", {});
  dot.innerHTML = `<svg width="30" height="14" viewBox="0 0 30 14" aria-hidden="true"><path d="M3 12L27 2" stroke="currentColor"
    stroke-width="1.8"/><circle cx="15" cy="7" r="3.6" fill="currentColor"/></svg>`;
  dot.append("Training point with its slope");
  return h(
    "ul",
    { class: "sob-legend" },
    item("truth", "Truth", LINES.truth),
    item("values", LABELS.values, LINES.values),
    item("sobolev", LABELS.sobolev, LINES.sobolev),
    dot,
  );
}

function results() {
  const cells = {};
  const row = (name) => {
    cells[name] = [h("td", {}), h("td", {})];
    return h("tr", {}, h("th", { scope: "row" }, LABELS[name]), ...cells[name]);
  };
  const table = h(
    "table",
    { class: "sob-table" },
    h("caption", {}, "Mean squared error on 401 points"),
    h("thead", {}, h("tr", {}, ...["Trained on", "Value", "Derivative"].map((t) => h("th", { scope: "col" }, t)))),
    h("tbody", {}, row("values"), row("sobolev")),
  );
  const show = (now) => {
    for (const [name, [value, slope]] of Object.entries(cells)) {
      value.textContent = digits(now[name].value);
      slope.textContent = digits(now[name].slope);
    }
  };
  return { table, show };
}

function render({ model, el }) {
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
  let [run, now, frame, drawn, spoken] = [null, null, 0, 0, 0];
  const read = () => ({
    target: model.get("target"),
    n: model.get("n"),
    weight: model.get("weight"),
    activation: model.get("activation"),
    seed: model.get("seed"),
    hidden: model.get("hidden"),
    steps: model.get("steps"),
    rate: model.get("learning_rate"),
  });
  const { table, show } = results();
  const plot = stage("", (w) => Math.max(400, Math.min(480, w * 0.68)), (c, w, t, ink) => paint(c, w, t, ink, run, now));
  const status = h("p", { class: "sob-status", role: "status", "aria-live": "polite" });
  const start = h("button", { type: "button", onclick: () => (frame ? pause() : go()) }, "Start");
  const again = h("button", { type: "button", onclick: () => reset("Reset.") }, "Reset");

  const refresh = () => {
    now = run.errors();
    show(now);
    plot.paint();
  };
  const say = (text) => {
    const at = `Step ${run.nets.values.step} of ${model.get("steps")}.`;
    const test = `Test error: values only ${digits(now.values.value)}, Sobolev ${digits(now.sobolev.value)}.`;
    status.textContent = [text, at, test].join(" ");
    const s = read();
    plot.canvas.setAttribute(
      "aria-label",
      `${TARGETS[s.target].label} with ${s.n} training points and two ${ACTIVATIONS[s.activation]} networks, ` +
        `above their values, below their derivatives. ${at} ${test}`,
    );
    spoken = performance.now();
  };
  const pause = (text = "Paused.") => {
    cancelAnimationFrame(frame);
    frame = 0;
    start.textContent = run.nets.values.step < model.get("steps") ? "Continue" : "Start again";
    refresh();
    say(text);
  };
  const tick = (time) => {
    // a few steps a frame, so that the eye can follow; all that fit where motion is not wanted
    const until = performance.now() + (calm.matches ? 40 : 10);
    let step = run.nets.values.step;
    for (let k = 0; step < model.get("steps") && performance.now() < until; k++) {
      if (k === STEPS_A_FRAME && !calm.matches) break;
      step = run.advance();
    }
    if (step >= model.get("steps")) return pause("Finished.");
    if (time - drawn > (calm.matches ? 1000 : 60)) {
      refresh();
      drawn = time;
    }
    if (time - spoken > 8000) say("Training.");
    frame = requestAnimationFrame(tick);
  };
  const go = () => {
    if (run.nets.values.step >= model.get("steps")) reset("");
    start.textContent = "Pause";
    say("Training.");
    frame = requestAnimationFrame(tick);
  };
  const reset = (text) => {
    cancelAnimationFrame(frame);
    frame = 0;
    run = experiment(read());
    start.textContent = "Start";
    refresh();
    say(text);
  };

  const put = (key) => (value) => {
    model.set(key, value);
    model.save_changes();
  };
  const pick = (table) => Object.entries(table).map(([key, v]) => [key, v.label || v]);
  const index = () => WEIGHTS.reduce((best, w, i) => (Math.abs(w - model.get("weight")) < Math.abs(WEIGHTS[best] - model.get("weight")) ? i : best), 0);
  const controls = {
    target: choice("Target function", pick(TARGETS), model.get("target"), put("target")),
    activation: choice("Activation", pick(ACTIVATIONS), model.get("activation"), put("activation")),
    n: slider("Training points", 3, 20, 1, model.get("n"), String, put("n")),
    weight: slider("Derivative weight λ", 0, WEIGHTS.length - 1, 1, index(), (i) => String(WEIGHTS[i]), (i) => put("weight")(WEIGHTS[i])),
    seed: slider("Seed", 0, 20, 1, model.get("seed"), String, put("seed")),
  };
  const changed = () => {
    for (const key of ["target", "activation"]) controls[key].input.value = model.get(key);
    for (const key of ["n", "seed"]) controls[key].set(model.get(key));
    controls.weight.set(index());
    reset("New setting.");
  };
  const keys = ["target", "n", "weight", "activation", "seed", "hidden", "steps", "learning_rate"];
  for (const key of keys) model.on(`change:${key}`, changed);

  el.append(
    h(
      "section",
      { class: "sob sob-fit1d", "aria-label": "Train two networks on the same points, with and without slopes" },
      h("div", { class: "sob-controls" }, ...Object.values(controls).map((control) => control.node)),
      h("div", { class: "sob-buttons" }, start, again),
      legend(),
      plot.canvas,
      table,
      status,
    ),
  );
  reset("Ready.");
  return () => {
    cancelAnimationFrame(frame);
    plot.stop();
    for (const key of keys) model.off(`change:${key}`, changed);
  };
}

export { TARGETS, WEIGHTS, Trainer, experiment, initialise, lossAndGradient, parameterCount, sample, workspace };
export default { render };
