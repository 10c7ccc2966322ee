"""The report, opened, pointed at, typed into and printed.   pytest tests/pages -m slow"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from written import Tried, write_repository, write_run

from autoresearch_kit.campaigns import latest_campaign
from autoresearch_kit.core.campaign import Campaign
from autoresearch_kit.core.records import Cost
from autoresearch_kit.project import open_project
from autoresearch_kit.views.report.data import document, read_document
from autoresearch_kit.views.report.page import page as render

HOSTILE = "</script><script>document.title='run'</script><img src=x onerror=alert(2)> \"'`&amp; javascript:alert(3)"
TRIES = [
    Tried("keep", [1.0], "Baseline"),
    Tried(
        "discard", [1.1], "Raise the rate", reason="Discard: 1 -> 1.1, worse by 0.1", files={"train.py": b"rate = 2\n"}
    ),
    Tried(
        "keep", [0.9], "Warm up", "It diverges at the start.", cost=Cost(10, 99, 0.5), files={"train.py": b"warm = 1\n"}
    ),
    Tried("crash", [], "Too deep", problem="exit: exit code 1", log="Traceback\nMemoryError", agent="codex"),
    Tried("discard", [0.95], HOSTILE, HOSTILE, f"Discard: {HOSTILE}", files={"train.py": HOSTILE.encode() + b"\n"}),
    Tried("crash", [], "What the log holds", problem=f"{HOSTILE}: {HOSTILE}", log=HOSTILE * 3, agent=HOSTILE),
    Tried("discard", [4e9], "Explode"),
    Tried(
        "keep",
        [0.8],
        "Cool down",
        agent="codex",
        files={"train.py": "".join(f"a{n} = {n}\n" for n in range(900)).encode()},
    ),
]


def write_page(folder: Path, tries: list[Tried], live: bool = False, **spec: Any) -> Path:
    write_run(write_repository(folder / "p", **spec), tries)
    project = open_project(folder / "p")
    campaign = latest_campaign(project, None)
    path = folder / "report.html"
    path.write_text(render(campaign, read_document(project.repository, campaign, "# the program\n"), live), "utf-8")
    project.repository.close()
    return path


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "shared-cache"))
        return write_page(tmp_path_factory.mktemp("report"), TRIES, goal="Learn fast.")


Open = Callable[..., Any]


def until(page: Any, expression: str) -> None:
    """Wait until that is true; Playwright's own way needs `eval`, which the page forbids."""
    for _ in range(400):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(50)
    raise AssertionError(expression)


def at(page: Any, number: int) -> tuple[float, float]:
    """Where the mark of an attempt is, in pixels of the page."""
    page.locator("#chart").scroll_into_view_if_needed()
    index = [n for n, tried in enumerate(TRIES) if bool(tried.values) == bool(TRIES[number].values)].index(number)
    layer = "dots_marks" if TRIES[number].values else "without_marks"
    found = page.locator(f"#chart svg g.{layer} path").nth(index).bounding_box()
    return found["x"] + found["width"] / 2, found["y"] + found["height"] / 2


def test_the_chart_has_a_mark_for_each_attempt_and_the_line(opened: Open, report: Path):
    page = opened(report).drawn().page
    assert page.locator("#chart svg g.dots_marks path").count() == 6
    assert page.locator("#chart svg g.without_marks path").count() == 2
    assert page.locator("#chart svg g.mark-line path").count() == 1
    legend = page.locator("#chart svg g.role-legend text").all_text_contents()
    assert legend == ["kept", "discarded", "crashed", "above the axis"]
    assert "1 beyond the axis" in page.locator("#chart svg").text_content()
    assert "from 1 to 0.8 in 2 kept changes" in page.locator("#chart-text").text_content()


def test_pointing_at_a_dot_tells_title_value_and_reason(opened: Open, report: Path):
    page = opened(report).drawn().page
    page.mouse.move(*at(page, 1))
    tip = page.locator("#chart .tip")
    assert tip.locator("b").text_content() == "Raise the rate"
    assert "1 · discarded · 1.1" in tip.text_content() and "worse by 0.1" in tip.text_content()
    page.mouse.move(*at(page, 3))
    assert "exit code 1" in tip.text_content()
    page.mouse.move(5, 5)
    assert tip.count() == 0


