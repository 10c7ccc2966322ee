"""Runs side by side.   pytest tests/views/test_compare.py"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from recorded_runs import HERE, SPEC, Made, Try, turned

from autoresearch_kit.core.records import Cost, Proposal
from autoresearch_kit.core.words import digits
from autoresearch_kit.ledger.ledger import Ledger
from autoresearch_kit.views.worktime import elapsed

TABLE = (
    "commit\tloss\tmemory_gb\tstatus\tdescription\na1b2c3d\t1.0\t2.0\tkeep\tbaseline\nb2c3d4e\t0.8\t2.0\tkeep\twider\n"
)


def by_tag(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {run["tag"]: run for run in found["runs"]}


def test_two_runs_side_by_side_with_the_keys_of_the_contract(made: Made) -> None:
    made.run("one", [Try(0.9, kept=True, files=turned(LR=0.2)), Try(None), Try(0.95, files=turned(LR=0.3))])
    made.run("two", [Try(0.8, kept=True, files=turned(DEPTH=5))])
    runs = made.compare()["runs"]
    assert [run["tag"] for run in runs] == ["two", "one"]
    keys = {"tag", "branch", "attempts", "kept", "crashes", "baseline", "best", "gain_percent", "comparable", "why_not"}
    assert keys <= runs[0].keys()
    one = runs[1]
    assert (one["attempts"], one["kept"], one["discarded"], one["crashes"]) == (3, 1, 1, 1)
    assert (one["baseline"], one["best"], one["branch"]) == (1.0, 0.9, "autoresearch/one")
    assert one["gain_percent"] == pytest.approx(10)
    assert [(run["rank"], run["group"], run["comparable"]) for run in runs] == [(1, 1, True), (2, 1, True)]


def test_names_choose_the_runs_and_a_last_folder_with_a_spec_is_the_project(made: Made, tmp_path: Path) -> None:
    for tag in ("one", "two", "three"):
        made.run(tag, [])
    assert set(by_tag(made.compare("one", "autoresearch/two"))) == {"one", "two"}
    elsewhere = Made(tmp_path)
    assert set(by_tag(elsewhere.compare("three", str(made.folder)))) == {"three"}
    assert set(by_tag(elsewhere.compare(str(made.folder / "autoresearch-config.yaml")))) == {"one", "two", "three"}


def test_time_pauses_and_cost(made: Made) -> None:
    """A night's pause is no time at work; what no agent told is null, never 0."""
    cost = Cost(30.0, 1000, None)
    made.run(
        "one",
        [
            Try(0.9, kept=True, files=turned(LR=0.2), started="2026-01-02T03:02:00.000Z", cost=cost),
            Try(0.95, files=turned(LR=0.3), started="2026-01-03T03:00:00.000Z", agent="codex"),
        ],
    )
    run = made.compare()["runs"][0]
    assert run["seconds_to_best"] == 180
    assert run["seconds"] == 240  # two minutes, the first try, and of the pause nothing; then the second try
    assert run["attempts_to_best"] == 1
    assert run["attempts_per_hour"] == pytest.approx(30)
    assert run["cost"] == {"seconds": 30.0, "tokens": 1000, "money": None}
    assert [(agent["agent"], agent["attempts"], agent["kept"]) for agent in run["agents"]] == [
        ("claude", 1, 1),
        ("codex", 1, 0),
    ]
    assert run["agents"][1]["cost"] == {"seconds": None, "tokens": None, "money": None}


def test_a_gain_has_an_interval_only_when_fresh_runs_of_this_head_gave_one(made: Made) -> None:
    attempts = made.run("one", [Try(0.9, kept=True, files=turned(LR=0.2), noise=0.01)])
    run = made.compare()["runs"][0]
    assert run["verified"] is None
    assert "no interval" in run["gain_note"]
    made.verify("one", [(1.0, 0.9), (1.02, 0.93), (0.99, 0.91)], attempts[-1], attempts[0])
    found = made.compare()["runs"][0]["verified"]
    assert found["is_of_best"]
    assert found["gain"]["low"] < found["gain"]["value"] < found["gain"]["high"]
    assert found["percent"]["low"] > 0
    assert "interval" not in made.ark("compare")
    assert "verified by 3 pairs" in made.ark("compare")


