"""The page of results in a browser: the filter above the claims, and the links of each claim."""

import re
from urllib.parse import parse_qs

import pytest

from conftest import PATIENCE

WIDTHS = [390, 1280]
ROWS = ".claims.verdicts tbody tr"


def shown(page):
    """Verdict and words of every claim that can be seen."""
    rows = page.locator(f"{ROWS}:visible")
    return rows.evaluate_all(
        "rows => rows.map(r => [r.lastElementChild.textContent.trim(), r.textContent])"
    )


def chosen(page):
    """What stands in the address, as the page knows it: `page.url` hears of it a moment later."""
    return {k: v for k, [v] in parse_qs(page.evaluate("location.hash.slice(1)")).items()}


@pytest.mark.parametrize("width", WIDTHS)
def test_claims_are_filtered_by_verdict_part_and_words(built_page, width):
    page = built_page("results", width=width, height=844, origin="file")
    every = shown(page)
    verdicts = {verdict for verdict, _ in every}
    assert len(verdicts) > 2
    form = page.locator("form.claims-filter")
    for verdict in verdicts:
        form.locator("[name=verdict]").select_option(verdict)
        assert shown(page) == [claim for claim in every if claim[0] == verdict]
    form.get_by_role("button", name="Show all").click()
    page.wait_for_function("() => !location.hash")
    assert shown(page) == every

    part = page.locator("section:has(> h2)").filter(has=page.locator(ROWS)).last
    form.locator("[name=part]").select_option(part.get_attribute("id"))
    inside = shown(page)
    assert 0 < len(inside) < len(every)
    assert part.locator(f"{ROWS}:visible").count() == len(inside)
    assert page.locator("section:has(> h2):visible").count() == 1, "no heading without claims"

    words = form.locator("[name=words]")
    words.fill("SOBOLEV critic")
    kept = [c for c in inside if "sobolev" in c[1].lower() and "critic" in c[1].lower()]
    assert 0 < len(kept) < len(inside)
    assert shown(page) == kept
    assert form.locator("output").inner_text() == f"{len(kept)} of {len(every)} claims"
    words.fill("no claim says this")
    assert shown(page) == []
    assert form.is_visible()


def test_the_filter_is_worked_by_keyboard_and_stands_in_the_address(built_page):
    page = built_page("results", origin="file")
    form = page.locator("form.claims-filter")
    # a word of a claim that holds, whichever the records let hold
    held = next(text for verdict, text in shown(page) if verdict == "holds")
    word = max(re.findall("[a-z]+", held.lower()), key=len)
    form.locator("[name=verdict]").focus()
    page.keyboard.press("h")  # of several letters a list forgets the first after a second
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.type(word)
    page.keyboard.press("Enter")  # sends nothing anywhere
    assert chosen(page) == {"verdict": "holds", "words": word}
    before = shown(page)
    assert before and {verdict for verdict, _ in before} == {"holds"}

    page.reload()
    page.wait_for_selector("form.claims-filter")
    assert shown(page) == before, "the address brings the same claims back"
    page.evaluate("location.hash = 'verdict=unheard&part=of&words='")
    page.wait_for_function("() => document.querySelector('[name=verdict]').value === ''")
    assert len(shown(page)) == page.locator(ROWS).count()


def test_every_claim_leads_to_its_chapter_command_and_records(built_page, site):
    page = built_page("results", width=390, origin="file")
    rows = page.locator(ROWS)
    addresses = set()
    for row in rows.all():
        chapter, records, own = row.locator(".claim-links a").all()
        for link in (chapter, records):
            assert (site / "book" / link.get_attribute("href")).resolve().exists()
        addresses.add(own.get_attribute("href"))
        assert own.get_attribute("href") == "#" + row.get_attribute("id")
        row.locator("summary").last.click()
        command = row.locator("details code")
        assert command.is_visible()
        assert records.get_attribute("href").rpartition("/")[2].removesuffix(".jsonl") in (
            command.inner_text()
        )
    assert len(addresses) == rows.count() > 20

    last = rows.last.get_attribute("id")
    page.locator("[name=words]").fill("no claim says this")
    page.evaluate(f"location.hash = '{last}'")
    rows.last.wait_for(state="visible")  # a link to a claim shows it, whatever was filtered


def test_without_scripts_every_claim_is_there(site, browser):
    with browser.new_context(java_script_enabled=False) as context:
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.goto(f"{(site / 'book' / 'results.html').as_uri()}#verdict=holds")
        assert page.locator("form.claims-filter").count() == 0
        assert page.locator(ROWS).count() == page.locator(f"{ROWS}:visible").count() > 20
