"""The document of a report, the page without a browser, and the verb.   pytest tests/views/test_report.py"""

from __future__ import annotations

import base64
import gzip
import html.parser
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from written import Tried, git, write_repository, write_run

from autoresearch_kit.campaigns import find_campaign, latest_campaign
from autoresearch_kit.cli import main
from autoresearch_kit.core.interval import estimate
from autoresearch_kit.core.records import Cost, Measurement
from autoresearch_kit.core.verification import Arm, Sample, State, Verification
from autoresearch_kit.ledger.verified import begin, finish
from autoresearch_kit.project import open_project
from autoresearch_kit.views.report import page, runtime
from autoresearch_kit.views.report.crashes import failure
from autoresearch_kit.views.report.data import read_document
from autoresearch_kit.views.report.pack import PACKED_BYTES, PATCH_CHARACTERS, plain_patch

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \"'`{{7*7}} javascript:alert(3)"


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's own git configuration; one cache for all tests, because making Vega takes a second."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "shared-cache"))
    monkeypatch.setenv("NO_COLOR", "1")


def campaign_of(folder: Path, name: str | None = None) -> tuple[Any, dict[str, Any]]:
    project = open_project(folder)
    try:
        found = latest_campaign(project, name)
        return found, read_document(project.repository, found)
    finally:
        project.repository.close()


def document_of(folder: Path, name: str | None = None) -> dict[str, Any]:
    return campaign_of(folder, name)[1]


def unpacked(text: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(text)))


def ark(*args: str) -> Any:
    return CliRunner().invoke(main, args, prog_name="ark")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    folder = write_repository(tmp_path / "p")
    return write_run(
        folder,
        [
            Tried("keep", [1.0], "baseline"),
            Tried("discard", [1.1], "worse", files={"train.py": b"worse\n"}),
            Tried(
                "keep",
                [0.9, 0.91],
                "better",
                heads=[1.0, 1.01],
                cost=Cost(10, 1000, 0.5),
                files={"train.py": b"better\n"},
            ),
            Tried("crash", [], "boom", problem="exit: exit code 1", log="Traceback\nKeyError: 'x'", agent="codex"),
            Tried("crash", [], "late", problem="timeout: no end after 600 s", agent="codex", cost=Cost(5, 200, 0.25)),
            Tried("keep", [0.8], "best", agent="codex", files={"train.py": b"best\n", "data.bin": b"\0\1\2\xff" * 9}),
            Tried("lost", [], "gone"),
            Tried("running", [], "now"),
        ],
    )


def test_the_document_tells_how_the_run_stands(small: Path):
    found = document_of(small)
    summary = found["summary"]
    assert (summary["baseline"], summary["best"], summary["best_attempt"]) == (1.0, 0.8, 5)
    counts = [summary[name] for name in ("attempts", "kept", "discarded", "crashes", "lost", "running")]
    assert counts == [6, 2, 1, 2, 1, 1]  # what runs is told and not counted
    assert summary["tiles"][2]["note"] == "2 kept, 1 discarded, 2 crashed, 1 lost, 1 running"
    assert summary["gain_percent"] == pytest.approx(20)
    assert summary["cost"] == {"seconds": 15, "tokens": 1200, "money": 0.75}
    assert [tile["key"] for tile in summary["tiles"]] == ["best", "gain", "attempts", "time", "cost"]
    assert summary["tiles"][1]["note"] == "over the baseline, not verified"


def test_gains_are_ranked_and_add_up(small: Path):
    rows = document_of(small)["gains"]
    assert [row["number"] for row in rows] == [5, 2]
    assert sum(row["share"] for row in rows) == pytest.approx(100)
    assert rows[0]["gain"] == pytest.approx(0.105)


