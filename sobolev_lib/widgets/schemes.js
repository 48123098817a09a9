// The diagram of one scheme of Table 1; Python passes nodes and arrows, this draws and steps through them.
const UNIT = 72; // pixels for a unit of the diagram
const VIEW = { left: -0.75, right: 3.5, low: -0.4, high: 4.85 };
const SVG = "http://www.w3.org/2000/svg";

const px = (x) => (x - VIEW.left) * UNIT;
const py = (y) => (VIEW.high - y) * UNIT; // the input is at the bottom

/** An element of a drawing. */
function s(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** Text in which what follows "_" is a subscript. */
function formula(text) {
  const [base, below] = text.split("_");
  return below === undefined ? [base] : [base, s("tspan", { dy: 4, "font-size": 11 }, below)];
}

/** The line of an arrow without its head, and the head as a triangle; in pixels. */
function arrowShape([x0, y0, x1, y1], width) {
  const [a, b, c, d] = [px(x0), py(y0), px(x1), py(y1)];
  const length = Math.hypot(c - a, d - b);
  const [ux, uy] = [(c - a) / length, (d - b) / length];
  const [long, half] = [8 + width, 3 + width];
  const [ex, ey] = [c - long * ux, d - long * uy];
  const round = (v) => Math.round(100 * v) / 100;
  return {
    line: [a, b, ex, ey].map(round),
    head: [[c, d], [ex - half * uy, ey + half * ux], [ex + half * uy, ey - half * ux]].map((p) => p.map(round)),
  };
}

function drawArrow(arrow, kind, on) {
  const width = kind.width * (on ? 1.5 : 0.9);
  const { line, head } = arrowShape(arrow.line, width);
  const colour = arrow.kind === "forward" ? "currentColor" : kind.colour;
  return s(
    "g",
    { class: "sob-arrow", "data-kind": arrow.kind, "data-on": on, opacity: on ? 1 : 0.22 },
    s("line", {
      x1: line[0], y1: line[1], x2: line[2], y2: line[3], stroke: colour, "stroke-width": width,
      "stroke-dasharray": kind.dash.map((v) => v * width).join(" "),
    }),
    s("polygon", { points: head.map((p) => p.join(",")).join(" "), fill: colour }),
  );
}

function drawNode(node, on, green) {
  const parts = [];
  const ink = { fill: "currentColor", "font-size": 15, "font-style": "italic" };
  if (node.dot) {
    parts.push(s("circle", { cx: px(node.x), cy: py(node.y), r: 3.5, fill: "currentColor" }));
    parts.push(s("text", { x: px(node.x) - 24, y: py(node.y) + 5, "text-anchor": "end", ...ink }, ...formula(node.text)));
  } else {
    const [w, t] = [node.w * UNIT, node.h * UNIT];
    const box = { x: px(node.x) - w, y: py(node.y) - t, width: 2 * w, height: 2 * t, rx: 7 };
    const shade = node.supervised ? `color-mix(in srgb, ${green} 28%, transparent)` : "none";
    const edge = { stroke: node.supervised ? green : "currentColor", "stroke-width": node.supervised ? 4 : on ? 2 : 1 };
    parts.push(s("rect", { ...box, ...edge, style: `fill: ${shade}` }));
    parts.push(s("text", { x: px(node.x), y: py(node.y) + 5, "text-anchor": "middle", ...ink }, ...formula(node.text)));
  }
  return s("g", { class: "sob-node", "data-name": node.name, "data-on": on, opacity: on ? 1 : node.supervised ? 0.75 : 0.5 }, ...parts);
}

/** Fill the drawing with one scheme in one phase (1, 2, ...). */
function drawScheme(svg, scheme, kinds, phase) {
  const active = new Set(scheme.active[phase - 1]);
  const on = (arrow) => arrow.phases.includes(phase);
  const arrows = [...scheme.arrows].sort((a, b) => on(a) - on(b)); // the active ones on top
  svg.replaceChildren(
    ...arrows.map((arrow) => drawArrow(arrow, kinds[arrow.kind], on(arrow))),
    ...scheme.nodes.map((node) => drawNode(node, active.has(node.name), kinds.target.colour)),
  );
}

function schemeLegend(kinds) {
  const items = Object.entries(kinds).map(([name, kind]) => {
    const colour = name === "forward" ? "currentColor" : kind.colour;
    const line = s("line", { x1: 0, y1: 5, x2: 34, y2: 5, stroke: colour, "stroke-width": kind.width * 1.2 });
    line.setAttribute("stroke-dasharray", kind.dash.map((v) => v * kind.width).join(" "));
    return [s("svg", { width: 34, height: 10, viewBox: "0 0 34 10", "aria-hidden": "true" }, line), kind.label];
  });
  const green = kinds.target.colour;
  const box = s("rect", { x: 2, y: 2, width: 30, height: 12, rx: 3, stroke: green, "stroke-width": 3 });
  box.setAttribute("style", `fill: color-mix(in srgb, ${green} 28%, transparent)`);
  items.push([s("svg", { width: 34, height: 16, viewBox: "0 0 34 16", "aria-hidden": "true" }, box), "Supervised by the main network"]);
  return h("ul", { class: "sob-legend" }, ...items.map(([mark, text]) => h("li", {}, mark, text)));
}

/** One choice of several, as radio buttons: arrow keys move between them. */
function radios(label, options, value, onchange) {
  const name = `sob-${Math.random().toString(36).slice(2)}`; // groups the buttons of this view only
  const inputs = options.map(([key]) => h("input", { type: "radio", name, value: key, onchange: () => onchange(key) }));
  const set = (now) => inputs.forEach((input) => (input.checked = input.value === now));
  set(value);
  const node = h(
    "fieldset",
    { style: "border:0;margin:0;padding:0;min-width:0;display:flex;flex-wrap:wrap;gap:0.15rem 1rem" },
    h("legend", { style: "font-size:0.9rem;padding:0;float:none;margin:0;width:auto" }, label),
    ...options.map(([, text], i) =>
      h("label", { style: "display:inline-flex;gap:0.35rem;align-items:center;min-height:1.9rem;margin:0;cursor:pointer" }, inputs[i], text),
    ),
  );
  return { node, set };
}

function render({ model, el }) {
  const [all, kinds, phases] = ["schemes", "kinds", "phases"].map((key) => model.get(key));
  const put = (key) => (value) => {
    model.set(key, value);
    model.save_changes();
  };
  const [width, height] = [(VIEW.right - VIEW.left) * UNIT, (VIEW.high - VIEW.low) * UNIT];
  const svg = s("svg", { role: "img", viewBox: `0 0 ${width} ${height}`, style: "display:block;width:100%;max-width:340px;height:auto;margin:auto" });
  const choose = radios("Scheme", all.map((scheme) => [scheme.key, scheme.title]), model.get("scheme"), put("scheme"));
  const steps = phases.map((title, i) =>
    h("button", { type: "button", style: "text-align:left;width:100%", onclick: () => put("phase")(i + 1) }, `${i + 1}. ${title}`),
  );
  const move = (by) => () => put("phase")(Math.max(1, Math.min(phases.length, model.get("phase") + by)));
  const back = h("button", { type: "button", onclick: move(-1) }, "Back");
  const next = h("button", { type: "button", onclick: move(1) }, "Next");
  const status = h("p", { class: "sob-status", role: "status", "aria-live": "polite", style: "min-height:5.6em" });

  const refresh = () => {
    const phase = model.get("phase");
    const scheme = all.find((one) => one.key === model.get("scheme"));
    drawScheme(svg, scheme, kinds, phase);
    choose.set(scheme.key);
    svg.setAttribute("aria-label", `${scheme.description} Highlighted: phase ${phase}, ${phases[phase - 1]}.`);
    steps.forEach((button, i) => {
      const now = i + 1 === phase;
      if (now) button.setAttribute("aria-current", "step");
      else button.removeAttribute("aria-current");
      button.style.fontWeight = now ? "700" : "400";
      button.style.borderWidth = now ? "3px" : "1px";
    });
    // not `disabled`: that would take the focus away from somebody who steps by keyboard
    back.setAttribute("aria-disabled", String(phase === 1));
    next.setAttribute("aria-disabled", String(phase === phases.length));
    for (const button of [back, next]) button.style.opacity = button.getAttribute("aria-disabled") === "true" ? "0.6" : "1";
    const text = `${scheme.title}, phase ${phase} of ${phases.length}, ${phases[phase - 1]}: ${scheme.sentences[phase - 1]}`;
    if (status.textContent !== text) status.textContent = text;
  };
  for (const key of ["scheme", "phase"]) model.on(`change:${key}`, refresh);
  const list = h("ol", { "aria-label": "Phases of one training step", style: "list-style:none;margin:0;padding:0;display:grid;gap:0.35rem" });
  list.append(...steps.map((button) => h("li", { style: "margin:0" }, button)));
  el.append(
    h(
      "section",
      { class: "sob sob-schemes", "aria-label": "One training step of each scheme" },
      choose.node,
      h(
        "div",
        { style: "display:grid;gap:0.75rem 1.5rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,270px),1fr));margin-top:0.75rem" },
        svg,
        h("div", { style: "min-width:0" }, list, h("div", { class: "sob-buttons" }, back, next), status),
      ),
      schemeLegend(kinds),
    ),
  );
  refresh();
  return () => {
    for (const key of ["scheme", "phase"]) model.off(`change:${key}`, refresh);
  };
}

export { arrowShape, px, py };
export default { render };
