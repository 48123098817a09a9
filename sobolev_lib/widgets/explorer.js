// Surfaces and gradient fields of a function and of networks, unpacked from 16-bit records.
/** Record `number` of the packed data (see SurfaceExplorer in surfaces.py). */
function unpack(view, number, side, arrows) {
  const [values, slopes] = [new Float64Array(side * side), new Float64Array(2 * arrows * arrows)];
  const length = 4 * Math.ceil((16 + 2 * (values.length + slopes.length)) / 4);
  let at = number * length;
  const header = [0, 4, 8, 12].map((k) => view.getFloat32(at + k, true));
  at += 16;
  for (let i = 0; i < values.length; i++, at += 2) values[i] = header[0] + header[1] * view.getUint16(at, true);
  for (let i = 0; i < slopes.length; i++, at += 2) slopes[i] = header[2] + header[3] * view.getUint16(at, true);
  return { values, slopes };
}

const LIMIT = 0.12; // heights are cut this far beyond the truth's range

/** A surface seen from above at an angle, with its gradient field on the floor. */
function drawSurface(c, width, height, ink, grid, scene) {
  const angle = (scene.azimuth * Math.PI) / 180;
  const [ca, sa, up, tilt] = [Math.cos(angle), Math.sin(angle), Math.cos(0.5), Math.sin(0.5)];
  const unit = Math.min(width / 3.05, height / 2.95);
  const depth = (x, y) => x * sa + y * ca;
  const at = (x, y, z) => [width / 2 + unit * (x * ca - y * sa), height * 0.61 - unit * (depth(x, y) * tilt + z * up)];
  const floor = -0.45;
  const step = 2 / (scene.side - 1);
  const z = Array.from(grid.values, (v) => Math.min(1 + LIMIT, Math.max(-LIMIT, (v - scene.low) / (scene.high - scene.low))));

  c.strokeStyle = ink;
  c.globalAlpha = 0.5;
  c.lineWidth = 1;
  c.beginPath();
  for (const [x, y] of [[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]]) c.lineTo(...at(x, y, floor));
  c.stroke();
  c.globalAlpha = 1;
  drawArrows(c, scene.arrows, (x, y) => at(x, y, floor), ink, 1);
  labelFloor(c, ink, at, floor, scene, ca, sa);

  const cells = [];
  for (let row = 0; row + 1 < scene.side; row++) {
    for (let column = 0; column + 1 < scene.side; column++) cells.push([row, column, depth(-1 + (column + 0.5) * step, -1 + (row + 0.5) * step)]);
  }
  cells.sort((a, b) => b[2] - a[2]); // far cells first
  for (const [row, column] of cells) {
    const corners = [[0, 0], [0, 1], [1, 1], [1, 0]].map(([r, k]) => [row + r, column + k, z[(row + r) * scene.side + column + k]]);
    const shade = viridis(corners.reduce((sum, corner) => sum + corner[2] / 4, 0));
    c.fillStyle = c.strokeStyle = `rgb(${shade.map(Math.round).join(",")})`;
    c.beginPath();
    for (const [r, k, top] of corners) c.lineTo(...at(-1 + k * step, -1 + r * step, top * 1.25));
    c.closePath();
    c.fill();
    c.lineWidth = 0.7;
    c.stroke();
    c.strokeStyle = "rgba(255,255,255,0.35)"; // every fourth line of the mesh shows the shape
    c.lineWidth = 0.8;
    for (const [line, a, b] of [[row, 0, 1], [column, 0, 3]]) {
      if (line % 4 !== 0) continue;
      c.beginPath();
      for (const [r, k, top] of [corners[a], corners[b]]) c.lineTo(...at(-1 + k * step, -1 + r * step, top * 1.25));
      c.stroke();
    }
  }
}

function labelFloor(c, ink, at, floor, scene, ca, sa) {
  c.fillStyle = ink;
  c.globalAlpha = 0.85;
  c.textAlign = "center";
  c.textBaseline = "middle";
  const front = [sa > 0 ? -1 : 1, ca > 0 ? -1 : 1]; // the corner next to the reader
  const text = (v) => String(v).replace("-", "−");
  const [[x0, x1], [y0, y1]] = scene.domain;
  for (const [t, words] of [[-0.85, text(x0)], [0, "x"], [0.85, text(x1)]]) c.fillText(words, ...at(t, front[1] * 1.2, floor));
  for (const [t, words] of [[-0.85, text(y0)], [0, "y"], [0.85, text(y1)]]) c.fillText(words, ...at(front[0] * 1.2, t, floor));
  c.globalAlpha = 1;
}

