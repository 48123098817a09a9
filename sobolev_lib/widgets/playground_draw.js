// The playground's picture, one canvas: where its panels lie, and what is drawn into each.
const GAP = 10;
const TITLE = 20; // above each panel
const TICKS = 18; // below it, where it has an axis
const MARGIN = 36; // left of it

/** Boxes of the panels on a canvas of a width, by name, and its height. */
function arrange(width, d) {
  const wide = width >= 560;
  const box = (x, y, w, t) => ({ x, y: y + TITLE, w, h: t });
  if (d === 1) {
    const left = (wide ? width * 0.64 : width) - MARGIN - GAP;
    const [high, low] = wide ? [190, 110] : [150, 78];
    const value = box(MARGIN, 0, left, high);
    const slope = box(MARGIN, value.y + high + 2, left, low);
    const end = slope.y + low + TICKS;
    const start = width * 0.64 + MARGIN;
    const loss = wide ? box(start, 0, width - start - GAP, slope.y + low - TITLE) : box(MARGIN, end, left, 58);
    return { boxes: { value, slope, loss }, height: wide ? end : loss.y + loss.h + TICKS };
  }
  const columns = wide ? 3 : 2;
  const side = (width - GAP * (columns - 1)) / columns - 1;
  const at = (i, row) => box(0.5 + i * (side + GAP), row * (side + TITLE + 2), side, side);
  if (wide) {
    const under = side + TITLE + 4;
    const loss = box(MARGIN, under, width - MARGIN - GAP, 84);
    return { boxes: { truth: at(0, 0), values: at(1, 0), sobolev: at(2, 0), loss }, height: loss.y + loss.h + TICKS };
  }
  const last = at(1, 1);
  const loss = { x: last.x + MARGIN - 8, y: last.y, w: last.w - MARGIN + 8, h: last.h - TICKS };
  return { boxes: { values: at(0, 0), sobolev: at(1, 0), truth: at(0, 1), loss }, height: last.y + last.h + 2 };
}

const LINES = { truth: [2, 3], values: [7, 4], sobolev: [] };

/** All panels; returns for each the maps from data to pixels, for the reader's hand. */
function drawAll(c, width, height, ink, scene) {
  const { boxes } = arrange(width, scene.target.d);
  const scales = {};
  for (const [name, box] of Object.entries(boxes)) {
    const draw = name === "loss" ? drawLosses : scene.target.d === 1 ? drawCurves : drawField;
    scales[name] = { box, ...draw(c, ink, box, scene, name) };
  }
  return scales;
}

/** What the vertical axis of a panel spans: the truth and the points, with room above and below. */
function spanOf(name, target, grid, points) {
  const [truth, column, bare] = name === "value" ? [grid.values, 1, [-HEIGHT, HEIGHT]] : [grid.slopes, 2, [-6, 6]];
  const all = [...(target.free ? bare : truth), ...points.map((p) => p[column])];
  const [low, high] = [Math.min(...all), Math.max(...all)];
  const room = Math.max(0.2 * (high - low), 0.2);
  return [low - room, high + room];
}

function drawCurves(c, ink, box, scene, name) {
  const { target, grid, fits, points } = scene;
  const [truth, key] = name === "value" ? [grid.values, "m"] : [grid.slopes, "slope"];
  const span = scene.held ? scene.scales[name].span : spanOf(name, target, grid, points); // under a finger, axes rest
  const scale = axes(c, ink, box, [-1, 1], span, name === "value" ? "Function" : "Derivative", name === "value" ? null : "");
  if (!target.free) polyline(c, box, scale, grid.inputs, truth, ink, 1.6, LINES.truth);
  for (const method of ["values", "sobolev"]) {
    polyline(c, box, scale, grid.inputs, fits[method][key], COLOURS[method], method === "values" ? 2 : 2.4, LINES[method]);
  }
  if (name === "value") drawKinks(c, box, scale, scene);
  if (name === "value" && scene.drawing) drawKnots(c, ink, scale, scene);
  c.save();
  c.strokeStyle = c.fillStyle = ink;
  const [right, up] = [scale.X(1) - scale.X(0), scale.Y(1) - scale.Y(0)];
  for (const [i, p] of points.entries()) {
    const direction = name === "value" ? [right, p[2] * up] : null;
    drawPoint(c, scale.X(p[0]), scale.Y(p[name === "value" ? 1 : 2]), direction, i === scene.selected);
  }
  c.restore();
  return { ...scale, span };
}

/** A dot, its slope as a short line, and a ring where it is the selected one. */
function drawPoint(c, x, y, direction, selected) {
  if (direction) {
    const unit = 14 / Math.hypot(...direction);
    c.lineWidth = 1.8;
    c.beginPath();
    c.moveTo(x - direction[0] * unit, y - direction[1] * unit);
    c.lineTo(x + direction[0] * unit, y + direction[1] * unit);
    c.stroke();
  }
  c.beginPath();
  c.arc(x, y, 4, 0, 2 * Math.PI);
  c.fill();
  if (!selected) return;
  c.lineWidth = 1.4;
  c.beginPath();
  c.arc(x, y, 8, 0, 2 * Math.PI);
  c.stroke();
}

/** Ticks at the foot of the panel where the slope of a network changes, one row for each network. */
function drawKinks(c, box, scale, { fits }) {
  for (const [row, method] of ["values", "sobolev"].entries()) {
    c.strokeStyle = COLOURS[method];
    c.lineWidth = 1.2;
    c.beginPath();
    for (const x of fits[method].kinks) {
      c.moveTo(scale.X(x), box.y + box.h - 1 - 8 * row);
      c.lineTo(scale.X(x), box.y + box.h - 8 - 8 * row);
    }
    c.stroke();
  }
}

