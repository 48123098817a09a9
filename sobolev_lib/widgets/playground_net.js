// Networks d-H-H-1 trained on values and slopes: the closed form of sobolev_lib/closed_form.py in float64.
// Signals are matrices [unit][sample], one row after another, so that inner loops run over samples.
const KERNEL_WIDTH = 0.1; // h of the kernel at the kinks, in units of a pre-activation: the default of kinks.ReLU

/** Number of parameters. */
const countOf = (d, H) => H * d + H + H * H + H + H + 1;

/** Views of the flat list of parameters, in PyTorch's order. */
function partsOf(theta, d, H) {
  const parts = {};
  let at = 0;
  for (const [name, size] of [["W1", H * d], ["b1", H], ["W2", H * H], ["b2", H], ["w3", H], ["b3", 1]]) {
    parts[name] = theta.subarray(at, at + size);
    at += size;
  }
  return parts;
}

/** Random start: the zeros of the first units lie all over the domain, the second layer is that of He et al. */
function initialise(d, H, kind, seed) {
  const random = uniform(seed * 7919 + 17);
  const gauss = normal(random);
  const theta = new Float64Array(countOf(d, H));
  const { W1, b1, W2, w3 } = partsOf(theta, d, H);
  const piecewise = kind === "relu" || kind === "kernel";
  for (let j = 0; j < H; j++) {
    for (let i = 0; i < d; i++) {
      W1[j * d + i] = gauss() * (piecewise ? Math.sqrt(2) : 3) / Math.sqrt(d);
      b1[j] -= W1[j * d + i] * (2 * random() - 1);
    }
  }
  for (let i = 0; i < H * H; i++) W2[i] = gauss() * Math.sqrt((kind === "tanh" ? 1 : 2) / H);
  for (let j = 0; j < H; j++) w3[j] = gauss() * Math.sqrt(1 / H);
  return theta;
}

/** out = W A (+ bias), W having the steps `down` and `along` in memory: (inner, 1), or (1, rows) for a transpose. */
function product(W, down, along, A, out, rows, inner, n, bias) {
  for (let j = 0, o = 0, row = 0; j < rows; j++, o += n, row += down) {
    const first = bias ? bias[j] : 0;
    for (let b = 0; b < n; b++) out[o + b] = first;
    let k = 0;
    for (; k + 3 < inner; k += 4) { // four rows of A at a time: a third of the time of one by one
      const at = row + k * along;
      const [v0, v1, v2, v3] = [W[at], W[at + along], W[at + 2 * along], W[at + 3 * along]];
      const [r0, r1, r2, r3] = [k * n, (k + 1) * n, (k + 2) * n, (k + 3) * n];
      for (let b = 0; b < n; b++) out[o + b] += v0 * A[r0 + b] + v1 * A[r1 + b] + v2 * A[r2 + b] + v3 * A[r3 + b];
    }
    for (; k < inner; k++) for (let b = 0; b < n; b++) out[o + b] += W[row + k * along] * A[k * n + b];
  }
}

/** out += G A^T, a sum over the samples. */
function addOuter(G, A, out, rows, columns, n) {
  for (let j = 0, g = 0, o = 0; j < rows; j++, g += n, o += columns) {
    let k = 0;
    for (; k + 3 < columns; k += 4) {
      const [r0, r1, r2, r3] = [k * n, (k + 1) * n, (k + 2) * n, (k + 3) * n];
      let [s0, s1, s2, s3] = [0, 0, 0, 0];
      for (let b = 0; b < n; b++) {
        const v = G[g + b];
        s0 += v * A[r0 + b];
        s1 += v * A[r1 + b];
        s2 += v * A[r2 + b];
        s3 += v * A[r3 + b];
      }
      out[o + k] += s0;
      out[o + k + 1] += s1;
      out[o + k + 2] += s2;
      out[o + k + 3] += s3;
    }
    for (; k < columns; k++) for (let b = 0; b < n; b++) out[o + k] += G[g + b] * A[k * n + b];
  }
}

