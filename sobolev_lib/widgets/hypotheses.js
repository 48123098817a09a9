// Fig. 2, left: which members of a family agree with a few values and slopes? Points can be dragged.
const FAMILY_NAMES = { pieces: "Straight pieces", joined: "Straight pieces, joined", polynomial: "Polynomials" };
const DOMAIN = [0, 3];
const RANGE = [-0.6, 2.6];
const KNOT_VALUES = [0.3, 1.7, 0.6, 1.4]; // the true broken line at 0, 1, 2, 3
const CHEBYSHEV = [1, 0.3, -0.5, 0.35, -0.3, 0.25, 0.2]; // the true polynomials
const PLACES = [[1.5], [0.5, 2.5], [0.5, 1.5, 2.5], [0.4, 1.2, 1.8, 2.6], [0.3, 0.7, 1.5, 2.3, 2.7], [0.25, 0.75, 1.25, 1.75, 2.25, 2.75]];
const DRAWN = 24; // hypotheses that are drawn
const LIMITS = { x: DOMAIN, y: RANGE, slope: [-6, 6] };
const STEP = { x: 0.02, y: 0.02, slope: 0.1 };

const pieceOf = (x) => Math.min(2, Math.max(0, Math.floor(x)));

/** Basis functions of a family at x: [values, slopes], each of length p. */
function basis(family, degree, x) {
  if (family === "polynomial") {
    const [u, du] = [(x - 1.5) / 1.5, 1 / 1.5];
    const [t, s] = [[1, u], [0, du]];
    for (let k = 2; k <= degree; k++) {
      t.push(2 * u * t[k - 1] - t[k - 2]);
      s.push(2 * du * t[k - 1] + 2 * u * s[k - 1] - s[k - 2]);
    }
    return [t.slice(0, degree + 1), s.slice(0, degree + 1)];
  }
  const piece = pieceOf(x);
  const right = x - piece; // parameters are values at the ends of the pieces
  const at = family === "pieces" ? 2 * piece : piece;
  const [value, slope] = [new Array(family === "pieces" ? 6 : 4).fill(0), new Array(family === "pieces" ? 6 : 4).fill(0)];
  [value[at], value[at + 1]] = [1 - right, right];
  [slope[at], slope[at + 1]] = [-1, 1];
  return [value, slope];
}

const dot = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);

/** Parameters of the true function. */
function truthOf(family, degree) {
  if (family === "polynomial") return CHEBYSHEV.slice(0, degree + 1);
  return family === "joined" ? KNOT_VALUES : [0, 1, 1, 2, 2, 3].map((k) => KNOT_VALUES[k]);
}

/**
 * Gram and Schmidt on the equations row.c = b: orthonormal rows with the same solutions.
 * `agrees` is false if one equation contradicts those before it.
 */
function reduce(equations) {
  const rows = [];
  let agrees = true;
  for (const [row, b] of equations) {
    const size = Math.sqrt(dot(row, row)) || 1;
    let [rest, target] = [row.map((v) => v / size), b / size];
    for (let twice = 0; twice < 2; twice++) {
      for (const [q, beta] of rows) {
        const share = dot(rest, q);
        rest = rest.map((v, i) => v - share * q[i]);
        target -= share * beta;
      }
    }
    const left = Math.sqrt(dot(rest, rest));
    if (left > 1e-7) rows.push([rest.map((v) => v / left), target / left]);
    else if (Math.abs(target) > 1e-6) agrees = false;
  }
  return { rows, agrees };
}

/** The nearest parameters to `start` that satisfy all equations. */
function project(rows, start) {
  const c = [...start];
  for (const [q, beta] of rows) {
    const miss = beta - dot(q, c);
    for (let i = 0; i < c.length; i++) c[i] += miss * q[i];
  }
  return c;
}

