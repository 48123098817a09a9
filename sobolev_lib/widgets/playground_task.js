// What is to be learnt: targets on [-1, 1] or its square, points on them, and the settings in the page's address.
const LIMITS = { seed: [0, 999], steps: [1, 20000], rate: [1e-5, 1], weight: [0, 1000], width: [1, 128] };
const POINTS = [{ usual: 6, most: 16 }, { usual: 20, most: 50 }]; // with one input, with two
const PLACES = {
  width: [4, 8, 16, 32, 64],
  rate: [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1],
  weight: [0, 0.01, 0.03, 0.1, 0.3, 1, 3, 10],
};
const ACTIVATIONS = { silu: "SiLU", tanh: "tanh", relu: "ReLU", kernel: "ReLU with kernel" };
const KNOTS = 9; // of the reader's own curve, evenly spaced
const HEIGHT = 2; // how far its knots may go up and down
const MOST = { y: 9, slope: 99 }; // of a point that the reader moves off the target

const sech2 = (t) => 1 / Math.cosh(t) ** 2;
const valley = (x) => (256 * x ** 4 - 256 * x ** 2 + 20 * x) / 80;
const valleySlope = (x) => (1024 * x ** 3 - 512 * x + 20) / 80;

/** Targets: `at(x, y)` gives the value and then the slopes. */
const TARGETS = {
  wave: {
    d: 1,
    label: "Wave",
    at: (x) => [
      Math.sin(Math.PI * x) + 0.3 * Math.cos(2.5 * Math.PI * x),
      Math.PI * Math.cos(Math.PI * x) - 0.75 * Math.PI * Math.sin(2.5 * Math.PI * x),
    ],
  },
  kinked: {
    d: 1,
    label: "Kinked line",
    at: (x) => [
      1.5 * Math.abs(x + 0.35) - 2.5 * Math.max(0, x - 0.3) - 0.5,
      1.5 * (x > -0.35 ? 1 : -1) - 2.5 * (x > 0.3 ? 1 : 0),
    ],
  },
  bumpy: {
    d: 1,
    label: "Bumpy bowl",
    at: (x) => [
      1.5 * x * x - 0.6 + 0.14 * Math.cos(9 * Math.PI * x),
      3 * x - 0.14 * 9 * Math.PI * Math.sin(9 * Math.PI * x),
    ],
  },
  own: { d: 1, label: "Draw your own" },
  free: { d: 1, label: "Free points, no curve", at: () => [0, 0], free: true },
  valleys: {
    d: 2,
    label: "2-D: four valleys", // Styblinski and Tang on [-4, 4]^2, inputs divided by 4, values by 40
    at: (x, y) => [valley(x) + valley(y), valleySlope(x), valleySlope(y)],
  },
  hills: {
    d: 2,
    label: "2-D: hills",
    at: (x, y) => [
      Math.sin(3 * x) * Math.cos(2 * y),
      3 * Math.cos(3 * x) * Math.cos(2 * y),
      -2 * Math.sin(3 * x) * Math.sin(2 * y),
    ],
  },
  step: {
    d: 2,
    label: "2-D: a steep step",
    at: (x, y) => {
      const t = 4 * (x + 0.5 * y - 0.1);
      return [Math.tanh(t), 4 * sech2(t), 2 * sech2(t)];
    },
  },
};

/** Natural cubic spline through evenly spaced knots on [-1, 1], as a target. */
function spline(knots) {
  const n = knots.length - 1;
  const width = 2 / n;
  const [bend, factor] = [new Float64Array(n + 1), new Float64Array(n + 1)];
  for (let i = 1; i < n; i++) { // second derivatives: a tridiagonal system, solved downwards and back
    const right = (6 * (knots[i + 1] - 2 * knots[i] + knots[i - 1])) / width ** 2;
    factor[i] = 1 / (4 - factor[i - 1]);
    bend[i] = (right - bend[i - 1]) * factor[i];
  }
  for (let i = n - 1; i > 0; i--) bend[i] -= factor[i] * bend[i + 1];
  return (x) => {
    const i = Math.max(0, Math.min(n - 1, Math.floor((x + 1) / width)));
    const [q, p] = [(x + 1) / width - i, 1 - ((x + 1) / width - i)];
    const value = p * knots[i] + q * knots[i + 1] + ((p ** 3 - p) * bend[i] + (q ** 3 - q) * bend[i + 1]) * (width ** 2 / 6);
    const slope = (knots[i + 1] - knots[i]) / width + ((1 - 3 * p ** 2) * bend[i] + (3 * q ** 2 - 1) * bend[i + 1]) * (width / 6);
    return [value, slope];
  };
}