/** Sums of the rows of G, each sample with its factor. */
function addRows(G, factor, out, rows, n) {
  for (let j = 0, g = 0; j < rows; j++) for (let b = 0; b < n; b++, g++) out[j] += factor ? G[g] * factor[b] : G[g];
}

/** The activation (into a), its derivative (s), and the derivative of that (c): for a kink, the kernel. */
function activate(kind, z, a, s, c) {
  const length = z.length;
  if (kind === "tanh") {
    for (let i = 0; i < length; i++) {
      a[i] = Math.tanh(z[i]);
      s[i] = 1 - a[i] * a[i];
      c[i] = -2 * a[i] * s[i];
    }
  } else if (kind === "silu") {
    for (let i = 0; i < length; i++) {
      const sigma = 1 / (1 + Math.exp(-z[i]));
      const bell = sigma * (1 - sigma);
      a[i] = z[i] * sigma;
      s[i] = sigma + z[i] * bell;
      c[i] = bell * (2 + z[i] * (1 - 2 * sigma));
    }
  } else {
    for (let i = 0; i < length; i++) {
      a[i] = z[i] > 0 ? z[i] : 0;
      s[i] = z[i] > 0 ? 1 : 0;
    }
    if (kind === "kernel") {
      for (let i = 0; i < length; i++) {
        const sigma = 1 / (1 + Math.exp(-z[i] / KERNEL_WIDTH));
        c[i] = (sigma * (1 - sigma)) / KERNEL_WIDTH;
      }
    }
  }
}

class Network {
  constructor(d, H, kind, theta) {
    Object.assign(this, { d, H, kind, theta, parts: partsOf(theta, d, H), rooms: new Map() });
  }

  /** Memory for n samples. */
  room(n) {
    if (!this.rooms.has(n)) {
      const make = (rows) => new Float64Array(rows * n);
      const room = { m: make(1), e: make(1), r: make(this.d), u: make(this.d), slope: make(this.d) };
      for (const name of ["z1", "a1", "s1", "c1", "g1", "p1", "t1", "z2", "a2", "s2", "c2", "g2", "t2"]) room[name] = make(this.H);
      this.rooms.set(n, room);
    }
    return this.rooms.get(n);
  }

  /** Outputs m at x [input][sample], and all that the other passes need. */
  ahead(x, n) {
    const { d, H, kind, parts, theta } = this;
    const w = this.room(n);
    product(parts.W1, d, 1, x, w.z1, H, d, n, parts.b1);
    activate(kind, w.z1, w.a1, w.s1, w.c1);
    product(parts.W2, H, 1, w.a1, w.z2, H, H, n, parts.b2);
    activate(kind, w.z2, w.a2, w.s2, w.c2);
    product(parts.w3, H, 1, w.a2, w.m, 1, H, n, theta.subarray(theta.length - 1));
    return w;
  }

  /** Slopes dm/dx [input][sample]; g_l = dm/dz_l, and p1 = W2^T g2, stay in the room. */
  slopes(w, n) {
    const { d, H, parts } = this;
    for (let j = 0, i = 0; j < H; j++) for (let b = 0; b < n; b++, i++) w.g2[i] = parts.w3[j] * w.s2[i];
    product(parts.W2, 1, H, w.g2, w.p1, H, H, n);
    for (let i = 0; i < H * n; i++) w.g1[i] = w.s1[i] * w.p1[i];
    product(parts.W1, 1, d, w.g1, w.slope, d, H, n);
  }

  /** Values and slopes at many points. */
  evaluate(x, n) {
    const w = this.ahead(x, n);
    this.slopes(w, n);
    return { m: w.m, slope: w.slope };
  }

  /** Mean squares of the errors of values and of slopes at the points. */
  terms({ x, y, dy }) {
    const n = y.length;
    const { m, slope } = this.evaluate(x, n);
    return { values: meanSquare(m, y), slopes: (meanSquare(slope, dy) * dy.length) / n };
  }

