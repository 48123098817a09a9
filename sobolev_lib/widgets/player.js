// A policy at play: frames from a sprite sheet, its saliency over them, its probabilities over time.
const TONES = ["values", "sobolev", "kernel", "equal_information", "smooth", "kriging"].map((name) => COLOURS[name]);
const EVERY = 110; // milliseconds a frame

/** Where a frame is on its sheet. */
function cell(clip, frame) {
  return [(frame % clip.columns) * clip.side, Math.floor(frame / clip.columns) * clip.side];
}

/** Heights of the stacked bars of one frame, from below: [from, to] for each action. */
function stack(probabilities) {
  let sum = 0;
  return probabilities.map((p) => [sum, (sum += p)]);
}

const percent = (p) => `${Math.round(100 * p)} %`;

/** What a reader is told about a frame. */
function sentence(clip, frame) {
  const now = clip.probabilities[frame];
  const first = now.indexOf(Math.max(...now));
  return (
    `Frame ${frame + 1} of ${clip.played.length}. Most probable: ${clip.names[first]}, ${percent(now[first])}. ` +
    `Played: ${clip.names[clip.played[frame]]}.`
  );
}

/** A sheet of grey levels as one of colour whose opacity is the level. */
function tinted(image, colour) {
  const sheet = document.createElement("canvas");
  [sheet.width, sheet.height] = [image.width, image.height];
  const c = sheet.getContext("2d");
  c.drawImage(image, 0, 0);
  const data = c.getImageData(0, 0, sheet.width, sheet.height);
  for (let i = 0; i < data.data.length; i += 4) {
    const level = data.data[i];
    data.data.set([...colour, level], i);
  }
  c.putImageData(data, 0, 0);
  return sheet;
}

function render({ model, el }) {
  const clips = model.get("clips");
  const sheets = clips.map(() => ({}));
  const now = () => clips[Math.min(model.get("clip"), clips.length - 1)];
  const at = () => Math.min(model.get("frame"), now().played.length - 1);
  const put = (values) => {
    for (const [key, value] of Object.entries(values)) model.set(key, value);
    model.save_changes();
  };
  let timer = null;

  const picture = stage("", (w) => Math.min(w, 420), (c, width, height) => {
    const size = Math.min(width, height);
    const left = (width - size) / 2;
    const [clip, sheet] = [now(), sheets[clips.indexOf(now())]];
    c.imageSmoothingEnabled = false;
    const part = [...cell(clip, at()), clip.side, clip.side, left, 0, size, size];
    if (sheet.frames) c.drawImage(sheet.frames, ...part);
    if (sheet.looks && model.get("looks")) c.drawImage(sheet.looks, ...part);
  });
  const chart = stage("", () => 130, (c, width, height, ink) => {
    const clip = now();
    const [top, bottom] = [6, height - 22];
    const step = width / clip.played.length;
    clip.probabilities.forEach((each, t) => {
      stack(each).forEach(([from, to], k) => {
        c.fillStyle = TONES[k % TONES.length];
        c.fillRect(t * step, bottom - (bottom - top) * to, Math.max(step - 0.5, 0.5), (bottom - top) * (to - from));
      });
    });
    c.strokeStyle = c.fillStyle = ink;
    c.lineWidth = 2;
    c.strokeRect((at() + 0.5) * step - Math.max(step, 5) / 2, top - 3, Math.max(step, 5), bottom - top + 6);
    c.textAlign = "left";
    c.fillText("Probabilities, frame by frame", 0, height - 6);
  });
  chart.canvas.setAttribute("aria-label", "Probabilities of the actions, stacked, for every frame; the table below has those of the frame that is shown.");

  const load = () => {
    clips.forEach((clip, k) => {
      for (const key of ["frames", "looks"]) {
        const image = new Image();
        image.addEventListener("load", () => {
          sheets[k][key] = key === "looks" ? tinted(image, [255, 140, 0]) : image;
          picture.paint();
        });
        image.src = clip[key];
      }
    });
  };

  const status = h("p", { class: "sob-status", role: "status", "aria-live": "polite" });
  const body = h("tbody", {});
  const table = h(
    "table", { class: "sob-table" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Action"), h("th", { scope: "col" }, "Probability"), h("th", { scope: "col" }, "Played"))),
    body,
  );
  const choose = choice("Game", clips.map((clip, k) => [String(k), clip.title]), String(model.get("clip")), (k) => {
    pause();
    put({ clip: Number(k), frame: 0 });
  });
  const seek = slider("Frame", 1, now().played.length, 1, at() + 1, (k) => `${k} of ${now().played.length}`, (k) => {
    pause();
    put({ frame: k - 1 });
  });
  const tick = h("input", { type: "checkbox", onchange: () => put({ looks: tick.checked }) });
  const step = (by) => {
    const count = now().played.length;
    put({ frame: (at() + by + count) % count });
  };
  const pause = () => {
    clearInterval(timer);
    timer = null;
    play.textContent = "Play";
  };
  const play = h("button", { type: "button", onclick: () => {
    if (timer !== null) {
      pause();
      return refresh();
    }
    play.textContent = "Pause";
    timer = setInterval(() => step(1), EVERY);
  } }, "Play");
  const move = (by) => () => {
    pause();
    step(by);
  };
  const back = h("button", { type: "button", onclick: move(-1) }, "Back");
  const next = h("button", { type: "button", onclick: move(1) }, "Next");

  let rows = [];
  const build = () => {
    const clip = now();
    rows = clip.names.map((name, k) => {
      const swatch = h("span", { class: "sob-swatch", style: `background:${TONES[k % TONES.length]};display:inline-block;margin-right:0.4rem` });
      return [h("td", {}), h("td", {}), h("th", { scope: "row" }, swatch, name)];
    });
    body.replaceChildren(...rows.map(([p, played, name]) => h("tr", {}, name, p, played)));
    seek.input.max = clip.played.length;
  };
  const refresh = () => {
    const [clip, frame] = [now(), at()];
    if (rows.length !== clip.names.length || choose.input.value !== String(model.get("clip"))) build();
    choose.input.value = String(model.get("clip"));
    seek.set(frame + 1);
    tick.checked = model.get("looks");
    clip.probabilities[frame].forEach((p, k) => {
      rows[k][0].textContent = percent(p);
      rows[k][1].textContent = clip.played[frame] === k ? "yes" : "";
    });
    const text = sentence(clip, frame);
    picture.canvas.setAttribute("aria-label", `${clip.title}. ${text}`);
    if (timer === null && status.textContent !== text) status.textContent = text; // silent while it plays
    picture.paint();
    chart.paint();
  };
  const changed = () => {
    build();
    refresh();
  };

  for (const key of ["frame", "looks"]) model.on(`change:${key}`, refresh);
  model.on("change:clip", changed);
  el.append(
    h(
      "section", { class: "sob sob-player", "aria-label": "A policy at play" },
      h("div", { class: "sob-controls" }, choose.node, seek.node),
      h("div", { class: "sob-buttons" }, play, back, next),
      h("label", { class: "sob-check" }, tick, "Show where the policy looks"),
      h(
        "div", { style: "display:grid;gap:0.75rem 1.5rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,270px),1fr));margin-top:0.75rem" },
        picture.canvas,
        h("div", { style: "min-width:0" }, chart.canvas, table, status),
      ),
    ),
  );
  load();
  changed();
  return () => {
    pause();
    picture.stop();
    chart.stop();
    for (const key of ["frame", "looks"]) model.off(`change:${key}`, refresh);
    model.off("change:clip", changed);
  };
}

export { cell, sentence, stack };
export default { render };
