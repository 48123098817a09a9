"""The built pages, read as text: no browser needed."""

import functools
import html
import importlib
import re
from html.parser import HTMLParser

import pytest
from book_files import contents, notebooks

LOADING = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}
# Of <link>, these relations make a browser fetch; "next", "canonical" and others do not.
GENERATED = {"genindex.html", "py-modindex.html", "search.html"}
FETCHED = {"stylesheet", "preload", "icon", "modulepreload", "prefetch"}


class Page(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        """Collect."""
        self.tags.append((tag, dict(attrs)))

    def all(self, name):
        """Attributes of every tag of that name."""
        return [attributes for tag, attributes in self.tags if tag == name]


@functools.cache
def read(site, page):
    """Parse a page, once for all tests of it."""
    return Page((site / f"{page}.html").read_text(encoding="utf-8"))


def test_the_book_has_one_page_per_entry_of_the_contents(site):
    built = {p.relative_to(site).with_suffix("").as_posix() for p in site.glob("book/**/*.html")}
    assert built == set(contents())


def test_no_source_folder_became_a_page(site):
    top = {path.name for path in site.glob("*.html")}
    assert top <= {"index.html", "prf-prf.html", *GENERATED}
    assert top >= {"index.html", *GENERATED}
    folders = {path.name for path in site.iterdir() if path.is_dir()}
    assert not folders & {"data", "tests", "tools", "sobolev_lib", ".venv"}


@pytest.mark.parametrize("page", contents())
def test_every_image_says_what_it_shows(site, page):
    for image in read(site, page).all("img"):
        assert (image.get("alt") or "").strip(), image
        # docutils puts the file's name where the author gave no text
        assert not re.search(r"\.(svg|png)$|^_images|[0-9a-f]{16}", image["alt"]), image


@pytest.mark.parametrize("page", contents())
def test_nothing_is_loaded_from_elsewhere(site, page):
    for tag, attributes in read(site, page).tags:
        address = attributes.get(LOADING.get(tag, ""), "") or ""
        if tag == "link" and not FETCHED & set((attributes.get("rel") or "").split()):
            continue
        assert not re.match(r"(https?:)?//", address), (tag, attributes)


@pytest.mark.parametrize("page", contents())
def test_a_page_has_a_language_a_title_and_one_heading(site, page):
    text = (site / f"{page}.html").read_text(encoding="utf-8")
    parsed = Page(text)
    assert parsed.all("html")[0].get("lang") == "en"
    assert len(parsed.all("title")) >= 1
    assert len(Page(text[text.index("<article") :]).all("h1")) == 1


@pytest.mark.parametrize("page", notebooks())
def test_a_chapter_shows_what_its_code_printed_or_drew(site, page):
    text = (site / f"{page}.html").read_text(encoding="utf-8")
    assert 'class="output' in text or 'class="cell_output' in text
    assert "Traceback (most recent call last)" not in text.replace("raises-exception", "")


@pytest.mark.parametrize("page", contents())
def test_no_glued_number_is_missing(site, page):
    text = (site / f"{page}.html").read_text(encoding="utf-8")
    assert "{glue" not in text
    assert "{numref}" not in text
    assert "system-message" not in text


def test_every_public_name_is_on_a_page_of_the_library(site):
    pages = [page for page in contents() if "/api/" in page]
    ids = {attributes.get("id") for page in pages for _, attributes in read(site, page).tags}
    names = {i.removeprefix("module-") for i in ids if i and i.startswith("module-sobolev_lib")}
    assert "sobolev_lib.functions" in names
    for name in names:
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", ()):
            member = getattr(module, public)
            home = getattr(member, "__module__", name)
            if callable(member) and home == name and (member.__doc__ or "").strip():
                assert f"{name}.{public}" in ids


def test_a_constant_shows_its_value_only_if_it_is_short(site):
    signatures = {}
    for page in (page for page in contents() if "/api/" in page):
        text = (site / f"{page}.html").read_text(encoding="utf-8")
        for name, shown in re.findall(r'<dt class="sig[^>]*id="([^"]+)">(.*?)</dt>', text, re.S):
            signatures[name] = html.unescape(re.sub("<[^>]+>", "", shown))
    assert "=" in signatures["sobolev_lib.regression.claims.SEEDS"]
    assert "=" not in signatures["sobolev_lib.regression.arms.ARMS"]
    assert not [name for name, shown in signatures.items() if " object at 0x" in shown]


def test_the_status_page_tells_what_built_the_book(site):
    import torch

    text = (site / "book" / "status.html").read_text(encoding="utf-8")
    assert torch.__version__ in text
    for page in notebooks():
        assert f"{page.removeprefix('book/')}.html" in text or page in text