/** The target of some settings. */
const targetOf = ({ target, knots }) => (target === "own" ? { ...TARGETS.own, at: spline(knots) } : TARGETS[target]);

/** One point as [x.., value, slopes..], on the target. */
const onTarget = (target, ...x) => [...x, ...target.at(...x)];

/** Training points of a seed: one in each of n equal parts of the interval; anywhere in the square. */
function sample(target, wanted, seed) {
  const n = Math.min(wanted, POINTS[target.d - 1].most);
  const random = uniform(seed * 104729 + 5);
  const place = target.d === 1 ? (i) => [(2 * (i + random())) / n - 1] : () => [2 * random() - 1, 2 * random() - 1];
  return Array.from({ length: n }, (_, i) => onTarget(target, ...place(i).map((v) => Number(v.toFixed(3)))));
}

/** A point somewhere else; what is not said keeps its distance from the target, and all stays in bounds. */
function moved(target, point, { place, y, slopes }) {
  const d = target.d;
  const bound = (v, most) => Number(Math.min(most, Math.max(-most, v)).toFixed(3));
  const before = onTarget(target, ...point.slice(0, d));
  const x = (place || point.slice(0, d)).map((v) => bound(v, 1));
  const after = onTarget(target, ...x);
  const kept = (k) => after[k] + point[k] - before[k];
  const slope = (i) => bound(slopes ? slopes[i] : kept(d + 1 + i), MOST.slope);
  return [...x, bound(y ?? kept(d), MOST.y), ...x.map((_, i) => slope(i))];
}

/** The place that is farthest from all points. */
function gapOf(points, d) {
  const places = d === 1 ? line(201).map((x) => [x]) : square(line(MAP));
  const room = (place) => Math.min(Infinity, ...points.map((p) => Math.hypot(...place.map((v, i) => v - p[i]))));
  return places.reduce((best, place) => (room(place) > room(best) ? place : best));
}

/** Lists of d numbers as a matrix [input][sample]. */
const columns = (list, d) => Float64Array.from(Array.from({ length: d }, (_, i) => list.map((p) => p[i])).flat());

/** Points as the networks take them. */
const dataOf = (points, d) => ({
  x: columns(points, d),
  y: Float64Array.from(points, (p) => p[d]),
  dy: columns(points.map((p) => p.slice(d + 1)), d),
});

/** Knots after the reader has drawn a line from one place to another: those between, and the one next to the end. */
function sketched(knots, [x0, y0], [x1, y1]) {
  const [low, high] = [Math.min(x0, x1), Math.max(x0, x1)];
  const end = Math.round(((x1 + 1) / 2) * (knots.length - 1));
  return knots.map((old, k) => {
    const x = line(knots.length)[k];
    const between = x > low && x < high;
    if (!between && k !== end) return old;
    const y = between ? y0 + ((x - x0) / (x1 - x0)) * (y1 - y0) : y1;
    return Number(Math.max(-HEIGHT, Math.min(HEIGHT, y)).toFixed(3));
  });
}

const MAP = 33; // points along each side of a map
const ARROWS = 9; // and of its field
const line = (count) => Array.from({ length: count }, (_, i) => (2 * i) / (count - 1) - 1);
const cells = (count) => Array.from({ length: count }, (_, i) => (2 * i + 1) / count - 1);
const square = (places) => places.flatMap((y) => places.map((x) => [x, y]));