  /**
   * Writes into `grad` the gradient of mean (m - y)^2 + weight |dm/dx - dy|^2.  Values only cost three large
   * products; ReLU with slopes three as well, its last hidden layer needing none of its own; the others six.
   */
  gradient({ x, y, dy }, weight, grad) {
    const { d, H } = this;
    const n = y.length;
    const w = this.ahead(x, n);
    const out = partsOf(grad, d, H);
    grad.fill(0);
    for (let b = 0; b < n; b++) {
      w.e[b] = (2 * (w.m[b] - y[b])) / n;
      out.b3[0] += w.e[b];
    }
    if (weight > 0) {
      this.slopes(w, n);
      for (let i = 0; i < d * n; i++) w.r[i] = (2 * weight * (w.slope[i] - dy[i])) / n;
    }
    if (weight > 0 && this.kind === "relu") this.piecewise(x, n, w, out);
    else this.smooth(x, n, w, out, weight > 0);
  }

  /** Piecewise linear: g_l^T u_{l-1} and g_l^T e with the combined signal u = e a + t. */
  piecewise(x, n, w, out) {
    const { d, H, parts } = this;
    const u1 = w.t1;
    for (let i = 0; i < d * n; i++) w.u[i] = w.e[i % n] * x[i] + w.r[i];
    addOuter(w.g1, w.u, out.W1, H, d, n);
    addRows(w.g1, w.e, out.b1, H, n);
    product(parts.W1, d, 1, w.u, u1, H, d, n);
    for (let j = 0, i = 0; j < H; j++) for (let b = 0; b < n; b++, i++) u1[i] = w.s1[i] * (u1[i] + w.e[b] * parts.b1[j]);
    addOuter(w.s2, u1, out.W2, H, H, n); // g2 without its factor w3, the same for all samples
    addRows(w.s2, w.e, out.b2, H, n);
    for (let j = 0; j < H; j++) {
      out.w3[j] = parts.b2[j] * out.b2[j];
      out.b2[j] *= parts.w3[j];
      for (let k = j * H; k < (j + 1) * H; k++) {
        out.w3[j] += parts.W2[k] * out.W2[k];
        out.W2[k] *= parts.w3[j];
      }
    }
  }

  /** The slopes of the units move, too: g_l^T t_{l-1} + delta_l^T a_{l-1}.  Without slopes in the loss, t is zero. */
  smooth(x, n, w, out, sobolev) {
    const { d, H, parts } = this;
    const [delta1, delta2] = [w.p1, w.z2]; // each written where its old content was read last
    if (sobolev) {
      product(parts.W1, d, 1, w.r, w.t1, H, d, n);
      for (let i = 0; i < H * n; i++) {
        w.c1[i] *= w.p1[i] * w.t1[i];
        w.t1[i] *= w.s1[i];
      }
      product(parts.W2, H, 1, w.t1, w.t2, H, H, n);
      for (let j = 0, i = 0; j < H; j++) {
        for (let b = 0; b < n; b++, i++) {
          w.c2[i] *= parts.w3[j] * w.t2[i];
          out.w3[j] += w.s2[i] * w.t2[i];
        }
      }
      addOuter(w.g2, w.t1, out.W2, H, H, n);
      addOuter(w.g1, w.r, out.W1, H, d, n);
    }
    addRows(w.a2, w.e, out.w3, H, n);
    for (let j = 0, i = 0; j < H; j++) for (let b = 0; b < n; b++, i++) delta2[i] = parts.w3[j] * w.s2[i] * w.e[b] + (sobolev ? w.c2[i] : 0);
    addOuter(delta2, w.a1, out.W2, H, H, n);
    addRows(delta2, null, out.b2, H, n);
    product(parts.W2, 1, H, delta2, delta1, H, H, n);
    for (let i = 0; i < H * n; i++) delta1[i] = w.s1[i] * delta1[i] + (sobolev ? w.c1[i] : 0);
    addOuter(delta1, x, out.W1, H, d, n);
    addRows(delta1, null, out.b1, H, n);
  }
}

