"""Runs as CSV, as JSON lines, and in a real MLflow: a database, and a folder.

.venv/bin/pytest tests/views/test_export.py
"""

from __future__ import annotations

import csv
import io
import json
import os
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_kit.core.campaign import Campaign
from autoresearch_kit.core.records import Attempt, Cost, Measurement, Outcome, Proposal, Verdict
from autoresearch_kit.ledger.message import write_message
from autoresearch_kit.views.export import COLUMNS
from autoresearch_kit.views.mlflow import metrics_of, names_for
from autoresearch_kit.views.mlflow_store import shown
from tests.engine.conftest import Tiny, _home, _surroundings, _template, tiny  # noqa: F401 - fixtures

FORMULAS = ("=1+1", "+SUM(A1)", "-2+3", "@x", '=HYPERLINK("http://x")')
WHY = 'two\nlines, "quoted"; \u0085 and \u2028 and <script>alert(1)</script>'
HERE = "Linux x86_64, a processor"


def measured(value: float | None, problem: str = "", **also: float) -> Measurement:
    return Measurement(value, {"wall_seconds": 2.5, **also}, problem, 2.5, "the log" if problem else "", 7, HERE)


def attempt(number: int, outcome: Outcome, value: float | None = None, title: str = "", **more: Any) -> Attempt:
    """One that is ready for a ledger; its commit is made there."""
    problem = "exit: exit code 1" if outcome is Outcome.CRASH else ""
    samples = () if outcome in (Outcome.RUNNING, Outcome.LOST) else (measured(value, problem, **more.pop("also", {})),)
    gain = None if number == 0 or value is None else 0.5
    verdict = None if outcome is Outcome.RUNNING else Verdict(outcome, f"{outcome}: a reason", gain, 0.01)
    return Attempt(
        number, "", "", "", Proposal(title or f"title {number}", WHY, "claude", Cost(1.5, 100, 0.25)), samples, verdict,
        f"2026-01-01T00:{number:02d}:00.000Z", "0" * 16, spec="autoresearch-config.yaml", **more,
    )  # fmt: skip


NIGHT = (
    attempt(0, Outcome.KEEP, 10),
    attempt(1, Outcome.KEEP, 20, FORMULAS[0], also={"a": 1, "a/b": 2, "peak_vram_mb": 1e9}),
    attempt(2, Outcome.CRASH, title=FORMULAS[1]),
    attempt(3, Outcome.DISCARD, -1e-9, FORMULAS[2]),
    attempt(4, Outcome.LOST, title=FORMULAS[3]),
    attempt(5, Outcome.KEEP, 1e9, FORMULAS[4]),
)


def record(project: Tiny, attempts: tuple[Attempt, ...], tag: str = "t", ours: str = "ark") -> None:
    """Write a ledger as a run would have."""
    parent = project.git("rev-parse", "HEAD")
    feed, mark = [], 0
    for entry in attempts:
        text, mark = write_message(entry), mark + 1
        data = f"echo {entry.number} > answer.txt\n"
        feed.append(
            f"commit refs/{ours}/{tag}/{entry.number:04d}\nmark :{mark}\n"
            "committer ark <ark@localhost> 1767225600 +0000\n"
            f"data {len(text.encode())}\n{text}\nfrom {parent}\n"
            f"M 100644 inline train.sh\ndata {len(data)}\n{data}\n\n"
        )
        if entry.outcome is Outcome.KEEP:
            parent = f":{mark}"
    if ours == "ark":
        feed.append(f"reset refs/heads/autoresearch/{tag}\nfrom {parent}\n\n")
    subprocess.run(
        ["git", "-C", str(project.root), "fast-import", "--quiet", "--force"], input="".join(feed).encode(), check=True
    )


@pytest.fixture
def night(tiny: Tiny) -> Tiny:  # noqa: F811
    record(tiny, NIGHT)
    return tiny


def export(project: Tiny, *args: str) -> subprocess.CompletedProcess[str]:
    done = project.ark_here("export", *args)
    assert done.returncode == 0, done.stderr
    return done


# CSV


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def test_a_table_has_the_documented_columns_and_every_attempt(night, tmp_path):
    export(night, "--csv", str(tmp_path / "t.csv"))
    found = rows(tmp_path / "t.csv")
    also = ["also.a", "also.a/b", "also.peak_vram_mb", "also.wall_seconds"]
    assert list(found[0]) == [*(name for name, _ in COLUMNS), *also]
    assert [row["outcome"] for row in found] == ["keep", "keep", "crash", "discard", "lost", "keep"]
    assert [row["value"] and float(row["value"]) for row in found] == [10, 20, "", -1e-9, "", 1e9]
    assert [float(row["best"]) for row in found] == [10, 20, 20, 20, 20, 1e9]
    log = {entry["number"]: entry for entry in night.log()}
    assert [row["commit"] for row in found] == [log[number]["commit"] for number in range(6)]
    assert (found[1]["run"], found[1]["cost_money"], found[1]["also.a/b"]) == ("t", "0.25", "2.0")
    assert (found[0]["is_baseline"], found[1]["is_baseline"], found[2]["problem"]) == ("1", "0", "exit: exit code 1")