/** A map: colours, contours at the truth's levels, arrows on top. */
function drawMap(c, width, height, ink, grid, scene) {
  const size = Math.min(width - 44, height - 36);
  const box = { x: 34 + (width - 44 - size) / 2, y: 6, w: size, h: size };
  paintField(c, box, grid.values, scene.side, [scene.low, scene.high], scene.levels);
  const project = (x, y) => [box.x + ((x + 1) / 2) * box.w, box.y + box.h - ((y + 1) / 2) * box.h];
  drawArrows(c, scene.arrows, project, "rgba(0,0,0,0.7)", 2.6);
  drawArrows(c, scene.arrows, project, "white", 1.1);
  c.strokeStyle = c.fillStyle = ink;
  c.lineWidth = 1;
  c.globalAlpha = 0.85;
  c.strokeRect(box.x, box.y, box.w, box.h);
  const text = (v) => String(v).replace("-", "−");
  const [[x0, x1], [y0, y1]] = scene.domain;
  c.textBaseline = "top";
  for (const [t, words, align] of [[0, text(x0), "left"], [0.5, "x", "center"], [1, text(x1), "right"]]) {
    c.textAlign = align;
    c.fillText(words, box.x + t * box.w, box.y + box.h + 5);
  }
  c.textAlign = "right";
  for (const [t, words, base] of [[0, text(y0), "bottom"], [0.5, "y", "middle"], [1, text(y1), "top"]]) {
    c.textBaseline = base;
    c.fillText(words, box.x - 5, box.y + box.h - t * box.h);
  }
  c.globalAlpha = 1;
}

/** Read access to the records by function, size, method and seed. */
function library(model) {
  const get = (key) => model.get(key);
  const data = get("data");
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const [names, sizes, methods, seeds] = [get("functions").map((f) => f.name), get("sizes"), get("methods"), get("seeds")];
  const record = (f, n, m, s) =>
    get("index")[((names.indexOf(f) * sizes.length + sizes.indexOf(n)) * methods.length + methods.indexOf(m)) * seeds.length + seeds.indexOf(s)] ?? -1;
  const grid = (number) => unpack(view, number, get("side"), get("arrows"));
  const error = (number) => get("errors")[number - names.length];
  return {
    describe: (f) => get("functions")[names.indexOf(f)],
    truth: (f) => grid(names.indexOf(f)),
    find: (f, n, m, s) => {
      const number = record(f, n, m, s);
      return number < 0 ? null : { ...grid(number), error: error(number) };
    },
    median: (f, n, m) => {
      const list = seeds.map((s) => record(f, n, m, s)).filter((r) => r >= 0).map((r) => error(r)[0]);
      return list.length ? quantile(list, 0.5) : null;
    },
  };
}

/** The choice that the address of the page names, where it is one that exists. */
function readAddress(hash, model) {
  const match = /^#explore=([a-z_]+),(\d+),(\d+)$/.exec(hash);
  if (!match) return null;
  const found = { function: match[1], n: Number(match[2]), seed: Number(match[3]) };
  const known = model.get("functions").some((f) => f.name === found.function) && model.get("sizes").includes(found.n);
  return known && model.get("seeds").includes(found.seed) ? found : null;
}