/** Truth where it is drawn and compared: values on a line or a map, slopes on the line or the map's arrows. */
function gridOf(target) {
  const inputs = target.d === 1 ? line(241).map((x) => [x]) : square(line(MAP));
  const field = target.d === 1 ? inputs : square(cells(ARROWS));
  const values = Float64Array.from(inputs, (p) => target.at(...p)[0]);
  const gradients = field.map((p) => target.at(...p).slice(1));
  return {
    inputs: columns(inputs, target.d),
    count: inputs.length,
    values,
    field: columns(field, target.d),
    fieldCount: field.length,
    slopes: columns(gradients, target.d),
    range: [Math.min(...values), Math.max(...values)], // of colours, as the next two are of contours and arrows
    levels: [0.1, 0.3, 0.5, 0.7, 0.9].map((p) => quantile(values, p)),
    reference: quantile(gradients.map((g) => Math.hypot(...g)), 0.95) || 1,
  };
}

/** What a network says on a grid, its mean squared errors there, and its linear pieces (null: it has none). */
function compare(net, grid) {
  const piecewise = net.kind === "relu" || net.kind === "kernel";
  const fit = { kinks: [], regions: null, pieces: null };
  const { m, slope } = net.d === 1 ? net.evaluate(grid.inputs, grid.count) : net.ahead(grid.inputs, grid.count);
  fit.m = m;
  fit.slope = net.d === 1 ? slope : net.evaluate(grid.field, grid.fieldCount).slope;
  if (piecewise && net.d === 1) fit.kinks = kinksOf(net);
  if (piecewise && net.d === 2) fit.regions = regionsOf(net, net.room(grid.count), grid.count);
  if (piecewise) fit.pieces = net.d === 1 ? fit.kinks.length + 1 : new Set(fit.regions).size;
  fit.error = [meanSquare(fit.m, grid.values), (meanSquare(fit.slope, grid.slopes) * grid.slopes.length) / grid.fieldCount];
  return fit;
}

/** A number as short as the address can bear. */
const short = (v) => String(Number(v.toFixed(3)));
const KEYS = { t: "target", a: "activation", h: "width", r: "rate", w: "weight", n: "n", s: "seed", l: "steps" };

/** Settings as the last part of an address; points only where they are not those of the seed. */
function writeHash(settings, points) {
  const parts = ["#play"];
  for (const [key, name] of Object.entries(KEYS)) parts.push(`${key}=${settings[name]}`);
  if (settings.target === "own") parts.push(`k=${settings.knots.map(short).join(",")}`);
  const flat = (list) => list.map((p) => p.map(short).join(",")).join(";");
  if (flat(points) !== flat(sample(targetOf(settings), settings.n, settings.seed))) parts.push(`p=${flat(points)}`);
  return parts.join("&");
}

/** The settings that an address names, each forced into its limits; null where it names none. */
function readHash(hash, first) {
  if (!/^#play(&|$)/.test(hash)) return null;
  const found = { ...first };
  const words = Object.fromEntries(hash.split("&").slice(1).map((part) => part.split("=")));
  const numbers = (text) => text.split(",").map(Number);
  const clamp = (v, [low, high]) => Math.min(high, Math.max(low, v));
  if (Object.hasOwn(TARGETS, words.t)) found.target = words.t;
  if (Object.hasOwn(ACTIVATIONS, words.a)) found.activation = words.a;
  const { d } = TARGETS[found.target];
  const limits = { ...LIMITS, n: [1, POINTS[d - 1].most] };
  for (const [key, name] of Object.entries(KEYS)) {
    const value = parseFloat(words[key]);
    if (name in limits && Number.isFinite(value)) found[name] = name === "rate" || name === "weight" ? value : Math.round(value);
    if (name in limits) found[name] = clamp(found[name], limits[name]);
  }
  const knots = numbers(words.k || "");
  if (knots.length === KNOTS && knots.every(Number.isFinite)) found.knots = knots.map((v) => clamp(v, [-HEIGHT, HEIGHT]));
  const points = (words.p || "").split(";").slice(0, POINTS[d - 1].most).map(numbers);
  if (points.every((p) => p.length === 2 * d + 1 && p.every(Number.isFinite))) {
    const bounds = (i) => (i < d ? 1 : i === d ? MOST.y : MOST.slope);
    found.points = points.map((p) => p.map((v, i) => clamp(v, [-bounds(i), bounds(i)])));
    found.n = points.length;
  }
  return found;
}