def test_a_table_is_rfc_4180(night):
    raw = subprocess.run([*night.command, "export", "--csv", "-"], cwd=night.folder, capture_output=True).stdout
    assert raw.count(b"\r\n") == 7 and raw.endswith(b"\r\n") and not raw.startswith(b"\xef\xbb\xbf")
    assert b"\r\r" not in raw
    (row, *_) = csv.DictReader(io.StringIO(raw.decode(), newline=""), strict=True)
    assert row["why"].startswith('two\nlines, "quoted"; ') and row["why"].endswith("<script>alert(1)</script>")


def test_no_text_is_a_formula(night, tmp_path):
    export(night, "--csv", str(tmp_path / "t.csv"))
    found = rows(tmp_path / "t.csv")
    assert [row["title"] for row in found[1:]] == [f"'{FORMULAS[n]}" for n in range(5)]
    numeric = {"value", "values", "best", "gain"}
    for row in found:
        for name, cell in row.items():
            assert name in numeric or not cell.startswith(("=", "+", "-", "@", "\t", "\r", "＝"))  # noqa: RUF001


def test_the_guide_names_the_columns():
    text = (Path(__file__).parents[2] / "docs" / "guides" / "export.md").read_text()
    assert "\n".join(f"| `{name}` | {meaning} |" for name, meaning in COLUMNS) in text


# JSON lines


def test_lines_hold_what_show_prints(night, tmp_path):
    export(night, "--jsonl", str(tmp_path / "t.jsonl"))
    text = (tmp_path / "t.jsonl").read_text()
    found = [json.loads(line) for line in text.splitlines()]
    assert len(found) == 6 and text.endswith("\n")
    one = json.loads(night.ark_here("show", "t/1", "--json").stdout)
    assert "+echo 1 > answer.txt" in one.pop("diff")
    assert {name: found[1][name] for name in one} == one
    assert found[1]["title"] == FORMULAS[0] and "+echo 1 > answer.txt" in found[1]["diff"]
    assert (found[1]["run"], found[1]["metric"], found[1]["direction"], found[1]["best"]) == (
        "t", "score", "maximize", 20
    )  # fmt: skip
    assert found[0]["is_baseline"] and not found[1]["is_baseline"]


# Which runs, and mistakes


def test_all_runs_or_those_that_are_named(night, tmp_path):
    record(night, NIGHT[:2], "u")
    record(night, (NIGHT[0], attempt(1, Outcome.KEEP, 12, "another")), "far/v", "ark-remotes")
    table = tmp_path / "t.csv"
    export(night, "--csv", str(table))
    assert {(row["run"], row["number"]) for row in rows(table) if row["number"] == "1"} == {
        ("t", "1"), ("u", "1"), ("far/v", "1")
    }  # fmt: skip
    export(night, "--csv", str(table), "--tag", "u", "--tag", "far/v", "--tag", "u")
    assert [row["run"] for row in rows(table)] == ["u"] * 2 + ["far/v"] * 2


def test_a_log_of_another_loop_is_exported_too(night, tmp_path):
    other = tmp_path / "results.tsv"
    other.write_text("commit\tscore\tmemory_gb\tstatus\tdescription\nabc1234\t1.5\t0\tkeep\tfirst\n\t0\t0\tcrash\t=x\n")
    export(night, "--csv", str(tmp_path / "t.csv"), "--jsonl", str(tmp_path / "t.jsonl"), "--tag", str(other))
    assert [row["value"] for row in rows(tmp_path / "t.csv")] == ["1.5", ""]
    assert len((tmp_path / "t.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        ((), 2, "give --csv FILE, --jsonl FILE or --mlflow URI"),
        (("--csv", "-", "--jsonl", "-"), 2, "exclude each other"),
        (("--csv", "-", "--tag", "nothing"), 2, "there is no run, branch or file called nothing"),
        (("--csv", "no/such/folder/t.csv"), 1, "cannot be written"),
    ],
)
def test_mistakes_are_a_sentence(night, args, code, said):
    done = night.ark_here("export", *args)
    assert done.returncode == code and said in done.stderr and done.stdout == ""