def test_a_verification_of_an_earlier_head_is_not_the_gain_of_this_one(made: Made) -> None:
    attempts = made.run("one", [Try(0.9, kept=True, files=turned(LR=0.2)), Try(0.8, kept=True, files=turned(LR=0.4))])
    made.verify("one", [(1.0, 0.9), (1.02, 0.93), (0.99, 0.91)], attempts[1], attempts[0])
    run = made.compare()["runs"][0]
    assert not run["verified"]["is_of_best"]
    assert "attempt 1" in run["gain_note"]


@pytest.mark.parametrize(
    ("spec", "files", "said"),
    [
        ({"metric": "accuracy"}, {}, "metric is accuracy, not loss"),
        ({"metric_direction": "maximize"}, {}, "higher is better, not lower"),
        ({"budget_minutes": 7}, {}, "budget_minutes is 7.0, not 5.0"),
        ({"run_command": "python3 " + 80 * "x"}, {}, "run_command differs"),
        (None, {"data.py": "N = 2\n", "more.py": "x\n"}, "other files than the mutable ones differ: data.py, more.py"),
        (None, {"train.py": turned(LR=7)["train.py"]}, ""),
    ],
)
def test_what_differs_is_named(made: Made, spec: dict[str, Any] | None, files: dict[str, str], said: str) -> None:
    made.run("one", [Try(0.9, kept=True, files=turned(LR=0.2))])
    made.commit(spec, **files)
    made.run("two", [Try(0.5, kept=True, files=turned(LR=0.3))])
    runs = by_tag(made.compare("one", "two"))
    assert runs["one"]["comparable"]
    assert runs["two"]["comparable"] == (not said)
    assert said in runs["two"]["why_not"]
    if said:
        assert (runs["two"]["group"], runs["two"]["rank"]) == (2, 1)
        assert said in made.ark("compare", "one", "two", columns=300)


def test_another_machine_is_shown_and_not_ranked_with_this_one(made: Made) -> None:
    """The one active last, or named first, is what others are held against."""
    made.run("one", [Try(0.9, kept=True, files=turned(LR=0.2))])
    other = Try(0.1, kept=True, files=turned(LR=0.3), machine="Darwin arm64")
    made.run("two", [other], baseline=Try(1.0, kept=True, machine="Darwin arm64"))
    runs = by_tag(made.compare("one", "two"))
    assert runs["two"]["why_not"] == f"machine is Darwin arm64, not {HERE}"
    assert by_tag(made.compare("two", "one"))["one"]["why_not"] == f"machine is {HERE}, not Darwin arm64"
    text = made.ark("compare", "one", "two", columns=200)
    assert "Not comparable: B, two" in text
    assert "ends better" not in text


def test_runs_of_another_spec_of_the_repository_are_told_apart(made: Made) -> None:
    made.run("one", [])
    below = made.folder / "other"
    below.mkdir()
    (below / "autoresearch-config.yaml").write_text(json.dumps(SPEC))
    (below / "train.py").write_text("LR = 1\n")
    made.git("add", ".")
    made.git("commit", "-qm", "another project")
    Made(below).run("two", [])
    assert set(by_tag(made.compare())) == {"one"}
    assert set(by_tag(Made(below).compare())) == {"two"}
    assert "another spec" in by_tag(made.compare("one", "two"))["two"]["why_not"]


# Two machines


def test_two_clones_that_pushed_and_fetched_compare(made: Made, tmp_path: Path) -> None:
    hub = Made(tmp_path / "hub.git")
    made.git("clone", "-q", "--bare", str(made.folder), str(hub.folder))
    here, there = hub.clone(tmp_path / "here"), hub.clone(tmp_path / "there")
    here.run("mine", [Try(0.9, kept=True, files=turned(LR=0.2))])
    attempts = there.run("theirs", [Try(0.7, kept=True, files=turned(DEPTH=6)), Try(None)])
    there.verify("theirs", [(1.0, 0.7), (1.1, 0.75), (1.0, 0.72)], attempts[1], attempts[0])
    there.push()
    here.fetch()
    runs = by_tag(here.compare())
    assert set(runs) == {"mine", "origin/theirs"}
    assert runs["origin/theirs"]["rank"] == 1
    assert runs["origin/theirs"]["crashes"] == 1
    assert runs["origin/theirs"]["branch"] == "origin/autoresearch/theirs"
    assert runs["origin/theirs"]["verified"]["is_of_best"]
    assert runs["origin/theirs"]["verified"]["ref"] == "refs/ark-remotes/origin/theirs/verify/0001"
    assert here.git("rev-parse", "--verify", runs["origin/theirs"]["verified"]["ref"])