/** Everything that follows from the points: counts, and some hypotheses that agree with them. */
function solveAll(family, degree, points, slopes) {
  const equations = [];
  for (const p of points) {
    const [value, slope] = basis(family, degree, p.x);
    equations.push([value, p.y]);
    if (slopes) equations.push([slope, p.slope]);
  }
  const { rows, agrees } = reduce(equations);
  const unknowns = basis(family, degree, 0)[0].length;
  const free = unknowns - rows.length;
  const gauss = normal(uniform(12345)); // the same for every set of points: lines move, never jump
  const hypotheses = [];
  for (let k = 0; agrees && k < (free > 0 ? DRAWN : 1); k++) {
    const start = Array.from({ length: unknowns }, (_, i) => {
      const centre = family === "polynomial" && i > 0 ? 0 : 1;
      return centre + 0.8 * gauss();
    });
    hypotheses.push(project(rows, start));
  }
  return { unknowns, given: equations.length, independent: rows.length, free, agrees, hypotheses };
}

/** Abscissae for drawing, piece by piece. */
function stretches(family) {
  if (family === "polynomial") return [Array.from({ length: 151 }, (_, i) => (3 * i) / 150)];
  return [0, 1, 2].map((k) => [k, k + 1 - 1e-9]);
}

/** Largest distance between two of the hypotheses that are drawn. */
function spread(family, degree, hypotheses) {
  let most = 0;
  for (const x of stretches(family).flat()) {
    const values = hypotheses.map((c) => dot(c, basis(family, degree, x)[0]));
    most = Math.max(most, Math.max(...values) - Math.min(...values));
  }
  return most < 1e-9 ? 0 : most;
}

const clamp = (key, v) => Math.min(LIMITS[key][1], Math.max(LIMITS[key][0], v));
const rounded = (key, v) => Number((Math.round(clamp(key, v) / STEP[key]) * STEP[key]).toFixed(6));
const shown = (v) => v.toFixed(2).replace("-", "−");
const count = (k, one, many) => `${k} ${k === 1 ? one : many}`;

function verdict(result) {
  if (!result.agrees) return "none";
  return result.free > 0 ? "infinitely many" : "exactly one";
}

/** Where the handle of a slope is, in pixels, seen from its point: to the right unless there is no room. */
function slopeArm(scale, box, p) {
  const [dx, dy] = [scale.X(1) - scale.X(0), (scale.Y(1) - scale.Y(0)) * p.slope];
  const unit = Math.min(56, box.w / 6) / Math.hypot(dx, dy); // shorter than the way to the next point
  const side = scale.X(p.x) + dx * unit > box.x + box.w + 6 ? -1 : 1;
  return [side * dx * unit, side * dy * unit];
}

function drawHypotheses(c, box, scale, ink, s, result) {
  const colour = s.slopes ? COLOURS.sobolev : COLOURS.values;
  const line = (parameters, tone, width, dash) => {
    for (const xs of stretches(s.family)) {
      const ys = xs.map((x) => dot(parameters, basis(s.family, s.degree, x)[0]));
      polyline(c, box, scale, xs, ys, tone, width, dash);
    }
  };
  if (s.family !== "polynomial") {
    c.save();
    c.strokeStyle = ink;
    c.globalAlpha = 0.4;
    c.setLineDash([2, 4]);
    for (const k of [1, 2]) {
      c.beginPath();
      c.moveTo(scale.X(k), box.y);
      c.lineTo(scale.X(k), box.y + box.h);
      c.stroke();
    }
    c.restore();
  }
  c.save();
  c.globalAlpha = result.free > 0 ? 0.7 : 1;
  for (const parameters of result.hypotheses) line(parameters, colour, result.free > 0 ? 1.2 : 3);
  c.restore();
  if (s.measured) line(truthOf(s.family, s.degree), ink, 1.6, [2, 4]);
  c.strokeStyle = c.fillStyle = ink;
  for (const p of s.points) {
    const [x, y] = [scale.X(p.x), scale.Y(p.y)];
    if (s.slopes) {
      const [ax, ay] = slopeArm(scale, box, p);
      const arm = s.measured ? 0.45 : 1;
      c.lineWidth = 2.2;
      c.beginPath();
      c.moveTo(x - ax * 0.45, y - ay * 0.45);
      c.lineTo(x + ax * arm, y + ay * arm);
      c.stroke();
      if (!s.measured) {
        c.beginPath();
        c.rect(x + ax - 5, y + ay - 5, 10, 10);
        c.fill();
      }
    }
    c.beginPath();
    c.arc(x, y, 6, 0, 2 * Math.PI);
    c.fill();
  }
}

