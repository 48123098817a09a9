// The playground: two networks, one trained on values only, learn side by side while the reader changes what and how.
const PACE = 4000; // ms for a whole training, where the machine is fast enough
const BUDGET = 11; // ms of a frame for training; what is left of 33 is for drawing
const NAMES = ["values", "sobolev"];
// names here and names of the traits
const SETTINGS = { target: "target", activation: "activation", width: "width", rate: "learning_rate", weight: "weight", n: "n", seed: "seed", steps: "steps", knots: "knots" };
const HINT =
  "Arrow keys move the point. With Shift, up and down tilt its slope and left and right go further. " +
  "Page Up and Page Down choose another point, Delete removes it, Insert adds one.";
const signed = (v) => v.toFixed(2).replace(/^-(?=0\.00$)/, "").replace("-", "−");

/** The table of errors, which is the legend as well. */
function results() {
  const cells = {};
  const heads = ["Value", "Slope", "Pieces"].map((text) => h("th", { scope: "col" }, text));
  const row = (name) => {
    cells[name] = heads.map(() => h("td", {}));
    const head = h("th", { scope: "row" });
    head.innerHTML = `<svg width="26" height="8" viewBox="0 0 26 8" aria-hidden="true"><path d="M0 4H26" fill="none" stroke-width="2.6"
      stroke="${COLOURS[name]}" stroke-dasharray="${LINES[name].join(" ")}"/></svg> `;
    head.append(LABELS[name]);
    return h("tr", {}, head, ...cells[name]);
  };
  const caption = h("caption", {});
  const top = h("tr", {}, h("th", { scope: "col" }, "Trained on"), ...heads);
  const table = h("table", { class: "sob-table" }, caption, h("thead", {}, top), h("tbody", {}, ...NAMES.map(row)));
  const show = (words, rows) => {
    caption.textContent = words;
    for (const name of NAMES) cells[name].forEach((cell, i) => (cell.textContent = rows[name][i]));
  };
  return { table, show };
}

/** Lists and sliders of the settings; `change(key)` gives what to call with a new value. */
function settingControls(s, change) {
  const nearest = (list, value) => list.reduce((best, v, i) => (Math.abs(v - value) < Math.abs(list[best] - value) ? i : best), 0);
  const places = (label, key) => {
    const list = PLACES[key];
    const shown = (i) => digits(i === nearest(list, s[key]) ? s[key] : list[i]); // a value between two places keeps its own name
    return slider(label, 0, list.length - 1, 1, nearest(list, s[key]), shown, (i) => change(key)(list[i]));
  };
  const controls = {
    target: choice("Target", Object.entries(TARGETS).map(([key, { label }]) => [key, label]), s.target, change("target")),
    activation: choice("Activation", Object.entries(ACTIVATIONS), s.activation, change("activation")),
    weight: places("Sobolev weight", "weight"),
    n: slider("Points", 1, POINTS[0].most, 1, s.n, String, (n) => change("n")(n)),
    width: places("Width", "width"),
    rate: places("Learning rate", "rate"),
  };
  const show = () => {
    for (const key of ["target", "activation"]) controls[key].input.value = s[key];
    for (const key of ["weight", "width", "rate"]) controls[key].set(nearest(PLACES[key], s[key]));
    controls.n.input.max = POINTS[TARGETS[s.target].d - 1].most;
    controls.n.set(s.n);
  };
  return { node: h("div", { class: "sob-controls" }, ...Object.values(controls).map((control) => control.node)), show };
}

/** The element that the keyboard moves points with, and what it says about the chosen one. */
function pointEditor(s) {
  const hint = h("span", { class: "sob-hidden", id: `sob-hint-${Math.random().toString(36).slice(2)}` }, HINT);
  const node = h("div", { class: "sob-point", role: "slider", tabindex: 0, "aria-describedby": hint.id });
  const show = () => {
    const p = s.points[s.selected].map(signed);
    const names = p.length === 3 ? ["x", "value", "slope"] : ["x", "y", "value"];
    const point = `Point ${s.selected + 1}/${s.points.length}: ` + names.map((name, i) => `${name} ${p[i]}`).join(", ");
    const text = s.drawing ? `Knot ${s.knot + 1}/${KNOTS}: height ${signed(s.knots[s.knot])}` : point;
    const [now, most] = s.drawing ? [s.knots[s.knot], HEIGHT] : [s.points[s.selected][0], 1];
    node.textContent = text;
    node.setAttribute("aria-label", s.drawing ? "Knot of the curve" : "Training point");
    for (const [key, value] of [["min", -most], ["max", most], ["now", now], ["text", text]]) node.setAttribute(`aria-value${key}`, value);
  };
  return { node, hint, show };
}