def test_after_a_plain_git_fetch_the_branch_alone_counts_with_what_is_known(made: Made, tmp_path: Path) -> None:
    made.run("theirs", [Try(None), Try(0.7, kept=True, files=turned(DEPTH=6)), Try(None)])
    here = made.clone(tmp_path / "here")
    run = here.compare()["runs"][0]
    assert (run["tag"], run["source"]) == ("origin/autoresearch/theirs", "branch")
    assert (run["kept"], run["attempts"], run["crashes"], run["attempts_to_best"]) == (1, None, None, 2)
    assert (run["seconds"], run["attempts_per_hour"]) == (None, None)
    assert "only kept attempts" in run["notes"][0]
    assert "1 of ?" in here.ark("compare")


def test_the_same_run_under_two_names_is_one_row(made: Made, tmp_path: Path) -> None:
    made.run("one", [Try(0.9, kept=True, files=turned(LR=0.2))])
    here = made.clone(tmp_path / "here")
    here.fetch()
    here.git("fetch", "-q", "origin", "refs/ark/*:refs/ark/*", "refs/heads/autoresearch/*:refs/heads/autoresearch/*")
    assert [run["tag"] for run in here.compare()["runs"]] == ["one"]
    named = here.compare("origin/one", "one", "origin/autoresearch/one", "one")["runs"]
    assert [run["tag"] for run in named] == ["one"]
    assert "origin/one" in named[0]["same_as"]
    assert "the same run" in here.ark("compare", "origin/one", "one", columns=200)


# What other tools left


def test_a_table_of_another_tool_is_shown_beside_and_ranked_with_nothing(made: Made, tmp_path: Path) -> None:
    made.run("one", [Try(0.9, kept=True, files=turned(LR=0.2))])
    path = tmp_path / "results.tsv"
    path.write_text(TABLE)
    runs = made.compare("one", str(path))["runs"]
    assert [(run["source"], run["rank"]) for run in runs] == [("ark", 1), ("results.tsv", None)]
    assert "made by another tool" in runs[1]["why_not"]
    assert (runs[1]["best"], runs[1]["seconds"], runs[1]["attempts_per_hour"]) == (0.8, None, None)
    first = made.compare(str(path), "one")["runs"]
    assert [run["tag"] for run in first] == ["one", str(path)]  # nothing can be held against what says so little


def test_a_branch_that_carries_a_table(made: Made) -> None:
    made.git("switch", "-qc", "their/loop")
    made.commit(**{"results.tsv": TABLE})
    made.git("switch", "-q", "main")
    run = made.compare("their/loop")["runs"][0]
    assert (run["tag"], run["source"], run["best"]) == ("their/loop", "results.tsv", 0.8)
    assert not run["comparable"]


# What there may be instead of a good run


def test_no_run(made: Made) -> None:
    assert "there is no run of this project yet" in made.ark("compare", code=2)


def test_what_is_nothing_is_one_sentence(made: Made, tmp_path: Path) -> None:
    made.run("one", [])
    assert "no run, branch or file called nothing" in made.ark("compare", "nothing", code=2)
    assert "is not a run" in made.ark("compare", "main", code=2)
    (tmp_path / "results.tsv").write_text("no\nhistory\n")
    assert "no history" in made.ark("compare", str(tmp_path / "results.tsv"), code=2)
    (tmp_path / "empty").mkdir()
    assert "holds none of" in made.ark("compare", str(tmp_path / "empty"), code=2)


def test_a_run_whose_baseline_never_ended(made: Made) -> None:
    made.run("bare", [])
    with made.opened() as project:
        head = project.repository.head()
        ledger = Ledger(project.repository, "autoresearch", "begun", project.spec_name)
        ledger.reserve(0, Proposal("Baseline"), tree=project.repository.tree_of(head), parent=head, yardstick="y")
    run = by_tag(made.compare())["begun"]
    assert (run["baseline"], run["best"], run["gain_percent"], run["rank"]) == (None, None, None, None)
    assert run["why_not"] == "no baseline was measured"
    assert "begun" in made.ark("compare")