@pytest.mark.parametrize(
    ("log", "kind"),
    [
        ("Traceback (most recent call last):\n  File x\nMemoryError", "MemoryError"),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried 2 GiB\n\n", "torch.OutOfMemoryError"),
        ("AssertionError: shapes\nmake: *** [Makefile:3: run] Error 1", "AssertionError"),
        ("Traceback (most recent call last):\n  raise x\nmodel.Diverged: nan", "model.Diverged"),
        ("sh: line 1: 12 Segmentation fault (core dumped) ./a", "segmentation fault"),
        ("kernel.c:12:5: error: expected ';'\nmake: *** [all] Error 1", "compile error"),
        ("make: *** [Makefile:3: run] Error 2", "make error"),
        ("a: b.c:3: main: Assertion `x > 0' failed.\n", "assertion failed"),
        ("step 1 loss 0.3\nDone: nothing of the kind", None),
        ("<img src=x onerror=alert(1)>Error: x", None),
        ("A" * 100_000 + "Error", None),
        (f"{'a.' * 50_000}Error", None),
        (f"ValueError{chr(10) * 100}{'x' * 60}\n" + "y\n" * 60, None),
        ("", None),
    ],
)
def test_the_end_of_a_log_tells_the_kind_of_a_crash(log: str, kind: str | None):
    found = failure(log)
    assert (found and found[0]) == kind
    assert not found or len(found[1]) <= 300


def test_crashes_costs_and_tree(small: Path):
    found = document_of(small)
    assert [(row["kind"], row["numbers"], row["example"]) for row in found["crashes"]] == [
        ("KeyError", [3], "KeyError: 'x'"),
        ("timeout", [4], "no end after 600 s"),
    ]
    assert [(row["agent"], row["attempts"], row["kept"], row["crashes"]) for row in found["costs"]] == [
        ("claude", 3, 1, 0),
        ("codex", 3, 1, 2),
        ("all", 6, 2, 2),
    ]
    assert found["costs"][2]["money_per_percent"] == "at least 0.038"  # 0.75 and what is not known for 19.5 %
    assert [(node["number"], [one["number"] for one in node["tried"]]) for node in found["tree"]] == [
        (0, [1]),
        (2, [3, 4]),
        (5, [6, 7]),
    ]


def test_details_hold_reason_log_and_patch(small: Path):
    found = document_of(small)
    entries, details = unpacked(found["packed"]["attempts"]), unpacked(found["packed"]["details"])
    assert [entry["number"] for entry in entries] == list(range(8))
    assert entries[3]["problem"] == "exit: exit code 1" and "value" not in entries[3]
    assert details["3"]["log"].endswith("KeyError: 'x'")
    assert details["2"]["values"] == [0.9, 0.91] and details["2"]["head_values"] == [1.0, 1.01]
    assert "+better" in details["2"]["patch"] and "-VALUE_0 = 0" in details["2"]["patch"]
    assert "Binary files /dev/null and b/data.bin differ" in details["5"]["patch"]
    assert found["left_out"] == 0
    assert found["show"] == "git show refs/ark/t/NNNN"


def verify(folder: Path, tag: str, number: int) -> None:
    """Record a verification of an attempt as the head."""
    project = open_project(folder)
    first, head = (git(folder, "rev-parse", f"refs/ark/{tag}/{n:04d}").strip() for n in (0, number))
    verification = Verification(
        tag=tag, project="written", spec="autoresearch-config.yaml", metric="loss", maximize=False,
        baseline=Arm(0, first), head=Arm(number, head), tree=git(folder, "rev-parse", f"{head}^{{tree}}").strip(),
        yardstick="y", machine="Linux test", version="0.1.0", runs=12, started="2026-01-02T03:04:05.678Z",
    )  # fmt: skip
    gain = estimate([(1.0 + n / 1000, 0.8 + n % 3 / 1000) for n in range(6)], maximize=False)
    sample = Sample("baseline", Measurement(1.0, {}, "", 1.5, "", 7, "Linux test"))
    done = replace(begin(project.repository, verification), state=State.DONE, gain=gain, samples=(sample,))
    finish(project.repository, done)
    project.repository.close()


