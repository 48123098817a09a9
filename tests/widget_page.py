"""One widget on a page of its own, with a stand-in for the kernel's side of its model.

The page is a file with the widget's own JavaScript and style in it, so that a test needs a browser
and no built book. ``window.model`` is the model: ``get``, ``set``, ``on``, ``off`` and
``save_changes`` as anywidget gives them, and ``saved``, the number of messages to Python.
``window.w`` is the module.
"""

import base64
import json
from pathlib import Path

TEMPLATE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Widget</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>:root { color-scheme: light dark } body { margin: 8px; max-width: 740px }
@media (prefers-color-scheme: dark) { body { background: #14181e; color: #ced6dd } }
__CSS__</style></head><body><main><h1 style="font-size:1rem">Widget</h1><div id="root"></div>
<div style="height: 1000px"></div></main>
<script type="module">
const traits = __STATE__;
for (const name of __BYTES__) {
  const bytes = Uint8Array.from(atob(traits[name]), (c) => c.charCodeAt(0));
  traits[name] = new DataView(bytes.buffer);
}
const listeners = {};
window.model = {
  saved: 0,
  get: (name) => traits[name],
  set(name, value) {
    const same = JSON.stringify(traits[name]) === JSON.stringify(value);
    traits[name] = value;
    const told = same && !(value instanceof DataView) ? [] : listeners["change:" + name] || [];
    for (const f of [...told]) f();
  },
  on: (event, f) => (listeners[event] ||= []).push(f),
  off: (event, f) => (listeners[event] = listeners[event].filter((g) => g !== f)),
  save_changes() { this.saved += 1; },
};
const url = URL.createObjectURL(new Blob([__ESM__], { type: "text/javascript" }));
window.w = await import(url);
window.end = w.default.render({ model, el: document.getElementById("root") });
</script></body></html>
"""


def write(widget, folder: Path) -> str:
    """Write the page of `widget` into `folder` and return its address."""
    state = {k: v for k, v in widget.get_state().items() if not k.startswith("_")}
    state = {k: v for k, v in state.items() if k not in ("layout", "tabbable", "tooltip")}
    binary = [k for k, v in state.items() if isinstance(v, bytes)]
    for key in binary:
        state[key] = base64.b64encode(state[key]).decode()
    text = TEMPLATE
    esm = json.dumps(widget._esm).replace("</", "<\\/")
    for mark, part in (
        ("__CSS__", widget._css),
        ("__STATE__", json.dumps(state)),
        ("__BYTES__", json.dumps(binary)),
        ("__ESM__", esm),
    ):
        text = text.replace(mark, part)
    path = folder / "widget.html"
    path.write_text(text, encoding="utf-8")
    return path.as_uri()