/** What the page, Python and the address share: `s` is written to the traits and to the address, and read from them. */
function sharing(model, s, { race, running, takeOver }) {
  let [mine, waiting, writing, news] = [false, 0, 0, new Set()];
  const traits = () => Object.fromEntries(Object.entries(SETTINGS).map(([key, trait]) => [key, model.get(trait)]));
  const first = traits(); // an address that names less than all is completed by these
  const send = () => {
    const own = Object.entries(SETTINGS).map(([key, trait]) => [trait, s[key]]);
    const state = { points: s.points, weights: new DataView(race().weights().buffer), step: race().step, running: running() };
    mine = true;
    for (const [trait, value] of [...own, ...Object.entries(state)]) model.set(trait, value);
    mine = false;
    model.save_changes();
  };
  /** Hand the state to Python: soon, once however often it is called until then. */
  const publish = (delay = 250) => {
    clearTimeout(waiting);
    if (delay) waiting = setTimeout(send, delay);
    else send();
  };
  /** When the hand rests: browsers limit how often an address may change. */
  const address = () => {
    clearTimeout(writing);
    const write = () => window.history.replaceState(window.history.state, "", writeHash(s, s.points));
    if (model.get("share")) writing = setTimeout(write, 250);
  };
  const addressed = () => (model.get("share") ? readHash(window.location.hash, first) : null);
  /** Both networks' weights as Python has set them, if they are of this shape. */
  const weights = () => {
    const view = model.get("weights");
    if (view?.byteLength !== 16 * countOf(TARGETS[s.target].d, s.width)) return undefined;
    return new Float64Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
  };
  const listeners = [...Object.values(SETTINGS), "points", "weights", "running"].map((trait) => {
    const listener = () => {
      if (mine) return;
      if (!news.size) queueMicrotask(() => takeOver(news, (news = new Set()))); // all that one message changes, together
      news.add(trait);
    };
    model.on(`change:${trait}`, listener);
    return [`change:${trait}`, listener];
  });
  const end = () => {
    clearTimeout(waiting);
    clearTimeout(writing);
    for (const [name, listener] of listeners) model.off(name, listener);
  };
  return { traits, publish, address, addressed, weights, end };
}