def test_what_may_be_claimed_depends_on_noise_and_verification(small: Path):
    said = " ".join(document_of(small)["claims"]["sentences"])
    assert "kept because it looked good" in said and "`ark verify`" in said
    assert (
        "The noise of one measurement, its standard deviation, is 0.00" in said
        and "%) (" not in said
        and "The smallest gain that is found" in said
    )
    verify(small, "t", 5)
    found = document_of(small)
    assert found["claims"]["headline"].startswith("written, run t: better by")
    assert any(line.startswith("gain") for line in found["claims"]["block"])
    assert "looked good" not in " ".join(found["claims"]["sentences"])
    assert found["summary"]["tiles"][1]["note"] == "over the baseline"


def test_a_verification_of_what_is_no_longer_the_head_is_told_as_such(small: Path):
    verify(small, "t", 2)
    found = document_of(small)
    assert found["claims"]["headline"] == "" and not found["claims"]["block"]
    assert "The last verification is of attempt 2, which is no longer the head." in found["claims"]["sentences"]
    assert found["summary"]["tiles"][1]["note"] == "over the baseline, not verified"


def test_a_run_without_noise_claims_its_gain(tmp_path: Path):
    folder = write_run(write_repository(tmp_path / "p"), [Tried("keep", [1.0, 1.0]), Tried("keep", [0.5], "half")])
    said = " ".join(document_of(folder)["claims"]["sentences"])
    assert "there was no luck to be had" in said and "owe something to luck" not in said


@pytest.mark.slow
def test_kept_values_are_told_apart_and_the_baseline_is_accounted_for(tmp_path: Path):
    folder = write_repository(tmp_path / "p", metric_direction="maximize")
    write_run(folder, [Tried("keep", [1.0]), Tried("keep", [1 + 1e-9], "LANES 8 -> 16, cc -O3 a-b")], maximize=True)
    campaign, found = campaign_of(folder)
    assert [node["words"] for node in found["tree"]] == ["1", "1.000000001"]
    text = page.page(campaign, found)
    assert text.count(">1.000000001<") == 3, "tile, tree and table"
    assert '8 <span class="joined">-&gt;</span> 16, cc <span class="joined">-O</span>3 a-b' in text
    measuring = sum(a.seconds for a in campaign.attempts) - found["summary"]["baseline_seconds"]
    assert measuring == sum(a.seconds for a in campaign.tried) and "Measuring the baseline took" in text