def test_a_baseline_alone_and_nothing_but_crashes(made: Made) -> None:
    made.run("alone", [])
    made.run("crashed", [Try(None), Try(None)])
    runs = by_tag(made.compare())
    assert (runs["alone"]["attempts"], runs["alone"]["attempts_per_hour"], runs["alone"]["gain_note"]) == (0, None, "")
    assert (runs["crashed"]["crashes"], runs["crashed"]["attempts_to_best"]) == (2, 0)
    assert runs["crashed"]["seconds_to_best"] is None
    assert "end with the same value" not in made.ark("compare"), "a run in which nothing was tried leads nobody"
    made.run("also", [Try(None)])
    assert "end with the same value" in made.ark("compare")


@pytest.mark.parametrize(("values", "shown"), [((1e-9, 2e-9), "1e-09"), ((1e9, 1e9 + 1), "1000000001")])
def test_values_that_differ_by_little_or_are_huge_can_be_told_apart(
    made: Made, values: tuple[float, float], shown: str
) -> None:
    made.run("one", [Try(values[0], kept=True, files=turned(LR=0.2))], baseline=Try(3e9, kept=True))
    made.run("two", [Try(values[1], kept=True, files=turned(LR=0.3))], baseline=Try(3e9, kept=True))
    assert shown in made.ark("compare")
    assert by_tag(made.compare())["one"]["rank"] == 1


def test_values_at_the_ends_of_what_a_number_can_be(made: Made) -> None:
    tiny = [Try(1e-300, kept=True, files=turned(LR=0.2))]
    made.run("one", tiny, baseline=Try(1e300, kept=True))
    made.run("two", [Try(-1e300, kept=True, files=turned(LR=0.2))], baseline=Try(1e-300, kept=True))
    made.run("three", [Try(-5.0, kept=True, files=turned(LR=0.2))], baseline=Try(0.0, kept=True))
    runs = by_tag(made.compare())
    assert (runs["two"]["gain_percent"], runs["three"]["gain_percent"]) == (None, None)
    assert "1e+300" in made.ark("compare")


def test_an_attempt_that_runs_is_told(made: Made) -> None:
    made.run("one", [Try(0.9, kept=True, files=turned(LR=0.2))])
    with made.opened() as project:
        ledger = Ledger(project.repository, "autoresearch", "one", project.spec_name)
        head = ledger.head() or ""
        ledger.reserve(2, Proposal("next"), tree=project.repository.tree_of(head), parent=head, yardstick="y")
    run = made.compare()["runs"][0]
    assert (run["running"], run["attempts"], run["kept"], run["best"]) == (1, 1, 1, 0.9)
    assert "attempt 2" in made.ark("compare")
    words = "1: 1 kept, 0 discarded, 0 crashed, 0 lost; attempt 2 was left while it was measured"
    assert words in made.ark("status", "--tag", "one")
    with made.opened() as project:
        lock = Ledger(project.repository, "autoresearch", "one", project.spec_name).lock()
        lock.acquire()
        assert "1: 1 kept, 0 discarded, 0 crashed, 0 lost; 1 running\n" in made.ark("status", "--tag", "one")
        lock.release()


def test_values_that_differ_in_the_ninth_digit() -> None:
    assert digits([0.123456789, 0.123456788]) == 9
    assert digits([1.0, None, 1.0]) == 6


