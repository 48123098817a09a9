"""What the tests of the widgets share: JavaScript run in Node, two views of a page, a clock."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import anywidget
import pytest

NODE = shutil.which("node")
needs_node = pytest.mark.skipif(
    NODE is None, reason="Node.js is not installed: it runs the widgets' JavaScript here"
)
VIEWS = [
    pytest.param({}, id="desktop-http"),
    pytest.param(
        {"width": 360, "height": 800, "scheme": "dark", "origin": "file"}, id="phone-file"
    ),
]
#: Counts in `window.said` what a screen reader would be told by a status line from now on.
LISTEN = """node => {
  window.said = 0;
  new MutationObserver(() => window.said++)
    .observe(node, { childList: true, characterData: true, subtree: true });
}"""
#: JavaScript: the contrast of two colours by WCAG 2, from 1 to 21.
CONTRAST = """
  const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = css => {
    const [r, g, b] = css.match(/[0-9.]+/g).map(Number);
    return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  };
  const contrast = (one, other) => {
    const [a, b] = [luminance(one), luminance(other)];
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };
"""


def stop_clock(page: Any) -> None:
    """Let no time pass on a page, however slow the machine, but what `page.clock.run_for` gives."""
    page.clock.install()
    page.clock.pause_at(datetime.now() + timedelta(days=1))  # a date ahead, or Playwright refuses


def run_js(widget: type[anywidget.AnyWidget], script: str, payload: Any, folder: Path) -> Any:
    """Run `script` with the widget's module as `w` and the payload as `input`; return `out`."""
    (folder / "widget.mjs").write_text(widget._esm, encoding="utf-8")
    (folder / "main.mjs").write_text(
        "import * as w from './widget.mjs';\nimport fs from 'fs';\nlet out;\n"
        f"const input = JSON.parse(fs.readFileSync(0, 'utf8'));\n{script}\n"
        "console.log(JSON.stringify(out, (k, v) => ArrayBuffer.isView(v) ? Array.from(v) : v));\n",
        encoding="utf-8",
    )
    done = subprocess.run(
        [NODE, "main.mjs"], input=json.dumps(payload), capture_output=True, text=True, cwd=folder
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)
