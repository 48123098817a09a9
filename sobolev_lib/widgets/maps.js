// What two widgets draw maps with: colours, contours, arrows.
const VIRIDIS = (
  "440154 481769 472a7a 433d84 3d4e8a 355e8d 2e6d8e 297b8e 23898e " +
  "1f978b 21a585 2eb37c 46c06f 65cb5e 89d548 b0dd2f d8e219 fde725"
).split(" ").map((hex) => [0, 2, 4].map((k) => parseInt(hex.slice(k, k + 2), 16)));

/** Colour of t in [0, 1], as three numbers of 0 to 255; what lies outside takes the end's colour. */
function viridis(t) {
  const u = Math.min(1, Math.max(0, t)) * (VIRIDIS.length - 1);
  const i = Math.min(VIRIDIS.length - 2, Math.floor(u));
  return VIRIDIS[i].map((v, k) => v + (u - i) * (VIRIDIS[i + 1][k] - v));
}

/** Pieces of the line where a grid has one value (marching squares), in units of grid cells. */
function contour(values, side, level) {
  const pieces = [];
  for (let row = 0; row + 1 < side; row++) {
    for (let column = 0; column + 1 < side; column++) {
      const corners = [[0, 0], [1, 0], [1, 1], [0, 1]].map(([dx, dy]) => [column + dx, row + dy, values[(row + dy) * side + column + dx] - level]);
      const cuts = [];
      for (let k = 0; k < 4; k++) {
        const [a, b] = [corners[k], corners[(k + 1) % 4]];
        if (a[2] < 0 !== b[2] < 0) {
          const t = a[2] / (a[2] - b[2]);
          cuts.push([a[0] + t * (b[0] - a[0]), a[1] + t * (b[1] - a[1])]);
        }
      }
      for (let k = 0; k + 1 < cuts.length; k += 2) pieces.push([cuts[k], cuts[k + 1]]);
    }
  }
  return pieces;
}

/** Where an arrow of the field starts, its direction in the plane [-1, 1]^2, and its length in cells. */
function arrowsOf(slopes, count, domain, reference) {
  const list = [];
  const [wx, wy] = domain.map(([low, high]) => high - low);
  for (let row = 0; row < count; row++) {
    for (let column = 0; column < count; column++) {
      const [gx, gy] = [slopes[2 * (row * count + column)], slopes[2 * (row * count + column) + 1]];
      const size = Math.hypot(gx, gy);
      const [dx, dy] = [gx / wx, gy / wy]; // a step along the gradient, as the plot's axes show it
      const norm = Math.hypot(dx, dy);
      if (norm === 0) continue;
      const length = (Math.min(1, Math.sqrt(size / reference)) * 1.8) / count;
      const [x, y] = [-1 + (2 * column + 1) / count, -1 + (2 * row + 1) / count];
      list.push({ x, y, dx: (dx / norm) * length, dy: (dy / norm) * length });
    }
  }
  return list;
}

function drawArrows(c, list, project, colour, width) {
  c.strokeStyle = colour;
  c.lineWidth = width;
  c.beginPath();
  for (const { x, y, dx, dy } of list) {
    const [px, py] = project(x - dx / 2, y - dy / 2);
    const [qx, qy] = project(x + dx / 2, y + dy / 2);
    const [ux, uy] = [qx - px, qy - py];
    c.moveTo(px, py);
    c.lineTo(qx, qy);
    c.moveTo(qx - 0.4 * ux + 0.22 * uy, qy - 0.4 * uy - 0.22 * ux);
    c.lineTo(qx, qy);
    c.lineTo(qx - 0.4 * ux - 0.22 * uy, qy - 0.4 * uy + 0.22 * ux);
  }
  c.stroke();
}

/** The number below which a share `p` of the list lies, between two entries by a straight line. */
function quantile(list, p) {
  const sorted = Array.from(list).sort((a, b) => a - b);
  const at = p * (sorted.length - 1);
  const i = Math.floor(at);
  return sorted[i] + (at - i) * ((sorted[i + 1] ?? sorted[i]) - sorted[i]);
}

/** Fill a box with the colours of a grid's values, the lowest row at the bottom, and draw contours. */
function paintField(c, box, values, side, [low, high], levels) {
  const image = document.createElement("canvas");
  image.width = image.height = side;
  const pixels = image.getContext("2d").createImageData(side, side);
  for (let row = 0; row < side; row++) {
    for (let column = 0; column < side; column++) {
      const colour = viridis((values[row * side + column] - low) / (high - low));
      const at = 4 * ((side - 1 - row) * side + column);
      for (let k = 0; k < 3; k++) pixels.data[at + k] = colour[k];
      pixels.data[at + 3] = 255;
    }
  }
  image.getContext("2d").putImageData(pixels, 0, 0);
  c.imageSmoothingEnabled = true;
  const inner = side - 1; // samples sit on the edges: half a pixel of the image lies outside
  c.drawImage(image, 0.5, 0.5, inner, inner, box.x, box.y, box.w, box.h);
  c.strokeStyle = "rgba(0,0,0,0.55)";
  c.lineWidth = 0.9;
  c.beginPath();
  for (const level of levels) {
    for (const [a, b] of contour(values, side, level)) {
      c.moveTo(box.x + (a[0] / inner) * box.w, box.y + box.h - (a[1] / inner) * box.h);
      c.lineTo(box.x + (b[0] / inner) * box.w, box.y + box.h - (b[1] / inner) * box.h);
    }
  }
  c.stroke();
}