def test_a_click_opens_the_change_and_escape_gives_the_focus_back(opened: Open, report: Path):
    page = opened(report).drawn().page
    page.mouse.click(*at(page, 2))
    panel = page.locator("#panel")
    panel.wait_for(state="visible")
    assert page.locator("#panel-title").text_content() == "Warm up"
    assert page.url.endswith("#attempt-2")
    assert panel.locator("tr.added td:last-child").all_text_contents() == ["+warm = 1"]
    assert panel.locator("tr.removed").count() == 12 and panel.locator("tr.file").text_content() == "train.py"
    colours = [
        panel.locator(f"tr.{kind} td").first.evaluate("e => getComputedStyle(e).backgroundColor")
        for kind in ("added", "removed")
    ]
    assert len(set(colours)) == 2
    assert "It diverges at the start." in panel.text_content()
    page.keyboard.press("Escape")
    panel.wait_for(state="hidden")
    until(page, "!location.hash && document.activeElement.id === 'chart'")


def test_by_keyboard_alone(opened: Open, report: Path):
    page = opened(report).drawn().page
    page.locator("#chart").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    assert page.locator("#chart-said").text_content() == "2, kept, 0.9: Warm up"
    page.keyboard.press("Enter")
    page.locator("#panel").wait_for(state="visible")
    page.keyboard.press("ArrowRight")
    assert page.locator("#panel-title").text_content() == "Too deep"
    assert "MemoryError" in page.locator("#panel pre").first.text_content()
    page.keyboard.press("Escape")
    page.locator("#rows a").first.focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.textContent") == "1"
    page.keyboard.press("Enter")
    assert page.locator("#panel-title").text_content() == "Raise the rate"
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.textContent") == "1"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('#rows')") is None, "Tab leaves the list"


def test_an_address_leads_to_an_attempt_and_back(opened: Open, report: Path):
    page = opened(report, fragment="#attempt-7").drawn().page
    page.locator("#panel").wait_for(state="visible")
    assert page.locator("#panel-title").text_content() == "Cool down"
    assert "train.py" in page.locator("#panel tr.file").text_content()
    page.keyboard.press("Escape")
    until(page, "document.activeElement.textContent === '7' && document.activeElement.closest('#rows')")
    page.locator("#tree a", has_text="3").hover()
    assert page.locator("#tree a", has_text="3").get_attribute("title") == "crashed: Too deep\nexit: exit code 1"
    page.locator("#tree a", has_text="5").first.click()
    assert "MemoryError" not in page.locator("#panel").text_content()
    page.go_back()
    page.locator("#panel").wait_for(state="hidden")


def test_a_long_patch_says_where_the_rest_is(opened: Open, tmp_path: Path):
    long = {"train.py": "".join(f"line number {n}\n" for n in range(5000)).encode()}
    page = opened(
        write_page(tmp_path, [Tried("keep", [1.0]), Tried("keep", [0.5], files=long)]), fragment="#attempt-1"
    ).page
    page.locator("#panel").wait_for(state="visible")
    assert page.locator("#panel code").text_content() == "git show refs/ark/t/0001"
    assert page.locator("#panel tr.added").count() > 500


def test_the_table_is_searched_and_filtered(opened: Open, report: Path):
    page = opened(report).drawn().page
    shown = page.locator("#rows tr:not([hidden])")
    assert shown.count() == 8
    page.get_by_role("searchbox").fill("codex")
    until(page, "document.querySelectorAll('#rows tr:not([hidden])').length === 2")
    assert page.locator("#count").text_content() == "2 of 8"
    page.get_by_role("checkbox").last.focus()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "3", "Tab stops at the first that is left"
    page.get_by_role("searchbox").fill("")
    until(page, "document.querySelectorAll('#rows tr:not([hidden])').length === 8")
    page.get_by_role("checkbox", name="discarded").uncheck(force=True)
    until(page, "document.querySelectorAll('#rows tr:not([hidden])').length === 5")
    assert not page.get_by_role("checkbox", name="lost").is_visible()