def test_hostile_titles_names_and_agents_reach_no_terminal_and_no_page(made: Made, tmp_path: Path) -> None:
    bad = "<script>alert(1)</script>\x1b[31m" + 10_000 * "x"
    made.run("one", [Try(0.9, kept=True, files=turned(LR=0.2), title=bad, agent="<b>\x1b[2J")])
    made.run("two", [Try(0.8, kept=True, files=turned(DEPTH='"</td><script>"'))])
    path = tmp_path / "log\x1b[31m<script>.jsonl"
    path.write_text('{"commit":"a","metric":1,"status":"keep","description":"<img src=x>\\u001b[31m"}\n')
    text = made.ark("compare", "one", "two", str(path))
    assert "\x1b" not in text
    assert "<script>alert(1)" in text  # a terminal shows what is plain text
    made.ark("compare", "one", "two", str(path), "--html", str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "\x1b" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page


# How it is shown


@pytest.mark.parametrize("columns", [40, 80, 120, 300])
def test_nothing_that_matters_is_cut_at_any_width(made: Made, columns: int) -> None:
    for number in range(6):
        made.run(f"a-run-with-quite-a-long-name-{number}", [Try(0.9 - 0.0123456789 * number, True, turned(LR=number))])
    text = made.ark("compare", columns=columns)
    lines = text.split("\n")
    table = lines[: lines.index("", 3)]
    assert all(len(line.rstrip()) <= columns for line in table)
    assert "…" not in text
    for run in made.compare()["runs"]:
        assert f"{run['best']:.6g}" in text


def test_a_row_for_each_run_where_columns_do_not_fit(made: Made) -> None:
    for number in range(6):
        made.run(f"run{number}", [Try(0.9 - 0.01 * number, True, turned(LR=number))])
    lines = made.ark("compare").split("\n")
    at = next(n for n, line in enumerate(lines) if line.startswith("run "))
    assert [line.split()[0] for line in lines[at + 1 : at + 7]] == [f"run{number}" for number in (5, 4, 3, 2, 1, 0)]


def test_noise_decides_what_is_said_of_the_lead(made: Made) -> None:
    made.run("one", [Try(0.9, kept=True, files=turned(LR=0.2), noise=0.02)])
    made.run("two", [Try(0.88, kept=True, files=turned(LR=0.3), noise=0.02)])
    assert "so no difference is shown" in made.ark("compare", columns=300)
    assert [run["rank"] for run in made.compare("one", "two")["runs"]] == [1, 1]
    assert made.ark("compare", "one", "two").count("1=") == 2
    made.run("idle", [])
    assert by_tag(made.compare("one", "idle"))["idle"]["rank"] is None
    made.run("three", [Try(0.5, kept=True, files=turned(LR=0.4), noise=0.02)])
    assert [run["rank"] for run in made.compare("one", "two", "three")["runs"]] == [1, 2, 2]
    assert "and both were selected" in made.ark("compare", columns=300)
    made.run("four", [Try(0.4, kept=True, files=turned(LR=0.4), noise=0.0)])
    made.run("five", [Try(0.3, kept=True, files=turned(LR=0.4), noise=0.0)])
    assert "the metric has shown no noise" in made.ark("compare", "four", "five", columns=300)


@pytest.mark.slow
def test_a_page_and_a_picture(made: Made, tmp_path: Path) -> None:
    made.run("one", [Try(0.9, kept=True, files=turned(LR=0.2)), Try(0.95)])
    made.run("two", [Try(0.8, kept=True, files=turned(DEPTH=5))])
    page, png, svg = (tmp_path / name for name in ("page.html", "plot.png", "plot.SVG"))
    assert made.ark("compare", "--html", str(page), "--plot", str(png)).split() == [str(page), str(png)]
    assert "data:image/svg+xml;base64," in page.read_text()
    assert png.read_bytes().startswith(b"\x89PNG")
    made.ark("compare", "--plot", str(svg), "--by", "hours")
    assert svg.read_text().startswith("<svg")
    assert "neither a .png nor a .svg" in made.ark("compare", "--plot", str(tmp_path / "plot.gif"), code=2)
    assert "cannot be written" in made.ark("compare", "--html", str(tmp_path / "no/page.html"), code=1)


def test_runs_of_another_metric_are_not_drawn_on_the_same_axis(made: Made, tmp_path: Path) -> None:
    made.run("one", [Try(0.9, kept=True, files=turned(LR=0.2))])
    made.commit({"metric": "accuracy"})
    made.run("two", [Try(0.5, kept=True, files=turned(LR=0.3))])
    made.ark("compare", "one", "two", "--plot", str(tmp_path / "plot.svg"), "--html", str(tmp_path / "page.html"))
    text = (tmp_path / "plot.svg").read_text()
    assert "loss" in text
    assert "accuracy" not in text
    assert "accuracy, best so far over attempts" in (tmp_path / "page.html").read_text()


@pytest.mark.slow
def test_a_reader_that_goes_away_early_is_no_traceback(made: Made) -> None:
    made.run("one", [Try(0.9, kept=True, files=turned(LR=0.2)) for _ in range(3)])
    order = [sys.executable, "-m", "autoresearch_kit", "compare", "--json"]
    process = subprocess.Popen(order, cwd=made.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    process.wait()
    assert b"Traceback" not in said


def test_time_of_what_has_no_times() -> None:
    assert elapsed([]) is None