def test_no_run_is_a_sentence(tiny):  # noqa: F811
    done = tiny.ark_here("export", "--csv", "-")
    assert done.returncode == 2 and "there is no run of this project yet" in done.stderr


# MLflow


@pytest.fixture(params=["database", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    folder = tmp_path / "store"
    folder.mkdir()
    return f"sqlite:///{folder}/mlflow.db" if request.param == "database" else str(folder / "mlruns")


class Store:
    """What is in a store, as MLflow itself tells."""

    def __init__(self, uri: str) -> None:
        os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from mlflow import MlflowClient

            self.client = MlflowClient(uri)
            found = self.client.get_experiment_by_name("tiny")
            assert found is not None
            self.experiment = found
            runs = self.client.search_runs([found.experiment_id])
        self.parents = [run for run in runs if "ark.key" in run.data.tags]
        self.children = {int(r.data.tags["ark.attempt"]): r for r in runs if "ark.attempt" in r.data.tags}
        assert len(runs) == len(self.parents) + len(self.children), "a run is there twice"

    def history(self, run: Any, name: str) -> list[tuple[int, float]]:
        points = self.client.get_metric_history(run.info.run_id, name)
        return sorted((point.step, point.value) for point in points)

    def patch(self, number: int) -> str:
        return Path(self.client.download_artifacts(self.children[number].info.run_id, "change.patch")).read_text()


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.slow
def test_mlflow_has_a_run_for_the_run_and_one_for_each_attempt(night, store):
    done = export(night, "--mlflow", store)
    assert "t: 6 new attempts, 0 were there" in done.stderr and done.stdout == ""
    found = Store(store)
    (parent,) = found.parents
    assert parent.info.run_name == "t" and parent.info.status == "FINISHED"
    assert parent.data.tags["ark.kept"] == "2" and parent.data.tags["ark.attempts"] == "5"
    assert found.history(parent, "score") == [(0, 10), (1, 20), (3, -1e-9), (5, 1e9)]
    assert found.history(parent, "best.score") == [(0, 10), (1, 20), (5, 1e9)]
    assert sorted(found.children) == list(range(6))
    one, entry = found.children[1], next(entry for entry in night.log() if entry["number"] == 1)
    assert one.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert one.data.tags["ark.commit"] == entry["commit"] and one.data.tags["ark.title"] == FORMULAS[0]
    assert one.data.params == {"agent": "claude", "machine": HERE, "yardstick": "0" * 16}
    assert one.data.metrics["score"] == 20 and one.data.metrics["ark.agent_money"] == 0.25
    assert (one.data.metrics["a"], one.data.metrics["a.b"], one.data.metrics["peak_vram_mb"]) == (1, 2, 1e9)
    assert [found.children[n].info.status for n in range(6)] == [
        "FINISHED", "FINISHED", "FAILED", "FINISHED", "KILLED", "FINISHED"
    ]  # fmt: skip
    assert "score" not in found.children[2].data.metrics
    assert "+echo 1 > answer.txt" in found.patch(1)
    assert night.git("status", "--porcelain") == "" and not (night.folder / "mlruns").exists()


@pytest.mark.slow
def test_exported_again_only_what_is_new_is_added(night, store):
    record(night, (*NIGHT[:3], attempt(3, Outcome.RUNNING)))
    night.git("update-ref", "-d", "refs/ark/t/0004")
    night.git("update-ref", "-d", "refs/ark/t/0005")
    assert "t: 3 new attempts, 0 were there" in export(night, "--mlflow", store).stderr
    assert "t: 0 new attempts, 3 were there" in export(night, "--mlflow", store).stderr
    record(night, NIGHT)
    assert "t: 3 new attempts, 3 were there" in export(night, "--mlflow", store).stderr
    export(night, "--mlflow", store)
    found = Store(store)
    assert len(found.parents) == 1 and sorted(found.children) == list(range(6))
    assert found.history(found.parents[0], "best.score") == [(0, 10), (1, 20), (5, 1e9)]
    assert found.history(found.children[1], "score") == [(0, 20)]
    assert found.parents[0].data.tags["ark.attempts"] == "5"


@pytest.mark.slow
def test_an_export_that_was_cut_short_is_made_whole(night, store):
    export(night, "--mlflow", store)
    found = Store(store)
    found.client.update_run(found.children[1].info.run_id, status="RUNNING")  # everything but the last word was sent
    found.client.delete_run(found.children[5].info.run_id)
    assert "t: 2 new attempts, 4 were there" in export(night, "--mlflow", store).stderr
    again = Store(store)
    assert sorted(again.children) == list(range(6))
    assert again.children[1].info.status == "FINISHED"
    assert again.history(again.children[1], "score") == [(0, 20)]


@pytest.mark.slow
def test_a_run_that_was_fetched_back_is_the_same_run(night, store):
    for line in night.git("for-each-ref", "--format=%(refname) %(objectname)", "refs/ark/t/").split("\n"):
        name, oid = line.split()
        night.git("update-ref", name.replace("refs/ark/", "refs/ark-remotes/origin/"), oid)
    night.git("update-ref", "-d", "refs/ark/t/0005")
    done = export(night, "--mlflow", store)
    assert done.stderr.count("attempts") == 2
    found = Store(store)
    assert len(found.parents) == 1 and sorted(found.children) == list(range(6))


@pytest.mark.slow
def test_a_deleted_experiment_is_a_sentence(night, store):
    export(night, "--mlflow", store)
    found = Store(store)
    found.client.delete_experiment(found.experiment.experiment_id)
    done = night.ark_here("export", "--mlflow", store)
    assert done.returncode == 1 and "the experiment tiny was deleted in MLflow" in done.stderr


WATCHED = """
import sys
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        print("NETWORK", event, args[1:], file=sys.stderr)
sys.addaudithook(watch)
from autoresearch_kit.cli import main
main(prog_name="ark")
"""


@pytest.mark.slow
def test_nothing_leaves_the_machine_and_mlflow_is_silent(night, store):
    """In a process that MLflow does not take for a test, or a CI, where its telemetry is off by itself."""
    testing = ("PYTEST", "CI", "GITHUB", "MLFLOW", "DO_NOT_TRACK")
    env = {name: value for name, value in os.environ.items() if not name.startswith(testing)}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, "export", "--mlflow", store],
        cwd=night.folder, env=env, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.splitlines() == ["t: 6 new attempts, 0 were there"]


@pytest.mark.slow
def test_without_mlflow_it_says_how_to_install_it(night):
    program = "import sys; sys.modules['mlflow'] = None; from autoresearch_kit.cli import main; main(prog_name='ark')"
    done = subprocess.run(
        [sys.executable, "-c", program, "export", "--mlflow", "x"], cwd=night.folder, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "needs MLflow, which is not installed" in done.stderr and "-m pip install mlflow-skinny" in done.stderr
    assert not (night.folder / "x").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("http://user:secret@127.0.0.1:9", "MLflow at http://127.0.0.1:9 does not answer"),
        ("sqlite:////proc/nothing/mlflow.db", "MLflow at sqlite:////proc/nothing/mlflow.db"),
        ("htp://x", "MLflow at htp://x"),
        ("postgresql://user:secret@127.0.0.1:9/x", "the store postgresql://127.0.0.1:9/x cannot be used"),
    ],
)
def test_a_store_that_is_none_is_a_sentence(night, uri, said):
    done = night.ark_here("export", "--mlflow", uri)
    assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.slow
