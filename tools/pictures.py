"""Serve each figure in two widths and two colour schemes, from one output of its cell.

The library appends a figure's narrow drawing to its SVG (``sobolev_lib/figures/widths.py``). Here
the two become files, and both take the colours of the dark page where their address ends in
``#dark``. The page shows one of the four; the other three are not even fetched.
"""

import base64
import math
import re
import zlib
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.writers.html5 import HTML5Translator

#: What a phone is, here and in book.css.
PHONE = "(max-width: 600px)"
#: Background of the theme's dark pages.
DARK = "#14181e"
PACKED = re.compile(r"<!--narrow:([\d.]+):([A-Za-z0-9+/=]+)-->")
SIZE = re.compile(r'<svg[^>]*?\bwidth="([\d.]+)pt"[^>]*?\bheight="([\d.]+)pt"|'
                  r'<svg[^>]*?\bheight="([\d.]+)pt"[^>]*?\bwidth="([\d.]+)pt"')  # fmt: skip
COLOUR = re.compile(r"(?<=fill: |roke: )#[0-9a-f]{6}\b")


# --- colours -------------------------------------------------------------------------------------


def _linear(colour: str) -> list[float]:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours by WCAG 2."""
    light = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in (_linear(one), _linear(other))]
    return (max(light) + 0.05) / (min(light) + 0.05)


def _oklab(colour: str) -> tuple[float, float, float]:
    """Lightness and the two opponent colours of Ottosson's OKLab (2020)."""
    r, g, b = _linear(colour)
    long = math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b)
    medium = math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b)
    short = math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b)
    return (
        0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short,
    )


def _hex(lightness: float, a: float, b: float) -> str:
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    parts = [
        12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055
        for c in (min(max(c, 0.0), 1.0) for c in linear)
    ]
    return "#" + "".join(f"{round(255 * c):02x}" for c in parts)


def on_dark(colour: str) -> str:
    """Return what a colour of a figure becomes on the dark page.

    White is the page itself, greys and pale tints turn over, and a colour gets as light as text
    of it needs to be read; its hue stays.
    """
    if colour == "#ffffff":
        return DARK
    lightness, a, b = _oklab(colour)
    if math.hypot(a, b) < 0.04 or lightness > 0.92:
        ground = _oklab(DARK)[0]
        return _hex(ground + (0.93 - ground) * min(1.0, (1 - lightness) / 0.7), a, b)
    while contrast(found := _hex(lightness, a, b), DARK) < 4.5:
        lightness += 0.01
    return found


def two_schemes(svg: str) -> str:
    """Give a drawing the colours of the dark page for the address that ends in ``#dark``."""
    names = {colour: f"--c{k}" for k, colour in enumerate(sorted(set(COLOUR.findall(svg))))}
    svg = COLOUR.sub(lambda found: f"var({names[found[0]]}, {found[0]})", svg)
    dark = ";".join(f"{name}:{on_dark(colour)}" for colour, name in names.items())
    # what has no colour is black
    rules = f"#dark:target{{fill:{on_dark('#000000')};{dark}}}"
    return re.sub(r"<svg\b([^>]*)>", rf'<svg id="dark"\1><style>{rules}</style>', svg, count=1)


# --- pages ---------------------------------------------------------------------------------------


def _pixels(svg: str) -> str:
    found = SIZE.search(svg)
    assert found is not None, "an SVG of matplotlib gives its size in points"
    width, height = (found[1], found[2]) if found[1] else (found[4], found[3])
    return " ".join(
        f'{name}="{float(points) * 96 / 72:.0f}"'
        for name, points in (("width", width), ("height", height))
    )


def visit(self: Any, node: nodes.image) -> None:
    """Write a figure with a narrow drawing as two ``picture`` elements; others as ever."""
    path = Path(self.builder.srcdir, node["uri"])
    text = path.read_text(encoding="utf-8") if path.suffix == ".svg" and path.exists() else ""
    packed = PACKED.search(text)
    if packed is None:
        HTML5Translator.visit_image(self, node)
        return
    node["pictures"] = True
    self.builder.images.pop(node["uri"], None)  # what it copies is not needed
    folder = Path(self.builder.outdir, self.builder.imagedir)
    folder.mkdir(parents=True, exist_ok=True)
    both = {
        "wide": PACKED.sub("", text),
        "narrow": zlib.decompress(base64.b64decode(packed[2])).decode(),
    }
    address = {}
    for name, svg in both.items():
        file = f"{path.stem}-{name}.svg"
        (folder / file).write_text(two_schemes(svg), encoding="utf-8")
        address[name] = f"{self.builder.imgpath}/{file}"
    alt = self.attval(node.get("alt", ""))
    for scheme, end in (("light", ""), ("dark", "#dark")):
        self.body.append(
            f'<picture class="for-{scheme}" data-text="{packed[1]}">'
            f'<source media="{PHONE}" srcset="{address["narrow"]}{end}" {_pixels(both["narrow"])}>'
            f'<img class="dark-light" src="{address["wide"]}{end}" {_pixels(both["wide"])} '
            f'alt="{alt}" loading="lazy"></picture>\n'
        )


def depart(self: Any, node: nodes.image) -> None:
    """Nothing is left to write after a figure."""
    if not node.get("pictures"):
        HTML5Translator.depart_image(self, node)


def setup(app: Any) -> dict[str, Any]:
    """Sphinx entry point."""
    app.add_node(nodes.image, override=True, html=(visit, depart))
    return {"parallel_read_safe": True, "parallel_write_safe": True, "version": "1"}