/** Adam with the constants of Kingma and Ba (2015). */
class Adam {
  constructor(size) {
    Object.assign(this, { grad: new Float64Array(size), mean: new Float64Array(size), square: new Float64Array(size), step: 0 });
  }

  update(theta, rate) {
    this.step += 1;
    const [c1, c2] = [1 - 0.9 ** this.step, 1 - 0.999 ** this.step];
    for (let i = 0; i < theta.length; i++) {
      const g = this.grad[i];
      this.mean[i] += 0.1 * (g - this.mean[i]);
      this.square[i] += 0.001 * (g * g - this.square[i]);
      theta[i] -= (rate * (this.mean[i] / c1)) / (Math.sqrt(this.square[i] / c2) + 1e-8);
    }
  }
}

/** Two networks on the same points, one on values only; the rate falls to zero along a cosine. */
class Race {
  /** `start`: the weights of both, one after the other; by default random ones, the same for both. */
  constructor(settings, data, start) {
    const { d, width, activation, seed } = settings;
    const size = countOf(d, width);
    this.data = data;
    this.nets = {};
    for (const [i, name] of ["values", "sobolev"].entries()) {
      const theta = start ? start.slice(i * size, (i + 1) * size) : initialise(d, width, activation, seed);
      this.nets[name] = new Network(d, width, activation, theta);
    }
    this.restart(data);
  }

  /** The schedule begins again, with the weights as they are: the points or the loss have changed. */
  restart(data) {
    this.data = data;
    this.step = 0;
    for (const net of Object.values(this.nets)) net.adam = new Adam(net.theta.length);
  }

  advance({ steps, rate, weight }) {
    const now = 0.5 * rate * (1 + Math.cos((Math.PI * this.step) / steps));
    for (const [name, net] of Object.entries(this.nets)) {
      net.gradient(this.data, name === "values" ? 0 : weight, net.adam.grad);
      net.adam.update(net.theta, now);
    }
    this.step += 1;
  }

  /** The weights of both networks, one after the other. */
  weights() {
    const { values, sobolev } = this.nets;
    return Float64Array.from([...values.theta, ...sobolev.theta]);
  }
}

const meanSquare = (a, b) => a.reduce((sum, v, i) => sum + (v - b[i]) ** 2, 0) / a.length;

/** Where the slope of a ReLU network with one input changes between -1 and 1, in order. */
function kinksOf({ H, parts }) {
  const inside = (x) => x > -1 && x < 1;
  const first = Array.from({ length: H }, (_, j) => -parts.b1[j] / parts.W1[j]).filter(inside);
  const ends = [-1, ...first.sort((a, b) => a - b), 1];
  const n = ends.length;
  const [a, z] = [new Float64Array(H * n), new Float64Array(H * n)];
  for (let j = 0, i = 0; j < H; j++) for (let b = 0; b < n; b++, i++) a[i] = Math.max(0, parts.W1[j] * ends[b] + parts.b1[j]);
  product(parts.W2, H, 1, a, z, H, H, n, parts.b2);
  const second = []; // between two kinks of the first layer, the units of the second see a straight line
  for (let j = 0; j < H; j++) {
    for (let b = j * n; b + 1 < (j + 1) * n; b++) {
      if (z[b] > 0 === z[b + 1] > 0) continue;
      const left = ends[b - j * n];
      second.push(left + ((ends[b + 1 - j * n] - left) * z[b]) / (z[b] - z[b + 1]));
    }
  }
  return [...first, ...second].sort((p, q) => p - q);
}

/** A number for each sample that tells its linear region: equal where all units are on the same side. */
function regionsOf({ H }, { a1, a2 }, n) {
  const random = uniform(1);
  const regions = new Uint32Array(n);
  for (const a of [a1, a2]) {
    for (let j = 0, i = 0; j < H; j++) {
      const key = Math.floor(random() * 4294967296);
      for (let b = 0; b < n; b++, i++) if (a[i] > 0) regions[b] ^= key;
    }
  }
  return regions;
}
