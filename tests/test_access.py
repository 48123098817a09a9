"""How to get and run a page: what depends on the repository's address, and what does not."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import access
import nbformat
import pytest
import yaml
from book_files import ROOT, contents, notebooks
from sphinx.errors import ConfigError

ADDRESS = "https://github.com/OWNER/REPO"
OUTSIDE = re.compile(r'href="(https?://[^"]+)"')


def setting():
    """The address in ``_config.yml``."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    return config["repository"]["url"]


@pytest.mark.parametrize("given", ["", None, ADDRESS, f"{ADDRESS}/", f"{ADDRESS}.git"])
def test_the_address_is_empty_or_one_that_binder_can_open(given):
    assert access.address({"repository_url": given}) == (ADDRESS if given else "")


@pytest.mark.parametrize("given", ["OWNER/REPO", "https://example.org/a/b", f"{ADDRESS}/tree/x"])
def test_another_address_is_refused_with_an_example(given):
    with pytest.raises(ConfigError, match=re.escape(given)) as error:
        access.address({"repository_url": given})
    assert "https://github.com/OWNER/REPO" in str(error.value)


def test_without_an_address_nothing_leads_outside():
    words = access.fold("", ("loss.ipynb", "loss.ipynb"), {}, None)
    assert not OUTSIDE.search(words)
    assert "git" not in words and "Colab" not in words
    for needed in ("loss.ipynb", "make book", "pip install .", "make pdf"):
        assert needed in words
    assert "loss.ipynb" not in access.fold("", None, {}, None)


def test_with_an_address_the_page_says_what_to_clone_and_install():
    words = access.fold(ADDRESS, None, {"Binder": "b", "Colab": "c"}, "book.pdf")
    assert f"git clone {ADDRESS} sobolev-book" in words
    assert f"git+{ADDRESS}" in words
    assert 'href="book.pdf"' in words and "make pdf" not in words
    assert "run this cell first" in words
    assert "run this cell first" not in access.fold(ADDRESS, None, {"Binder": "b"}, None)


def test_the_cell_for_colab_brings_what_the_chapters_import(monkeypatch, tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(access.EXTRAS.split(",")) <= set(project["optional-dependencies"])
    clone, install, data = access.COLAB.format(url=ADDRESS, extras=access.EXTRAS).splitlines()
    folder = clone.rpartition(" ")[2]
    assert f'"./{folder}[' in install
    name, path = data.removeprefix("%env ").split("=")
    assert path == f"/content/{folder}/data", "Colab starts in /content"
    monkeypatch.setenv(name, str(tmp_path))
    from sobolev_lib.records.ledger import default_folder

    assert default_folder() == tmp_path / "ledger"


CONF = """\
import sys
sys.path[:0] = [{tools!r}]
extensions = ["myst_nb", "sphinx_book_theme", "access"]
html_theme = "sphinx_book_theme"
html_title = "Small"
nb_execution_mode = "off"
html_theme_options = {options!r}
"""


def build(folder: Path, url: str) -> str:
    """Build a book of one notebook with the configuration's own buttons; return its page."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    options = {
        "repository_url": url,
        "repository_branch": config["repository"]["branch"],
        "launch_buttons": config["launch_buttons"],
        "use_repository_button": config["html"]["use_repository_button"],
    }
    (folder / "conf.py").write_text(CONF.format(tools=str(ROOT / "tools"), options=options))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# One")])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, folder / "index.ipynb")
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", str(folder), str(folder / "out")]
    subprocess.run(command, check=True, capture_output=True)
    return (folder / "out" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("url", ["", ADDRESS])
def test_launch_buttons_appear_when_the_setting_is_set(tmp_path, url):
    page = build(tmp_path, url)
    assert "Get and run this page" in page
    binder = "https://mybinder.org/v2/gh/OWNER/REPO/main?urlpath=lab/tree/index.ipynb"
    colab = "https://colab.research.google.com/github/OWNER/REPO/blob/main/index.ipynb"
    for link in (binder, colab):
        # in the head of the page, and in the words at its end
        assert page.count(f'href="{link}"') == (2 if url else 0)
    assert bool(re.search("mybinder|colab|OWNER", page)) == bool(url)


@pytest.mark.parametrize("page", contents())
def test_every_page_says_how_to_get_it(site, page):
    text = (site / f"{page}.html").read_text(encoding="utf-8")
    words = text[text.index('<details class="get-and-run">') :].split("</details>")[0]
    assert ("pip install ." in words) == (not setting())
    links = re.findall(r'href="([^"]+)"', words)
    here = [link for link in links if "://" not in link]
    for link in here:
        file = (site / f"{page}.html").parent / link
        assert file.resolve().is_relative_to(site.resolve()) and file.exists(), link
    if page in notebooks():
        name = f"{page.removeprefix('book/')}.ipynb"
        assert f"../_static/notebooks/{name}" in here


@pytest.mark.parametrize("page", notebooks())
def test_the_notebook_to_download_has_its_outputs(site, page):
    name = f"{page.removeprefix('book/')}.ipynb"
    executed = nbformat.read(site / "_static" / "notebooks" / name, 4)
    nbformat.validate(executed)
    cells = [c for c in executed.cells if c.cell_type == "code" and c.source.strip()]
    assert all(cell.execution_count for cell in cells)
    assert [c.source for c in executed.cells] == [c.source for c in notebooks()[page].cells]
    assert any(cell.outputs for cell in cells)