class Rows(html.parser.HTMLParser):
    """Elements of a page, with what a browser would run or load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(folder: Path, name: str | None = None, live: bool = False) -> str:
    return page.page(*campaign_of(folder, name), live=live)


def test_the_page_has_the_tables_in_it_and_names_no_other_place(small: Path):
    text = page_of(small)
    rows = Rows(text)
    assert [row["id"] for row in rows.of("tr") if "id" in row] == [f"attempt-{n}" for n in range(8)]
    assert "Rendered by ark" in text and "Interactive Data Lab" in text
    assert not [a for _, a in rows.elements if a.get("src") or not str(a.get("href", "#")).startswith(("#", "data:,"))]
    policy = next(a["content"] for a in rows.of("meta") if a.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy and "connect-src 'none'" in policy
    assert [a.get("type", "") for a in rows.of("script")] == ["application/json", "text/plain", ""]


def test_the_same_ledger_gives_the_same_page(small: Path):
    assert page_of(small) == page_of(small)


def test_whatever_agents_and_programs_write_stays_text(tmp_path: Path):
    folder = write_repository(tmp_path / "p", name=HOSTILE, goal=HOSTILE, metric="loss")
    hostile = {"title": HOSTILE, "why": HOSTILE, "reason": f"Discard: {HOSTILE}", "agent": HOSTILE}
    patch = {"train.py": HOSTILE.encode() + b"\n", f"{HOSTILE.replace('/', '')}\u2028.py": b"x\n"}
    tries = [
        Tried("keep", [1.0], HOSTILE),
        Tried("crash", [], problem=f"{HOSTILE}: {HOSTILE}", log=HOSTILE, **hostile),
        Tried("keep", [0.5], files=patch, **hostile),
    ]
    write_run(folder, tries)
    text = page_of(folder)
    rows = Rows(text)
    assert len(rows.of("script")) == 3 and not rows.of("img")
    assert not [a for _, a in rows.elements if any(name.startswith("on") for name in a)]
    assert not [a for a in rows.of("a") if not str(a["href"]).startswith("#")]
    assert "alert(1)" in text and "49" not in str(document_of(folder)["gains"])
    data = text.partition('id="ark-data">')[2].partition("</script>")[0]
    assert not set("<>&\u2028") & set(data)
    assert json.loads(data)["metric"] == "loss"
    details = unpacked(json.loads(data)["packed"]["details"])
    assert "<script>alert(1)" in details["2"]["patch"]  # as data: the page puts it in as text


def test_hidden_characters_of_a_patch_are_named():
    assert plain_patch("+a\u202eb\x1b[31m\u200b\tc\r\n\udcff")[0] == "+a<U+202E>b<U+001B>[31m<U+200B>\tc\n\ufffd"
    shown, cut = plain_patch("+line\n" * 10_000)
    assert cut and len(shown) < PATCH_CHARACTERS and shown.endswith("+line")


@pytest.mark.slow
def test_a_thousand_attempts_fit_whatever_is_in_their_patches(tmp_path: Path):
    dice, folder = random.Random(0), write_repository(tmp_path / "p")
    tries = [Tried("keep", [1.0], "baseline")]
    for number in range(1, 1000):
        noise = "".join(f"{dice.random()}\n" for _ in range(300)).encode()
        outcome = "keep" if number % 50 == 0 else "discard"
        title, reason = (
            f"idea {number} with a title of some length",
            f"Discard: 1.0 -> {dice.random()}, worse by it (2 %)",
        )
        why = "A reason of some length. " * 8
        tries.append(Tried(outcome, [1 - number / 1e4], title, why, reason, files={"train.py": noise}))
    write_run(folder, tries)
    campaign, found = campaign_of(folder)
    assert len(page.page(campaign, found).encode()) < 1_500_000
    inside = unpacked(found["packed"]["details"])
    assert 0 < found["left_out"] == 1000 - len(inside)
    assert {str(number) for number in range(0, 1000, 50)} <= inside.keys(), "what was kept comes first"
    assert len(found["packed"]["details"]) < PACKED_BYTES + 60_000


@pytest.mark.parametrize("tries", [["crash"] * 3, ["keep"], ["running"], ["keep", "crash"]])
def test_runs_that_came_to_nothing_have_a_page(tmp_path: Path, tries: list[str]):
    folder = write_repository(tmp_path / "p")
    write_run(folder, [Tried(o, [0.0] * (o == "keep"), problem="exit: 1" * (o == "crash")) for o in tries])
    text = page_of(folder)
    assert len([row for row in Rows(text).of("tr") if "id" in row]) == len(tries)


def test_a_baseline_of_zero_and_higher_is_better(tmp_path: Path):
    folder = write_repository(tmp_path / "p", metric_direction="maximize")
    write_run(folder, [Tried("keep", [0.0]), Tried("keep", [5.0], "five")], maximize=True)
    found = document_of(folder)
    assert found["gains"][0]["percent"] == "" and found["summary"]["tiles"][1]["value"] == "+5"
    write_run(folder, [Tried("keep", [10.0]), Tried("keep", [95.0], "nine")], "u", maximize=True)
    assert document_of(folder, "u")["summary"]["tiles"][1]["value"] == "9.5 times", "as everywhere"


def test_what_another_loop_left_has_a_page_too(tmp_path: Path):
    folder = write_repository(tmp_path / "p")
    rows = [
        "commit\tloss\tmemory_gb\tstatus\tdescription",
        "a1\t1.0\t4.0\tkeep\tbaseline",
        "b2\t0.000000\t0.0\tcrash\toops",
    ]
    (tmp_path / "results.tsv").write_text(
        "\n".join([*rows, "c3\t0.9\t4.1\tkeep\tbetter", "d4\t1.2\t4.1\tdiscard\tworse"])
    )
    project = open_project(folder)
    campaign = find_campaign(project, str(tmp_path / "results.tsv"))
    found = read_document(project.repository, campaign)
    project.repository.close()
    assert found["summary"]["kept"] == 1 and found["show"] == ""
    assert "`ark` measured none of them" in " ".join(found["claims"]["sentences"])
    assert [node["number"] for node in found["tree"]][-1] == 2
    assert "<table" in page.page(campaign, found)


def test_a_branch_without_its_ledger_has_a_page(small: Path):
    git(small, "update-ref", "refs/heads/copy", "refs/heads/autoresearch/t")
    for number in range(8):
        git(small, "update-ref", "-d", f"refs/ark/t/{number:04d}")
    campaign, found = campaign_of(small, "copy")
    assert [node["number"] for node in found["tree"]] == [0, 2, 5]
    assert "only kept attempts" in page.page(campaign, found)


# Vega in the cache


def test_a_spoiled_cache_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(runtime, "_make", lambda: "window.vega = 1;")
    made = runtime.load_runtime()
    (path,) = (tmp_path / "cache" / "ark").glob("vega-*")
    good = path.read_text()
    for spoiled in (
        "",
        "x\ny\n",
        good[:-20],
        good.replace("H4s", "H4t"),
        good.replace(made.digest, runtime.digest("other")),
    ):
        path.write_text(spoiled)
        assert runtime.load_runtime() == made
        assert path.read_text() == good
    monkeypatch.setattr(runtime, "_make", lambda: "another")
    assert runtime.load_runtime() == made, "it is read from there"


def test_a_cache_that_cannot_be_written_is_no_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(runtime, "_make", lambda: "window.vega = 1;")
    assert runtime.load_runtime().digest == runtime.digest("window.vega = 1;")


# The verb


def test_the_report_gets_a_name_that_git_does_not_show(small: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(small)
    done = ark("report")
    assert (done.exit_code, done.output) == (0, "ark-report-t.html\n")
    text = (small / "ark-report-t.html").read_text()
    assert git(small, "status", "--short") == ""
    assert "The spec as run" in text and "The program that its agents read" in text
    assert ark("report", "-o", "-").stdout == text
    assert ark("report", "-o", "mine.html", "--tag", "autoresearch/t").output == "mine.html\n"
    assert git(small, "status", "--short").split() == ["??", "mine.html"]


def test_the_chart_alone(small: Path, tmp_path: Path):
    done = ark("report", str(small), "--plot", str(tmp_path / "a.svg"))
    assert (done.exit_code, done.output) == (0, f"{tmp_path / 'a.svg'}\n")
    assert (tmp_path / "a.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--plot", "a.jpg"], "a.jpg is neither a .png nor a .svg"),
        (["--tag", "nope"], "there is no run, branch or file called nope"),
        (["--tag", "main"], "branch main is not a run"),
        (["-o", "missing/a.html"], "missing/a.html cannot be written"),
        (["--plot", "a.svg", "-o", "a.html"], "-o and --plot exclude each other"),
    ],
)
def test_mistakes_get_a_sentence(small: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], said: str):
    monkeypatch.chdir(small)
    done = ark("report", *options)
    assert done.exit_code in (1, 2) and said in done.stderr and "Traceback" not in done.stderr


def test_without_a_run_there_is_a_sentence(tmp_path: Path):
    done = ark("report", str(write_repository(tmp_path / "p")))
    assert done.exit_code == 2 and "there is no run of this project yet" in done.stderr
