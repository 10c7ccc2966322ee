"""The page of `ark compare` in a real Chromium.   pytest tests/pages/test_compare_page.py -m slow"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoresearch_kit.core.foreign import read_foreign
from autoresearch_kit.core.specfile import parse_spec
from autoresearch_kit.views.changes import Change, Part, Where
from autoresearch_kit.views.compare import Row
from autoresearch_kit.views.compare_page import page

SPEC = parse_spec("metric: loss\nmetric_direction: minimize\nmutable_files: [a]\nrun_command: a\n")
BAD = "<script>document.title = 'cheated'</script><img src=http://127.0.0.1:9/x onerror=alert(1)>"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rows = []
    for number in range(8):
        text = "timestamp\tcommit\tloss\tstatus\tdescription\n"
        for at in range(30):
            outcome = "keep" if at % 3 == 0 else "discard"
            text += f"2026-03-08T10:{at:02d}:00Z\tc{at}\t{1 - 0.01 * at * number}\t{outcome}\t{BAD}\n"
        run = read_foreign(text, f"run{number} {BAD}", "results.tsv", SPEC)
        rows.append(Row(run, group=1 + number // 4, rank=1 + number % 4, why_not=(BAD,) if number > 3 else ()))
    one, two = rows[0].campaign, rows[1].campaign
    places = [Where(run, (run.attempts[3],), Part(BAD, "", (BAD,), ("x" * 500,)), "") for run in (one, two)]
    found = [Change(tuple(places), (), BAD, "") for _ in range(30)]
    target = tmp_path / "compare.html"
    target.write_text(page(BAD, rows, found))
    return target


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1280])
def test_charts_are_drawn_and_nothing_runs_or_is_asked_for(
    opened: Callable[..., Any], path: Path, width: int, dark: bool
) -> None:
    shown = opened(path, width=width, dark=dark).page
    pictures = shown.locator("picture img")
    assert pictures.count() == 2  # over attempts and over hours
    for at in range(2):
        assert pictures.nth(at).evaluate("image => image.complete && image.naturalWidth") > 500
        source = pictures.nth(at).evaluate("image => image.currentSrc")
        other = shown.locator("picture source").nth(at).get_attribute("srcset")
        assert (source == other) == dark
        assert "run7" in pictures.nth(at).get_attribute("alt")
    assert shown.title().startswith("<script>")
    assert shown.locator("script").count() == 0
    assert shown.locator("th[scope=col]").count() == 8
    # A wide table scrolls in its own place, the page does not.
    assert shown.evaluate("document.documentElement.scrollWidth") <= width


def test_long_lists_fold_and_open(opened: Callable[..., Any], path: Path) -> None:
    shown = opened(path).page
    items = shown.locator("details li")
    assert items.count() == 18
    assert not items.first.is_visible()
    shown.locator("details > summary").focus()
    shown.keyboard.press("Enter")
    assert items.first.is_visible()
