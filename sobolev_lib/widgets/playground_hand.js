// The reader's hand on the playground: mouse, finger and keys move points, tilt slopes and draw the curve.
const REACH = 22; // px: how near a finger has to come to a point
const SNAP = 9; // px: a point so close to the target jumps onto it
const STEP = { place: 0.02, value: 0.05, slope: 0.25, knot: 0.05 }; // of the arrow keys
const FAR = 5; // how many steps at once with Shift

/**
 * Listen to the canvas and to `editor`, the element that has the focus.  `board` gives what is there (`s`, the
 * state, `target()` and `scales()`, the panels as drawn) and does what is asked for (`move`, `add`, `remove`,
 * `draw`, `choose`, `fill` for a point in the widest gap).
 */
function attachHand(canvas, editor, board) {
  const { s } = board;
  const positionOf = (event) => {
    const at = canvas.getBoundingClientRect();
    return [event.clientX - at.left, event.clientY - at.top];
  };
  const panelAt = ([px, py]) => {
    const near = ({ box }) => px >= box.x - 6 && px <= box.x + box.w + 6 && py >= box.y - 6 && py <= box.y + box.h + 6;
    return Object.entries(board.scales()).find(([name, scale]) => name !== "loss" && near(scale))?.[0];
  };
  /** What lies under a finger: the curve to draw on, a point, or nothing. */
  const grip = (at) => {
    const name = panelAt(at);
    if (!name) return null;
    if (s.drawing && name === "value") return { name, draws: true };
    const { X, Y } = board.scales()[name];
    const row = name === "slope" ? 2 : 1; // of a point: on maps, its second input
    const far = s.points.map((p) => Math.hypot(X(p[0]) - at[0], Y(p[row]) - at[1]));
    const i = far.indexOf(Math.min(...far));
    return far[i] <= REACH ? { name, i } : null;
  };
  const dataAt = (name, [px, py]) => {
    const { X, Y } = board.scales()[name];
    return [(px - X(0)) / (X(1) - X(0)), (py - Y(0)) / (Y(1) - Y(0))];
  };

  let held = null;
  let before = null; // where a drawn line was last
  const drag = ([px, py]) => {
    const { box } = board.scales()[held.name];
    const at = [px, Math.max(box.y, Math.min(box.y + box.h, py))];
    const [x, y] = dataAt(held.name, at);
    const target = board.target();
    if (held.draws) {
      board.draw(before || [x, y], [x, y]);
      before = [x, y];
    } else if (target.d === 2) board.move(held.i, { place: [x, y] });
    else {
      const onSlopes = held.name === "slope";
      const here = onSlopes ? s.points[held.i][0] : Math.max(-1, Math.min(1, x));
      const truth = target.at(here)[onSlopes ? 1 : 0];
      const close = !target.free && Math.abs(board.scales()[held.name].Y(truth) - at[1]) < SNAP;
      board.move(held.i, onSlopes ? { slopes: [close ? truth : y] } : { place: [here], y: close ? truth : y });
    }
  };
  // a finger on a point must not scroll the page; anywhere else it may
  canvas.addEventListener("touchstart", (event) => grip(positionOf(event.touches[0])) && event.preventDefault(), { passive: false });
  canvas.addEventListener("pointerdown", (event) => {
    held = event.button === 0 ? grip(positionOf(event)) : null;
    if (!held) return;
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    editor.focus({ preventScroll: true });
    [before, s.held] = [null, true];
    if (held.draws) drag(positionOf(event)); // a touch is a line, too
    else board.choose(held.i);
  });
  canvas.addEventListener("pointermove", (event) => {
    const at = positionOf(event);
    if (held) drag(at);
    else canvas.style.cursor = grip(at) ? "grab" : panelAt(at) ? "crosshair" : "";
  });
  const release = () => {
    if (!held) return;
    s.held = false;
    board.choose(s.drawing ? s.knot : s.selected);
    setTimeout(() => (held = null)); // after the click that follows, which must not place a point
  };
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, release);
  canvas.addEventListener("click", (event) => {
    const name = panelAt(positionOf(event));
    if (held || !name || name === "slope") return;
    const [x, y] = dataAt(name, positionOf(event));
    if (board.target().d === 2) board.add([x, y]);
    else board.add([x], board.target().free ? y : undefined);
  });

  const arrow = ([right, up], times) => {
    const p = s.points[s.selected];
    if (board.target().d === 2) return board.move(s.selected, { place: [p[0] + STEP.place * times * right, p[1] + STEP.place * times * up] });
    if (right) return board.move(s.selected, { place: [p[0] + STEP.place * times * right] });
    if (times > 1) return board.move(s.selected, { slopes: [p[2] + STEP.slope * up] });
    return board.move(s.selected, { y: p[1] + STEP.value * up });
  };
  const pen = ([right, up], times) => {
    if (right) return board.choose(s.knot + right);
    const place = [line(KNOTS)[s.knot], s.knots[s.knot] + STEP.knot * times * up];
    return board.draw(place, place);
  };
  editor.addEventListener("keydown", (event) => {
    const way = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
    const turn = { PageDown: 1, PageUp: -1 }[event.key];
    if (way) (s.drawing ? pen : arrow)(way, event.shiftKey ? FAR : 1);
    else if (turn) board.choose((s.drawing ? s.knot : s.selected) + turn);
    else if (event.key === "Delete" && !s.drawing) board.remove();
    else if (event.key === "Insert" && !s.drawing) board.fill();
    else return;
    event.preventDefault();
  });
}