def test_a_server_that_never_answers_is_given_up(night):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        done = night.ark_here("export", "--mlflow", f"http://127.0.0.1:{port}")
    assert done.returncode == 1 and "does not answer" in done.stderr


def test_no_password_is_shown():
    assert shown("https://me:secret@host/x?y=1") == "https://host/x?y=1"
    assert shown("sqlite:////tmp/a@b.db") == "sqlite:////tmp/a@b.db"


def test_numbers_that_are_none_are_left_out():
    entry = attempt(1, Outcome.KEEP, 5, also={"x": float("nan"), "y": float("-inf"), "z": 1})
    found = metrics_of(Campaign("t", (entry,), "score", True), entry)
    assert found["score"] == 5 and found["z"] == 1 and not {"x", "y"} & set(found)


def test_an_attempt_that_was_measured_often_shows_its_mean():
    entry = replace(attempt(1, Outcome.KEEP, 5), measurements=(measured(4), measured(6)))
    found = metrics_of(Campaign("t", (entry,), "score", True), entry)
    assert found["score"] == 5 and found["ark.runs"] == 2


@pytest.mark.slow
@given(st.lists(st.text(alphabet="ab./- _:%\u00e9\n", min_size=1, max_size=8) | st.just("x" * 300), unique=True))
def test_every_name_becomes_one_that_mlflow_takes(names):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.utils.validation import _validate_metric_name
    found = names_for(names)
    assert set(found) == set(names) and len(set(found.values())) == len(names)
    for name in found.values():
        _validate_metric_name(name)
        assert len(name) <= 250
        assert not any(other.startswith(f"{name}/") for other in found.values()), "a file would have to be a folder"
