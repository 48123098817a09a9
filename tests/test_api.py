"""The pages of the library: one for each room, each opening with an example that runs."""

import doctest
import re

import pytest
import rooms
import torch
from book_files import ROOT, contents

PAGES = sorted((ROOT / "book" / "api").glob("*.md"))


def test_every_room_has_a_page_below_those_that_it_uses():
    entries = dict(rooms.modules(ROOT / "sobolev_lib", "sobolev_lib"))
    listed = [page.removeprefix("book/api/") for page in contents() if "/api/" in page]
    assert {path.stem for path in PAGES} == set(listed) == {rooms.room(name) for name in entries}
    for name, package in entries.items():
        for used in rooms.imported(name, package, entries):
            assert listed.index(rooms.room(used)) <= listed.index(rooms.room(name)), (
                f"the sections of book/api in _toc.yml: {rooms.room(used)} before {name}"
            )


def test_every_module_is_on_the_page_of_its_room():
    names = [name for name, _ in rooms.modules(ROOT / "sobolev_lib", "sobolev_lib")]
    assert {"sobolev_lib.loss", "sobolev_lib.figures.style"} <= set(names)
    assert not [name for name in names if "__" in name or "._" in name]
    for name in names:
        assert f"automodule:: {name}\n" in rooms.body(rooms.room(name))
    overview = rooms.overview()
    for path in PAGES:
        assert f"(api/{path.stem}.md)" in overview


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_opens_with_an_example_that_runs(path):
    head, place, rest = path.read_text(encoding="utf-8").partition(rooms.PLACE)
    assert place and not rest.strip()
    [example] = re.findall(r"```pycon\n(.*?)```", head, re.DOTALL)
    assert f"\n# {path.stem}\n" in head
    torch.manual_seed(0)
    test = doctest.DocTestParser().get_doctest(example, {}, path.stem, str(path), 0)
    said = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append)
    assert not said, "".join(said)