function render({ model, el }) {
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
  const s = { points: [], selected: 0, knot: 0, drawing: false, held: false }; // and the settings
  let [race, target, grid, fits, losses, scales] = [null, null, null, {}, [], {}];
  let [running, wanted, seen] = [false, model.get("running") && !calm.matches, false]; // wanted: until the reader pauses
  let [frame, last, elapsed, drawn, cost, spoken] = [0, 0, 0, 0, 0, 0];

  // --- what the reader sees --------------------------------------------------------------------------
  const plot = stage("", (width) => arrange(width, target.d).height, (c, width, height, ink) => {
    scales = drawAll(c, width, height, ink, { ...s, target, grid, fits, losses, scales });
  });
  const { table, show } = results();
  const status = h("p", { class: "sob-status", role: "status", "aria-live": "polite" });
  /** Compare with the truth, note the losses, draw; false if a loss is no number any more. */
  const refresh = () => {
    const from = performance.now();
    const terms = NAMES.map((name) => Object.values(race.nets[name].terms(race.data)));
    for (const name of NAMES) fits[name] = compare(race.nets[name], grid);
    if (losses.at(-1)?.step === race.step) losses.pop();
    losses.push({ step: race.step, terms: terms.flat() });
    if (losses.length > 600) losses = losses.filter((_, i) => i % 2 === 0);
    const { free } = target; // no truth: the errors at the points
    const texts = (name, i) => [...(free ? terms[i] : fits[name].error).map(digits), fits[name].pieces ?? "smooth"];
    const rows = Object.fromEntries(NAMES.map((name, i) => [name, texts(name, i)]));
    show(`Mean squared error ${free ? "at the points" : "against the truth"}`, rows);
    plot.paint();
    cost = performance.now() - from;
    return terms.flat().every(Number.isFinite);
  };
  const say = (news) => {
    const errors = table.querySelectorAll("td:nth-child(2)");
    const at = `Step ${race.step} of ${s.steps}.`;
    const text = `Error of the value: values only ${errors[0].textContent}, Sobolev ${errors[1].textContent}.`;
    const heard = running ? `${at} ${text}` : text; // what the picture and the table show already
    status.replaceChildren(`${news} ${running ? "" : at} `, h("span", { class: "sob-hidden" }, heard));
    const what = target.d === 1 ? "functions and derivatives" : "maps with gradients";
    plot.canvas.setAttribute(
      "aria-label",
      `${target.label}, ${s.points.length} training points, two networks of ${ACTIVATIONS[s.activation]} units: ${what}, and training losses. ${at} ${text}`,
    );
    spoken = performance.now();
  };
  const choose = (i) => {
    if (s.drawing) s.knot = (i + KNOTS) % KNOTS;
    else s.selected = (i + s.points.length) % s.points.length;
    editor.show();
    plot.paint();
  };

  // --- training --------------------------------------------------------------------------------------
  const tick = (time) => {
    frame = 0;
    if (!running || !seen) return; // out of sight, nothing is trained
    const from = performance.now();
    elapsed += Math.min(100, Math.max(0, time - last));
    last = time;
    const goal = calm.matches ? s.steps : Math.min(s.steps, Math.ceil((s.steps * elapsed) / PACE));
    while (race.step < goal && performance.now() - from < (calm.matches ? 40 : BUDGET)) race.advance(s);
    if (race.step >= s.steps) return stop("Finished.");
    if (time - drawn >= Math.max(calm.matches ? 1000 : 0, 3 * cost)) {
      drawn = time;
      if (!refresh()) return stop("The loss is not finite any more: take a smaller learning rate or smaller numbers.");
    }
    if (time - spoken > 8000) say("Training.");
    frame = requestAnimationFrame(tick);
  };
  const wake = () => {
    if (!running || !seen || frame) return;
    last = performance.now();
    frame = requestAnimationFrame(tick);
  };
  const go = () => {
    if (race.step >= s.steps) retrain();
    wanted = running = true;
    start.textContent = "Pause";
    wake();
    share.publish();
  };
  const stop = (news) => {
    running = false;
    cancelAnimationFrame(frame);
    frame = 0;
    start.textContent = race.step ? "Continue" : "Train";
    refresh();
    say(news);
    share.publish(0);
  };
  /** The same networks on other points: the schedule begins again, the weights stay. */
  const retrain = () => {
    race.restart(dataOf(s.points, target.d));
    [losses, elapsed] = [[], 0];
  };
  const reshape = () => {
    target = targetOf(s);
    grid = gridOf(target);
  };
  /** New networks, with random weights or given ones; they train unless the reader has paused. */
  const rebuild = (news, weights) => {
    reshape();
    race = new Race({ ...s, d: target.d }, dataOf(s.points, target.d), weights);
    [losses, elapsed] = [[], 0];
    s.n = s.points.length;
    s.selected = Math.min(s.selected, s.n - 1);
    s.drawing = s.drawing && s.target === "own";
    showAll();
    refresh();
    if (!running) start.textContent = "Train";
    if (wanted) go();
    else share.publish();
    say(wanted ? "Training." : news);
  };
  const resample = () => (s.points = sample(targetOf(s), s.n, s.seed));

  // --- what the reader, Python and the address change ------------------------------------------------
  const change = (key) => (value) => {
    const { d } = TARGETS[s.target];
    s[key] = value;
    if (TARGETS[s.target].d !== d) s.n = POINTS[TARGETS[s.target].d - 1].usual;
    if (key === "target") s.drawing = value === "own";
    const kept = value === "free" && d === 1; // the curve goes, its points stay
    if (["target", "n", "seed"].includes(key) && !kept) resample();
    rebuild("New setting.");
    share.address();
  };
  const takeOver = (changed) => {
    if (changed.has("running")) wanted = model.get("running");
    else if (changed.has("weights")) wanted = false; // to be looked at, not to be trained away
    if (running && !wanted) stop("Paused.");
    if (changed.size === 1 && changed.has("running")) return wanted && !running && go();
    const sampled = ["target", "n", "seed", "points"].some((trait) => changed.has(trait));
    Object.assign(s, share.traits());
    if (changed.has("points") && model.get("points").length) s.points = model.get("points");
    else if (sampled) resample();
    return rebuild("Set from Python.", changed.has("weights") ? share.weights() : undefined);
  };
  const readAddress = () => {
    const found = share.addressed();
    if (found) Object.assign(s, found);
    if (found && !found.points) resample();
    return found !== null;
  };
  const addressed = () => {
    if (!readAddress()) return;
    wanted = true;
    rebuild("New setting.");
    const fits = section.offsetHeight <= window.innerHeight; // else "nearest" shows its end
    section.scrollIntoView({ block: fits ? "nearest" : "start" });
  };
  /** Points or the curve have changed: the networks go on from where they are. */
  const touched = () => {
    s.n = s.points.length;
    retrain();
    showAll();
    if (running) plot.paint(); // the next frame compares
    else refresh();
    if (!wanted) say("The points have changed.");
    else if (!running) go();
    share.publish();
    share.address();
  };
  const put = (points, selected) => {
    [s.points, s.selected] = [points, selected];
    touched();
  };
  const full = () => s.points.length >= POINTS[target.d - 1].most;
  const board = {
    s,
    target: () => target,
    scales: () => scales,
    choose,
    move: (i, to) => put(s.points.map((p, j) => (j === i ? moved(target, p, to) : p)), i),
    add: (place, y) => full() || put([...s.points, moved(target, onTarget(target, ...place), { place, y })], s.points.length),
    fill: () => board.add(gapOf(s.points, target.d)),
    remove: () => s.points.length > 1 && put(s.points.filter((_, j) => j !== s.selected), Math.max(0, s.selected - 1)),
    draw: (from, to) => {
      const before = target;
      s.knots = sketched(s.knots, from, to);
      reshape();
      const offsets = s.points.map(([x, y, slope]) => [y - before.at(x)[0], slope - before.at(x)[1]]);
      const at = ([x], i) => target.at(x).map((v, k) => v + offsets[i][k]);
      put(s.points.map((p, i) => moved(target, p, { y: at(p, i)[0], slopes: [at(p, i)[1]] })), s.selected);
    },
  };

  // --- put together ----------------------------------------------------------------------------------
  const share = sharing(model, s, { race: () => race, running: () => running, takeOver });
  Object.assign(s, share.traits());
  const controls = settingControls(s, change);
  const editor = pointEditor(s);
  const button = (text, onclick, more) => h("button", { type: "button", onclick, ...more }, text);
  const start = button("Train", () => {
    if (running) {
      wanted = false;
      return stop("Paused.");
    }
    say("Training.");
    return go();
  });
  const again = button("Again", () => {
    wanted = true;
    rebuild("From the beginning.");
  });
  const seed = button("", () => change("seed")((s.seed + 1) % (LIMITS.seed[1] + 1)));
  const draws = () => {
    s.drawing = !s.drawing;
    showAll();
    plot.paint();
  };
  const pencil = button("✎", draws, { "aria-label": "Draw the curve", class: "sob-small" });
  const add = button("+", board.fill, { "aria-label": "Add a point", class: "sob-small" });
  const remove = button("−", board.remove, { "aria-label": "Remove the point", class: "sob-small" });
  const showAll = () => {
    controls.show();
    editor.show();
    seed.textContent = `Seed ${s.seed} ›`;
    seed.setAttribute("aria-label", `Seed ${s.seed} ›: take the next one`);
    pencil.hidden = s.target !== "own";
    pencil.setAttribute("aria-pressed", s.drawing);
    remove.disabled = s.drawing || s.points.length === 1;
    add.disabled = s.drawing || full();
  };
  attachHand(plot.canvas, editor.node, board);
  const section = h(
    "section",
    { class: "sob sob-play", "aria-label": "Playground: train two networks on points, with and without their slopes" },
    h("div", { class: "sob-buttons" }, start, again, seed),
    plot.canvas,
    h("div", { class: "sob-buttons" }, editor.node, editor.hint, pencil, add, remove),
    table,
    controls.node,
    status,
  );
  el.append(section);
  if (!readAddress()) s.points = model.get("points").length ? model.get("points") : sample(targetOf(s), s.n, s.seed);
  rebuild("Ready.", share.weights());
  const sight = new IntersectionObserver((entries) => {
    seen = entries.at(-1).isIntersecting;
    wake();
  });
  sight.observe(plot.canvas);
  window.addEventListener("hashchange", addressed);
  return () => {
    cancelAnimationFrame(frame);
    sight.disconnect();
    plot.stop();
    share.end();
    window.removeEventListener("hashchange", addressed);
  };
}

export {
  Network, POINTS, Race, TARGETS, arrange, compare, countOf, dataOf, gridOf, initialise, kinksOf, moved, readHash,
  regionsOf, sample, sketched, spanOf, targetOf, writeHash,
};
export default { render };