def test_hostile_text_is_shown_and_does_nothing(opened: Open, report: Path):
    page = opened(report).drawn().page
    for number in (4, 5):
        page.evaluate(f"location.hash = '#attempt-{number}'")
        until(page, f"document.querySelector('#panel header')?.textContent.includes('attempt {number}')")
    assert "</script><script>" in page.locator("#panel").text_content()
    page.evaluate("location.hash = '#attempt-4'")
    until(page, "document.querySelector('#panel header').textContent.includes('attempt 4')")
    assert HOSTILE in page.locator("#panel tr.added").text_content()
    page.keyboard.press("Escape")
    page.mouse.move(*at(page, 4))
    assert "onerror" in page.locator("#chart .tip").text_content()
    assert page.title() == "written · t"
    assert page.locator("img").count() == 0
    assert page.evaluate("[...document.links].every((link) => link.protocol === 'file:')")


def test_no_script_can_be_smuggled_in(opened: Open, report: Path):
    """Also were something not escaped: the page names its scripts by their hashes."""
    found = opened(report).drawn()
    found.page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.smuggled = 1";
          document.body.append(script);
          const image = document.createElement("div");
          image.innerHTML = "<img src='data:,' onerror='window.smuggled = 2'>";
          document.body.append(image);
        }"""
    )
    found.page.wait_for_timeout(200)
    assert found.page.evaluate("window.smuggled") is None
    later = "new Promise((tell) => setTimeout(() => { try { tell(eval('1')); } catch { tell('refused'); } }))"
    assert found.page.evaluate(later) == "refused"
    assert any("Content Security Policy" in error for error in found.errors)
    found.errors.clear()


@pytest.mark.parametrize("width", [360, 390, 768, 1280, 2200])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_any_width_and_is_legible_in_dark_and_light(opened: Open, report: Path, width: int, dark: bool):
    page = opened(report, width=width, dark=dark).drawn().page
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("location.hash = '#attempt-2'")
    page.locator("#panel").wait_for(state="visible")
    assert page.evaluate("document.getElementById('panel').scrollWidth") <= width
    ground, ink = page.evaluate(
        "(({backgroundColor, color}) => [backgroundColor, color])(getComputedStyle(document.body))"
    )
    assert (luminance(ground) < luminance(ink)) == dark
    quiet = page.locator("#chart-text").evaluate("e => getComputedStyle(e).color")
    assert contrast(ground, ink) >= 7 and contrast(ground, quiet) >= 4.5


def test_words_without_end_fit_a_phone(opened: Open, tmp_path: Path):
    endless = {"title": "W" * 10_000, "reason": "R" * 600, "agent": "A" * 80, "why": "Y" * 3000}
    tries = [Tried("keep", [1.0]), Tried("crash", problem="K" * 900, log="L" * 5000, **endless)]
    tries.append(Tried("keep", [1 / 3], **endless, files={"train.py": b"x" * 9000, "p" * 200: b"1\n"}))
    path = write_page(tmp_path, tries, metric="m" * 200, name="N" * 300, goal="G" * 2000)
    page = opened(path, width=360, fragment="#attempt-2").drawn().page
    page.locator("#panel").wait_for(state="visible")
    assert page.evaluate("document.getElementById('panel').scrollWidth") <= 360
    page.keyboard.press("Escape")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.locator("#chart svg g.dots_marks path").count() == 2


def test_the_switch_turns_page_and_chart(opened: Open, report: Path):
    page = opened(report).drawn().page
    colour = "getComputedStyle(document.body).backgroundColor"
    label = "getComputedStyle(document.querySelector('#chart svg text')).fill"
    before = [page.evaluate(colour), page.evaluate(label)]
    page.get_by_role("button", name="light and dark").click()
    until(page, f"{label} !== '{before[1]}'")
    assert page.evaluate(colour) != before[0]


def test_on_paper_it_is_light_and_whole(opened: Open, report: Path):
    page = opened(report, dark=True).drawn().page
    assert page.pdf(format="A4").startswith(b"%PDF")
    until(page, "document.querySelectorAll('main details[open]').length === 0")
    page.emulate_media(media="print")
    assert luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) > 0.9
    assert not page.locator("#theme").is_visible() and not page.locator("#filter").is_visible()
    assert page.locator("#rows tr").last.is_visible()


def test_values_are_written_anew_when_others_need_more_digits(opened: Open, tmp_path: Path):
    page = opened(write_page(tmp_path, [Tried("keep", [1.0]), Tried("keep", [0.99999999])])).drawn().page
    cell = page.locator("#attempt-1 td").nth(2)
    assert cell.text_content() == "0.99999999"
    page.evaluate("ark.update({ chart: { ...ark.document.chart, digits: 6 } })")
    assert cell.text_content() == "1"


def test_paper_has_the_kept_changes_and_the_logs_of_crashes(opened: Open, tmp_path: Path):
    tries = list(TRIES)
    for turn in range(8):
        text = "".join(f"line {n} of {turn}\n" for n in range(900))
        tries.append(Tried("keep", [0.7 - turn / 100], f"long {turn}", files={"train.py": text.encode()}))
    tries += [Tried("crash", [], "boom", problem="exit: 1", log="last words")] * 50
    page = opened(write_page(tmp_path, tries)).drawn().page
    page.evaluate("ark.ready")
    page.wait_for_timeout(300)
    paper = page.locator("#paper")
    assert paper.inner_html() == ""
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert not paper.is_visible()
    page.emulate_media(media="print")
    said = paper.inner_text()
    assert "+warm = 1" in said and "last words" in said
    assert "of 10; the others are in the page itself." in said and "40 of 52;" in said
    assert paper.locator("tr").count() < 3000
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert paper.inner_html() == ""


def test_without_scripts_the_numbers_are_there(opened: Open, report: Path):
    page = opened(report, java_script_enabled=False).page
    assert page.locator("#rows tr").count() == 8
    assert "Warm up" in page.locator("#gains").inner_text()
    assert "needs JavaScript" in page.content()
    assert not page.locator("#filter").is_visible() and not page.locator("#theme").is_visible()


def test_landmarks_names_and_captions(opened: Open, report: Path):
    page = opened(report).drawn().page
    for role in ("banner", "main", "contentinfo", "search"):
        assert page.get_by_role(role).count() == 1, role
    assert page.locator("table").count() == page.locator("table caption").count()
    assert page.locator("section:not([aria-labelledby])").count() == 0
    assert page.locator("#chart").get_attribute("aria-describedby") == "chart-text"
    assert page.locator("html").get_attribute("lang") == "en"
    headings = page.locator("h1, h2").evaluate_all("all => all.map((h) => Number(h.tagName[1]))")
    assert headings[0] == 1 and headings.count(1) == 1
    assert page.evaluate(
        "[...document.querySelectorAll('button')].every((b) => b.getAttribute('aria-label') || b.textContent)"
    )
    assert page.evaluate(
        "((all) => new Set(all).size === all.length)([...document.querySelectorAll('[id]')].map((e) => e.id))"
    )


def test_what_is_new_comes_in_without_a_reload(opened: Open, tmp_path: Path):
    page = opened(write_page(tmp_path, TRIES[:3])).drawn().page
    page.evaluate("window.same = true")
    entry = {
        "number": 3, "outcome": "keep", "value": 0.7, "title": HOSTILE, "label": "New", "gain": 0.2, "agent": "pi",
        "reason": "Keep: 0.9 -> 0.7, better by 0.2", "seconds": 61, "started": "2026-01-01T01:00:00.000Z",
        "details": {"why": "Because.", "patch": "diff --git a/train.py b/train.py\n@@ -1 +1 @@\n-old\n+new\n"},
    }  # fmt: skip
    part = {
        "attempts": [entry],
        "summary": {"tiles": [
            {"key": "best", "label": "best loss", "value": "0.7", "note": "from 1"},
            {"key": "gain", "label": "gain", "value": "none", "note": ""},
        ]},
        "chart": {"low": 0.6, "high": 1.2, "log": False, "last": 3, "marks": ["kept", "discarded"], "text": "Now 0.7.",
                  "best": [{"number": 0, "value": 1.0}, {"number": 2, "value": 0.9}, {"number": 3, "value": 0.7}]},
        "html": {"gains": "<p>counted anew</p>"},
        "live": {"phase": "run"},
    }  # fmt: skip
    page.evaluate("document.addEventListener('ark-live', (event) => { window.told = event.detail.phase; })")
    page.evaluate(f"ark.update({json.dumps(part)})")
    page.wait_for_selector("#chart[data-drawn='4']")
    assert page.locator("#chart svg g.dots_marks path").count() == 4
    assert page.locator("#attempt-3 td.gain").text_content() == "+0.2"
    assert page.locator(".tile[data-key=best] b").text_content() == "0.7"
    color = "document.querySelector('.tile[data-key=gain] b')"
    assert page.evaluate(f"getComputedStyle({color}).color === getComputedStyle(document.body).color"), (
        "none is no gain"
    )
    assert page.locator("#gains").text_content() == "counted anew"
    assert page.locator("#chart-text").text_content() == "Now 0.7."
    assert page.evaluate("[window.told, window.same]") == ["run", True]
    page.locator("#attempt-3 a").click()
    assert page.locator("#panel tr.added").text_content().endswith("+new")
    assert page.locator("img, #panel script").count() == 0
    running = {"number": 4, "outcome": "running", "title": "On its way", "seconds": 0}
    page.evaluate(f"ark.update({json.dumps({'attempts': [running]})})")
    page.wait_for_selector("#chart[data-drawn='5']")
    page.evaluate(f"ark.update({json.dumps({'attempts': [{**running, 'outcome': 'discard', 'value': 0.75}]})})")
    until(page, "document.querySelectorAll('#chart svg g.dots_marks path').length === 5")
    assert page.locator("#rows tr").count() == 5


def test_many_attempts_are_drawn_on_a_canvas_that_is_not_blank(opened: Open, tmp_path: Path):
    tries = [
        Tried("keep" if n % 40 == 0 else "discard", [1 - n / 9000 + (n % 7) / 100], f"idea {n}") for n in range(1700)
    ]
    page = opened(write_page(tmp_path, tries)).drawn().page
    colours = page.evaluate(
        """() => {
          const canvas = document.querySelector("#chart canvas");
          const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
          const found = new Set();
          for (let at = 0; at < data.length; at += 4) found.add(`${data[at]},${data[at + 1]},${data[at + 2]}`);
          return [...found];
        }"""
    )
    assert "0,158,115" in colours and len(colours) > 20
    box = page.locator("#chart").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert page.locator("#chart .tip").count() == 1


def test_of_many_attempts_a_part_is_laid_out_and_all_can_be_reached(opened: Open, tmp_path: Path):
    tries = [Tried("discard" if n else "keep", [1.0 + n % 5], f"idea {n}") for n in range(1100)]
    page = opened(write_page(tmp_path, tries), fragment="#attempt-1050").drawn().page
    page.locator("#panel").wait_for(state="visible")
    assert page.locator("#panel-title").text_content() == "idea 1050"
    page.keyboard.press("ArrowRight")
    assert page.locator("#panel-title").text_content() == "idea 1051"
    page.keyboard.press("Escape")
    shown = "document.querySelectorAll('#rows tr:not([hidden])').length"
    assert page.evaluate(shown) < 1100
    page.get_by_role("searchbox").fill("idea 109")
    until(page, f"{shown} === 11")
    page.get_by_role("searchbox").fill("")
    until(page, f"{shown} > 11")
    for _ in range(3):
        page.evaluate("document.getElementById('more').scrollIntoView()")
        page.wait_for_timeout(150)
    until(page, f"{shown} === 1100")
    assert not page.locator("#more").is_visible()


@pytest.mark.parametrize(
    "tries", [[], [Tried("keep", [0.0])], [Tried("crash", problem="exit: 1")] * 3, [Tried("running")]]
)
def test_nearly_nothing_opens_too(opened: Open, tmp_path: Path, tries: list[Tried]):
    if tries:
        path = write_page(tmp_path, tries)
    else:
        path, empty = tmp_path / "report.html", Campaign("t", (), "loss", False)
        path.write_text(render(empty, document(empty, {})), "utf-8")
    page = opened(path).page
    until(page, "document.querySelector('#chart[data-drawn]') || document.querySelector('#chart p')")
    assert page.locator("#rows tr").count() == len(tries)


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, as WCAG has it."""
    parts = [int(part) / 255 for part in colour.strip("rgba()").split(",")[:3]]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)