function drawKnots(c, ink, scale, { knots, knot }) {
  c.strokeStyle = ink;
  for (const [i, y] of knots.entries()) {
    c.lineWidth = i === knot ? 2.4 : 1.2;
    c.strokeRect(scale.X(line(KNOTS)[i]) - 4, scale.Y(y) - 4, 8, 8);
  }
}

/** A map: colours and contours of the values, arrows of the slopes, edges of the linear regions, points. */
function drawField(c, ink, box, scene, name) {
  const { grid, fits, points } = scene;
  const fit = name === "truth" ? { m: grid.values, slope: grid.slopes } : fits[name];
  paintField(c, box, fit.m, MAP, grid.range, grid.levels);
  if (fit.regions) drawEdges(c, box, fit.regions);
  const pairs = Float64Array.from({ length: 2 * grid.fieldCount }, (_, i) => fit.slope[(i % 2) * grid.fieldCount + (i >> 1)]);
  const scale = { X: (x) => box.x + ((x + 1) / 2) * box.w, Y: (y) => box.y + box.h - ((y + 1) / 2) * box.h };
  const arrows = arrowsOf(pairs, ARROWS, [[-1, 1], [-1, 1]], grid.reference);
  for (const [colour, width] of [["rgba(0,0,0,0.7)", 2.6], ["white", 1.1]]) drawArrows(c, arrows, (x, y) => [scale.X(x), scale.Y(y)], colour, width);
  c.save();
  for (const [i, p] of points.entries()) {
    c.fillStyle = i === scene.selected ? "white" : "black";
    c.strokeStyle = i === scene.selected ? "black" : "white";
    c.lineWidth = 1.5;
    c.beginPath();
    c.arc(scale.X(p[0]), scale.Y(p[1]), i === scene.selected ? 6 : 4, 0, 2 * Math.PI);
    c.fill();
    c.stroke();
  }
  c.fillStyle = ink;
  c.font = "600 12px system-ui, sans-serif";
  c.textBaseline = "bottom";
  c.fillText(LABELS[name], box.x, box.y - 4);
  c.restore();
  return scale;
}

/** Between two neighbours of the grid that lie in different linear regions, a line. */
function drawEdges(c, box, regions) {
  const step = box.w / (MAP - 1);
  const place = (column, row) => [box.x + column * step, box.y + box.h - row * step];
  c.save();
  c.beginPath();
  c.rect(box.x, box.y, box.w, box.h);
  c.clip();
  c.strokeStyle = "rgba(255,255,255,0.55)";
  c.lineWidth = 0.8;
  c.beginPath();
  for (let row = 0, i = 0; row < MAP; row++) {
    for (let column = 0; column < MAP; column++, i++) {
      if (column + 1 < MAP && regions[i] !== regions[i + 1]) {
        c.moveTo(...place(column + 0.5, row - 0.5));
        c.lineTo(...place(column + 0.5, row + 0.5));
      }
      if (row + 1 < MAP && regions[i] !== regions[i + MAP]) {
        c.moveTo(...place(column - 0.5, row + 0.5));
        c.lineTo(...place(column + 0.5, row + 0.5));
      }
    }
  }
  c.stroke();
  c.restore();
}

const [FLOOR, CEILING] = [-6, 12]; // powers of ten beyond which the losses' axis does not go

/** Training losses against the steps, on a logarithmic axis: values as lines, slopes dashed. */
function drawLosses(c, ink, box, scene) {
  const { losses, steps } = scene;
  const log = (v) => (Number.isFinite(v) ? Math.max(FLOOR, Math.min(CEILING, Math.log10(v))) : CEILING);
  const top = Math.max(0, ...losses.flatMap((entry) => entry.terms.map(log)));
  const X = (step) => box.x + (step / steps) * box.w;
  const Y = (power) => box.y + box.h - ((power - FLOOR) / (Math.ceil(top) - FLOOR)) * box.h;
  c.save();
  c.strokeStyle = c.fillStyle = ink;
  c.lineWidth = 1;
  c.textBaseline = "middle";
  c.textAlign = "right";
  for (let power = FLOOR; power <= top; power += box.h < 100 ? 3 : 1) {
    c.globalAlpha = 0.15;
    c.beginPath();
    c.moveTo(box.x, Y(power));
    c.lineTo(box.x + box.w, Y(power));
    c.stroke();
    c.globalAlpha = 0.85;
    c.fillText("10" + raised(power), box.x - 4, Y(power));
  }
  c.globalAlpha = 0.6;
  c.strokeRect(box.x, box.y, box.w, box.h);
  c.globalAlpha = 0.85;
  c.textBaseline = "top";
  c.fillText(steps.toLocaleString("en") + " steps", box.x + box.w, box.y + box.h + 4);
  c.textAlign = "left";
  c.fillText("0", box.x, box.y + box.h + 4);
  c.globalAlpha = 1;
  c.textBaseline = "bottom";
  c.font = "600 12px system-ui, sans-serif";
  c.fillText("Loss", box.x, box.y - 4);
  const after = box.x + c.measureText("Loss").width;
  c.font = "12px system-ui, sans-serif";
  c.fillText(" (dotted: of slopes)", after, box.y - 4);
  c.restore();
  const xs = losses.map((entry) => entry.step);
  const scale = { X, Y };
  for (const [i, [colour, dash]] of [["values", []], ["values", [2, 3]], ["sobolev", []], ["sobolev", [2, 3]]].entries()) {
    polyline(c, box, scale, xs, losses.map((entry) => log(entry.terms[i])), COLOURS[colour], 1.8, dash);
  }
  return scale;
}