function render({ model, el }) {
  const s = { points: PLACES[model.get("n") - 1].map((x) => ({ x, y: 1, slope: 0 })) };
  let [result, panel, waiting] = [null, null, 0];
  const names = [
    ["unknowns", "Unknown numbers of the family"],
    ["given", "Numbers given"],
    ["independent", "Independent ones among them"],
    ["free", "Free numbers left"],
    ["verdict", "Hypotheses that agree"],
    ["spread", "Largest distance between those drawn"],
  ];
  const cells = Object.fromEntries(names.map(([key]) => [key, h("td", {})]));
  const table = h(
    "table",
    { class: "sob-table" },
    h("tbody", {}, ...names.map(([key, text]) => h("tr", {}, h("th", { scope: "row" }, text), cells[key]))),
  );
  const handles = h("div", { class: "sob-handles" });
  const plot = stage("", (w) => Math.max(300, Math.min(400, w * 0.6)), (c, width, height, ink) => {
    const box = { x: 34, y: 20, w: width - 34 - 12, h: height - 20 - 36 };
    panel = { box, scale: axes(c, ink, box, DOMAIN, RANGE, "Value", "x") };
    drawHypotheses(c, box, panel.scale, ink, s, result);
    place();
  });
  const status = h("p", { class: "sob-status", role: "status", "aria-live": "polite" });

  /** Move each handle over its mark. */
  const place = () => {
    for (const handle of handles.children) {
      const p = s.points[handle.dataset.point];
      const [ax, ay] = handle.dataset.kind === "slope" ? slopeArm(panel.scale, panel.box, p) : [0, 0];
      handle.style.left = panel.scale.X(p.x) + ax + "px";
      handle.style.top = panel.scale.Y(p.y) + ay + "px";
    }
  };
  const describe = (handle) => {
    const p = s.points[handle.dataset.point];
    const slope = handle.dataset.kind === "slope";
    const [now, limits] = slope ? [p.slope, LIMITS.slope] : [p.x, LIMITS.x];
    const text = slope ? shown(p.slope) : `x ${shown(p.x)}, value ${shown(p.y)}` + (s.slopes ? `, slope ${shown(p.slope)}` : "");
    for (const [key, value] of [["valuemin", limits[0]], ["valuemax", limits[1]], ["valuenow", now], ["valuetext", text]])
      handle.setAttribute(`aria-${key}`, value);
  };
  const makeHandles = () => {
    const one = (i, kind, label) => {
      const handle = h("button", { type: "button", role: "slider", class: "sob-handle", "aria-label": label });
      Object.assign(handle.dataset, { point: i, kind });
      handle.addEventListener("pointerdown", (event) => {
        handle.setPointerCapture(event.pointerId);
        handle.focus();
        event.preventDefault();
      });
      handle.addEventListener("pointermove", (event) => {
        if (!handle.hasPointerCapture(event.pointerId)) return;
        const at = plot.canvas.getBoundingClientRect();
        dragTo(i, kind, event.clientX - at.left, event.clientY - at.top);
      });
      handle.addEventListener("keydown", (event) => {
        const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
        if (!way) return;
        event.preventDefault();
        const times = event.shiftKey ? 5 : 1;
        if (kind === "slope") move(i, { slope: s.points[i].slope + STEP.slope * times * (way[0] + way[1]) });
        else move(i, { x: s.points[i].x + STEP.x * times * way[0], y: s.points[i].y + STEP.y * times * way[1] });
      });
      return handle;
    };
    const loose = s.slopes && !s.measured;
    handles.replaceChildren(
      ...s.points.flatMap((_, i) => [one(i, "point", `Point ${i + 1}`), ...(loose ? [one(i, "slope", `Slope of point ${i + 1}`)] : [])]),
    );
  };
  const dragTo = (i, kind, px, py) => {
    const { box, scale } = panel;
    const [x0, y0] = [scale.X(0), scale.Y(0)];
    const [x, y] = [(px - x0) / (scale.X(1) - x0), (py - y0) / (scale.Y(1) - y0)];
    const p = s.points[i];
    if (kind === "point") move(i, { x, y });
    else if (Math.abs(px - scale.X(p.x)) > 4) move(i, { slope: (y - p.y) / (x - p.x) });
  };
  /** A point's new place; two points never share one, and on the true function only x is free. */
  const move = (i, to) => {
    const p = s.points[i];
    if (to.slope !== undefined && !s.measured) p.slope = rounded("slope", to.slope);
    if (to.x !== undefined) {
      const taken = (x) => s.points.some((other, j) => j !== i && Math.abs(other.x - x) < STEP.x / 2);
      const way = to.x < p.x ? -1 : 1;
      let x = rounded("x", to.x);
      if (taken(x)) x = rounded("x", x + way * STEP.x); // hop over the other point
      if (!taken(x)) p.x = x;
    }
    if (to.y !== undefined && !s.measured) p.y = rounded("y", to.y);
    refresh(`Point ${i + 1} at ${shown(p.x)}.`);
  };
  const measure = () => {
    const truth = truthOf(s.family, s.degree);
    for (const p of s.points) [p.y, p.slope] = basis(s.family, s.degree, p.x).map((b) => dot(b, truth));
  };

  const refresh = (news) => {
    if (s.measured) measure();
    result = solveAll(s.family, s.degree, s.points, s.slopes);
    for (const key of ["unknowns", "given", "independent", "free"]) cells[key].textContent = String(result[key]);
    cells.free.textContent = result.agrees ? String(result.free) : "–";
    cells.verdict.textContent = verdict(result);
    cells.spread.textContent = result.agrees ? digits(spread(s.family, s.degree, result.hypotheses)) : "–";
    plot.paint();
    for (const handle of handles.children) describe(handle);
    const known = count(s.points.length, "value", "values") + (s.slopes ? ` and ${count(s.points.length, "slope", "slopes")}` : "");
    const text =
      `${known}: ${result.independent} of ${result.unknowns} unknown numbers determined; ` +
      `hypotheses that agree: ${verdict(result)}.`;
    plot.canvas.setAttribute("aria-label", `${FAMILY_NAMES[s.family]} through points. ${text}`);
    clearTimeout(waiting); // speak when the reader has stopped dragging
    waiting = setTimeout(() => (status.textContent = `${news} ${text}`), 400);
  };
  const read = () => {
    const fresh = s.points.length !== model.get("n");
    for (const key of ["family", "degree", "slopes", "measured"]) s[key] = model.get(key);
    if (fresh) s.points = PLACES[model.get("n") - 1].map((x) => ({ x, y: 1, slope: 0 }));
    if (fresh) measure();
    makeHandles();
  };

  const put = (key) => (value) => {
    model.set(key, value);
    model.save_changes();
  };
  const tick = (label, key) => {
    const input = h("input", { type: "checkbox", onchange: () => put(key)(input.checked) });
    return { node: h("label", { class: "sob-check" }, input, h("span", {}, label)), set: (on) => (input.checked = on) };
  };
  const controls = {
    family: choice("Family", Object.entries(FAMILY_NAMES), model.get("family"), put("family")),
    degree: slider("Degree", 0, 6, 1, model.get("degree"), String, put("degree")),
    n: slider("Points", 1, 6, 1, model.get("n"), String, put("n")),
    slopes: tick("Slopes are known, too", "slopes"),
    measured: tick("Points stay on the true function", "measured"),
  };
  const changed = () => {
    controls.family.input.value = model.get("family");
    for (const key of ["degree", "n", "slopes", "measured"]) controls[key].set(model.get(key));
    controls.degree.node.hidden = model.get("family") !== "polynomial";
    read();
    refresh("New setting.");
  };
  const reset = () => {
    s.points = [];
    changed();
  };
  const keys = ["family", "degree", "n", "slopes", "measured"];
  for (const key of keys) model.on(`change:${key}`, changed);
  el.append(
    h(
      "section",
      { class: "sob sob-hypotheses", "aria-label": "Hypotheses that agree with points" },
      h("div", { class: "sob-controls" }, ...Object.values(controls).map((control) => control.node)),
      h("div", { class: "sob-over" }, plot.canvas, handles),
      h("div", { class: "sob-buttons" }, h("button", { type: "button", onclick: reset }, "Reset the points")),
      table,
      status,
    ),
  );
  s.points = [];
  changed();
  return () => {
    clearTimeout(waiting);
    plot.stop();
    for (const key of keys) model.off(`change:${key}`, changed);
  };
}

export { basis, project, reduce, solveAll, spread, truthOf, verdict };
export default { render };