function render({ model, el }) {
  const shelf = library(model);
  const methods = model.get("methods");
  let azimuth = 30;
  let [current, waiting] = [null, 0];

  if (model.get("share")) {
    const found = readAddress(window.location.hash, model);
    if (found) for (const [key, value] of Object.entries(found)) model.set(key, value);
  }
  const load = () => {
    const [f, n, s] = ["function", "n", "seed"].map((key) => model.get(key));
    const facts = shelf.describe(f);
    const truth = shelf.truth(f);
    const sizes = Array.from({ length: truth.slopes.length / 2 }, (_, i) => Math.hypot(truth.slopes[2 * i], truth.slopes[2 * i + 1]));
    const reference = quantile(sizes, 0.95) || 1;
    const grids = { truth };
    for (const m of methods) grids[m] = shelf.find(f, n, m, s);
    const arrows = {};
    for (const [m, grid] of Object.entries(grids)) {
      if (grid) arrows[m] = arrowsOf(grid.slopes, model.get("arrows"), facts.domain, reference);
    }
    const levels = [0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 0.95].map((p) => quantile(truth.values, p));
    current = { f, n, s, facts, grids, arrows, levels };
  };
  const scene = (m) => ({
    low: current.facts.range[0],
    high: current.facts.range[1],
    side: model.get("side"),
    domain: current.facts.domain,
    levels: current.levels,
    arrows: current.arrows[m],
    azimuth,
  });
  const panel = (m) => {
    const draw = (c, width, height, ink) => {
      const grid = current.grids[m];
      if (grid) return (model.get("view") === "map" ? drawMap : drawSurface)(c, width, height, ink, grid, scene(m));
      c.fillStyle = ink;
      c.textAlign = "center";
      c.fillText("No network was recorded for this choice.", width / 2, height / 2);
    };
    const plot = stage("", (w) => Math.min(340, w * 1.02), draw);
    const caption = h("figcaption", {});
    caption.style.color = "inherit";
    const swatch = h("span", { class: "sob-swatch" });
    if (m !== "truth") swatch.style.background = COLOURS[m];
    const text = h("span", {});
    caption.append(...(m === "truth" ? [] : [swatch]), text);
    return { m, plot, text, node: h("figure", {}, caption, plot.canvas) };
  };
  const panels = ["truth", ...methods].map(panel);
  const rows = Object.fromEntries(methods.map((m) => [m, [0, 1, 2].map(() => h("td", {}))]));
  const heads = ["Trained on", "Value", "Gradient", "Median"];
  const table = h(
    "table",
    { class: "sob-table" },
    h("caption", {}, "Mean squared error on the test points; last, the median of the value errors over all seeds"),
    h("thead", {}, h("tr", {}, ...heads.map((t) => h("th", { scope: "col" }, t)))),
    h("tbody", {}, ...methods.map((m) => h("tr", {}, h("th", { scope: "row" }, LABELS[m]), ...rows[m]))),
  );
  const bar = stage("", () => 38, (c, width, height, ink) => {
    for (let x = 0; x < width; x++) {
      c.fillStyle = `rgb(${viridis(x / (width - 1)).map(Math.round).join(",")})`;
      c.fillRect(x, 0, 1.5, 14);
    }
    c.fillStyle = ink;
    c.textBaseline = "top";
    const [low, high] = current.facts.range;
    for (const [t, align] of [[0, "left"], [0.5, "center"], [1, "right"]]) {
      c.textAlign = align;
      c.fillText(digits(low + t * (high - low)).replace("-", "−"), t * width, 20);
    }
  });
  const status = h("p", { class: "sob-status", role: "status", "aria-live": "polite" });

  const paint = () => {
    for (const p of panels) p.plot.paint();
    bar.paint();
  };
  const refresh = () => {
    load();
    const spoken = [];
    for (const p of panels) {
      const grid = current.grids[p.m];
      p.text.textContent = LABELS[p.m];
      const kind = model.get("view") === "map" ? "Map" : "Surface";
      let label = `${kind} of ${p.m === "truth" ? current.facts.title : `the network ${LABELS[p.m]}`} with its gradient field.`;
      if (p.m !== "truth") {
        const [value, slope] = grid ? grid.error : [null, null];
        const median = shelf.median(current.f, current.n, p.m);
        rows[p.m][0].textContent = value === null ? "–" : digits(value);
        rows[p.m][1].textContent = slope === null ? "–" : digits(slope);
        rows[p.m][2].textContent = median === null ? "–" : digits(median);
        if (value !== null) {
          label += ` Test error ${digits(value)}.`;
          spoken.push(`${LABELS[p.m]} ${digits(value)}`);
        }
      }
      p.plot.canvas.setAttribute("aria-label", label);
    }
    const [low, high] = current.facts.range.map(digits);
    bar.canvas.setAttribute("aria-label", `Colours of the heights, from ${low} to ${high} in all panels.`);
    paint();
    clearTimeout(waiting); // speak when the reader has stopped choosing
    waiting = setTimeout(() => {
      status.textContent = `${current.facts.title}, ${current.n} training points, seed ${current.s}. Test error: ${spoken.join(", ") || "none recorded"}.`;
    }, 400);
    if (model.get("share")) history.replaceState(history.state, "", `#explore=${current.f},${current.n},${current.s}`);
  };

  const put = (key) => (value) => {
    model.set(key, value);
    model.save_changes();
  };
  const [sizes, seeds] = [model.get("sizes"), model.get("seeds")];
  const controls = {
    function: choice("Function", model.get("functions").map((f) => [f.name, f.title]), model.get("function"), put("function")),
    n: choice("Training points N", sizes.map((n) => [n, n.toLocaleString("en")]), model.get("n"), (v) => put("n")(Number(v))),
    seed: slider("Seed", 0, seeds.length - 1, 1, seeds.indexOf(model.get("seed")), (i) => String(seeds[i]), (i) => put("seed")(seeds[i])),
    view: choice("View", [["surface", "Surface"], ["map", "Map"]], model.get("view"), put("view")),
  };
  const turn = slider("Turn the surface", 0, 360, 5, azimuth, (v) => `${v}°`, (v) => {
    azimuth = v;
    paint();
  });
  const changed = () => {
    for (const key of ["function", "n", "view"]) controls[key].input.value = model.get(key);
    controls.seed.set(seeds.indexOf(model.get("seed")));
    turn.input.disabled = model.get("view") === "map";
    refresh();
  };
  const keys = ["function", "n", "seed", "view"];
  for (const key of keys) model.on(`change:${key}`, changed);

  el.append(
    h(
      "section",
      { class: "sob sob-surfaces", "aria-label": "A function and the networks trained on it" },
      h("div", { class: "sob-controls" }, ...Object.values(controls).map((control) => control.node)),
      h("div", { class: "sob-panels" }, ...panels.map((p) => p.node), h("div", { class: "sob-beside" }, turn.node, bar.canvas)),
      table,
      status,
    ),
  );
  changed();
  return () => {
    clearTimeout(waiting);
    for (const p of panels) p.plot.stop();
    bar.stop();
    for (const key of keys) model.off(`change:${key}`, changed);
  };
}

export { arrowsOf, contour, library, quantile, readAddress, unpack, viridis };
export default { render };
