"""What runs have in common, and what is particular to one.   pytest tests/views/test_changes.py"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_runs import Made, Try, turned

from autoresearch_kit.views.changes import Part, parts


def patch(*lines: str, file: str = "train.py") -> str:
    return "\n".join([f"diff --git a/{file} b/{file}", f"--- a/{file}", f"+++ b/{file}", "@@ -1,9 +1,9 @@", *lines, ""])


def offered(found: dict[str, Any]) -> dict[str, list[list[str]]]:
    """By the run to which they are offered: the attempts of each offer."""
    return {offer["tag"]: [change["from"] for change in offer["changes"]] for offer in found["offers"]}


def named(found: dict[str, Any], name: str) -> dict[str, Any]:
    return next(change for change in found["changes"] if change["name"] == name)


# Reading patches


@pytest.mark.parametrize(
    ("old", "new", "name", "values"),
    [
        ("LR = 0.1", "LR = 0.2", "LR", ("0.1", "0.2")),
        ("LR = 0.1  # the rate", "LR = 1e-3  # better", "LR", ("0.1", "1e-3")),
        ("    lr: float = 0.1,", "    lr: float = 0.2,", "lr", ("0.1", "0.2")),
        ("depth: 4", "depth: 8", "depth", ("4", "8")),
        ('"batch-size": 4,', '"batch-size": 8,', "batch-size", ("4", "8")),
        ("#define BLOCK 64", "#define BLOCK 128", "BLOCK", ("64", "128")),
        ("SIZE = 2 ** 16", "SIZE = 2 ** 17", "SIZE", ("2 ** 16", "2 ** 17")),
        ("ACT = 'relu'", "ACT = 'silu'", "ACT", ("'relu'", "'silu'")),
        ("FUSED = False", "FUSED = True", "FUSED", ("False", "True")),
        ("window = -1;", "window = -2;", "window", ("-1", "-2")),
    ],
)
def test_a_constant_is_known_by_its_name(old: str, new: str, name: str, values: tuple[str, str]) -> None:
    assert parts(patch(f"-{old}", f"+{new}")) == [Part("train.py", name, (values[0],), (values[1],))]


@pytest.mark.parametrize(
    ("old", "new"),
    [("x = f(y)", "x = g(y)"), ("return a", "return b"), ("LR = 0.1", "RATE = 0.1"), ("if a == 1:", "if a == 2:")],
)
def test_what_is_no_constant_is_lines(old: str, new: str) -> None:
    assert parts(patch(f"-    {old}", f"+\t{new}")) == [Part("train.py", "", (old,), (new,))]


def test_neighbouring_constants_are_changes_of_their_own_and_pieces_too() -> None:
    found = parts(patch("-A = 1", "-B = 2", "+A = 3", "+B = 4", " same", "-old()", "+new()", "+more()"))
    assert [(part.name, part.added) for part in found] == [("A", ("3",)), ("B", ("4",)), ("", ("new()", "more()"))]


def test_white_space_and_what_is_no_text_is_no_change() -> None:
    assert parts(patch("-x()", "+    x()  ", " ", "-", "+")) == []
    assert parts("diff --git a/a.bin b/a.bin\nindex 1..2 100644\nBinary files a/a.bin and b/a.bin differ\n") == []
    assert parts("") == []


def test_lines_that_look_like_headers_inside_a_patch_are_lines() -> None:
    found = parts(patch("---- a/other.py", "-++ b/other.py", "+diff --git a/x b/x"))
    assert [(part.file, part.removed, part.added) for part in found] == [
        ("train.py", ("--- a/other.py", "++ b/other.py"), ("diff --git a/x b/x",))
    ]


def test_two_files_and_a_new_one() -> None:
    text = patch("-A = 1", "+A = 2") + "\n".join(
        [
            "diff --git a/b.py b/b.py",
            "new file mode 100644",
            "--- /dev/null",
            "+++ b/b.py",
            "@@ -0,0 +1 @@",
            "+A = 2",
            "",
        ]
    )
    assert [(part.file, part.name) for part in parts(text)] == [("train.py", "A"), ("b.py", "")]


@given(
    st.lists(st.tuples(st.sampled_from(["", "-", "+", " ", "@@ ", "--- ", "+++ ", "diff --git "]), st.text(max_size=9)))
)
def test_no_patch_is_a_traceback(lines: list[tuple[str, str]]) -> None:
    for part in parts("\n".join(sign + text for sign, text in lines)):
        assert part.removed or part.added


# Runs


def test_common_constants_other_values_and_particular_lines(made: Made) -> None:
    made.run(
        "one",
        [
            Try(0.9, kept=True, files=turned(LR=0.2)),
            Try(0.8, kept=True, files=turned(LR=0.2, DEPTH=5)),
            Try(0.7, kept=True, files={"train.py": turned(LR=0.2, DEPTH=5)["train.py"] + "\nprint('hi')\n"}),
        ],
    )
    made.run("two", [Try(0.9, kept=True, files=turned(LR=0.2)), Try(0.8, kept=True, files=turned(LR=0.2, DEPTH=8))])
    found = made.compare("one", "two")
    assert named(found, "LR")["common"]
    assert not named(found, "LR")["other_values"]
    depth = named(found, "DEPTH")
    assert (depth["common"], depth["other_values"]) == (False, True)
    assert {run["tag"]: (run["before"], run["value"]) for run in depth["runs"]} == {
        "one": ("4", "5"),
        "two": ("4", "8"),
    }
    lines = next(change for change in found["changes"] if change["kind"] == "lines")
    assert (lines["added"], [run["tag"] for run in lines["runs"]]) == (["print('hi')"], ["one"])
    assert offered(found) == {"two": [["one/2"], ["one/3"]], "one": [["two/2"]]}
    text = made.ark("compare", "one", "two", columns=200)
    assert "train.py: LR 0.1 -> 0.2  [one/1, two/1]" in text
    assert "train.py: DEPTH 4 -> 5 [one/2], 8 [two/2]" in text


def test_what_a_run_has_undone_or_turned_again_counts_as_it_ends(made: Made) -> None:
    made.run(
        "one",
        [
            Try(0.9, kept=True, files=turned(LR=0.2)),
            Try(0.8, kept=True, files=turned(LR=0.3)),
            Try(0.7, kept=True, files=turned(LR=0.3, DEPTH=9)),
            Try(0.6, kept=True, files=turned(LR=0.3)),
        ],
    )
    made.run("two", [])
    found = made.compare("one", "two")
    assert [change["name"] for change in found["changes"]] == ["LR"]
    assert offered(found) == {"two": [["one/1", "one/2"]]}
    assert "LR 0.1 -> 0.3" in made.ark("compare", "one", "two")
    assert found["changes"][0]["runs"][0] | {"machine": ""} == {
        "tag": "one",
        "attempts": [1, 2],
        "titles": ["an idea", "an idea"],
        "agents": ["claude"],
        "machine": "",
        "before": "0.1",
        "value": "0.3",
    }


def test_a_discarded_change_is_in_no_run(made: Made) -> None:
    made.run("one", [Try(0.9, files=turned(LR=0.2))])
    made.run("two", [Try(0.9, kept=True, files=turned(LR=0.2))])
    assert [run["tag"] for run in made.compare()["changes"][0]["runs"]] == ["two"]


def test_what_a_run_began_with_is_not_offered_to_it(made: Made) -> None:
    made.run("one", [Try(0.9, kept=True, files=turned(LR=0.2))])
    made.commit(**turned(LR=0.2))
    made.run("two", [Try(0.8, kept=True, files=turned(LR=0.2, DEPTH=5))])
    found = made.compare("one", "two")
    assert named(found, "LR")["present_in"] == ["two"]
    assert offered(found) == {"one": [["two/1"]]}


def test_one_attempt_that_changed_two_things_is_offered_once(made: Made) -> None:
    made.run("one", [Try(0.9, kept=True, files=turned(LR=0.3)), Try(0.8, kept=True, files=turned(LR=0.2, DEPTH=5))])
    made.run("two", [])
    assert offered(made.compare("one", "two")) == {"two": [["one/1", "one/2"]]}
    assert "one/1 and 2  an idea" in made.ark("compare", "one", "two")


def test_what_was_tried_there_before_is_not_offered_again(made: Made) -> None:
    made.run("one", [Try(0.9, kept=True, files=turned(LR=0.2))])
    made.run("two", [Try(1.5, files=turned(LR=0.2), origin=("one/1",))])
    assert made.compare("one", "two")["offers"] == []


def test_what_is_of_one_machine_or_one_agent_is_said(made: Made) -> None:
    for tag in ("one", "two"):
        made.run(tag, [Try(0.9, kept=True, files=turned(LR=0.2))])
    made.run(
        "mac",
        [Try(0.9, kept=True, files=turned(DEPTH=8), machine="Darwin arm64", agent="codex")],
        baseline=Try(1.0, kept=True, machine="Darwin arm64"),
    )
    found = made.compare()
    assert (named(found, "LR")["common"], named(found, "LR")["only_machine"]) == (True, "Linux x86_64, a processor")
    assert (named(found, "DEPTH")["only_machine"], named(found, "DEPTH")["only_agent"]) == ("Darwin arm64", "codex")
    text = made.ark("compare", columns=200)
    assert "Found by one agent only" in text
    assert "1  codex" in text


def test_changes_of_a_fetched_run_are_offered_by_its_name_and_not_the_other_way(made: Made, tmp_path: Path) -> None:
    made.run("theirs", [Try(0.9, kept=True, files=turned(LR=0.2))])
    here = made.clone(tmp_path / "here")
    here.fetch()
    here.run("mine", [Try(0.9, kept=True, files=turned(DEPTH=5))])
    found = here.compare()
    assert offered(found) == {"mine": [["origin/theirs/1"]]}
    command = 'cd "$(ark desk --tag mine)" && ark try --from origin/theirs/1'
    assert found["offers"][0]["changes"][0]["try"] == command
    assert found["offers"][0]["all"] == "ark run --tag mine --agent transplant"
    assert command in here.ark("compare")


def test_of_a_branch_without_its_ledger_no_attempt_can_be_named(made: Made, tmp_path: Path) -> None:
    made.run("theirs", [Try(0.9, kept=True, files=turned(LR=0.2))])
    here = made.clone(tmp_path / "here")
    here.run("mine", [])
    found = here.compare()
    assert named(found, "LR")["runs"][0]["tag"] == "origin/autoresearch/theirs"
    assert found["offers"] == []


def test_runs_of_other_tools_have_no_changes_to_look_at(made: Made, tmp_path: Path) -> None:
    path = tmp_path / "results.tsv"
    path.write_text("commit\tloss\tmemory_gb\tstatus\tdescription\na1b2c3d\t1.0\t2.0\tkeep\tbaseline\n")
    made.run("one", [Try(0.9, kept=True, files=turned(LR=0.2))])
    found = made.compare("one", str(path))
    assert (found["changes"], found["offers"]) == ([], [])


@pytest.mark.slow
def test_the_commands_that_are_printed_try_the_change_on_the_other_run(made: Made, tmp_path: Path) -> None:
    """Real runs, a real desk: what is offered is measured there, and then offered no more."""
    made.commit(
        {"run_command": "sh train.py", "metric_direction": "minimize"},
        **{"train.py": "A=5\n\n\nB=5\n\n\necho loss: $((A + B))\n"},
    )
    ark = tmp_path / "bin" / "ark"
    ark.parent.mkdir()
    ark.write_text(f'#!/bin/sh\nexec {sys.executable} -m autoresearch_kit "$@"\n')
    ark.chmod(0o755)
    environment = {**os.environ, "PATH": f"{ark.parent}:{os.environ['PATH']}"}

    def shell(command: str) -> str:
        done = subprocess.run(
            command, shell=True, cwd=made.folder, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    # In two steps: the second alone would not fit the other run's files.
    for tag, name in (("one", "A"), ("two", "B")):
        script = f"s/{name}=5/{name}=4/;t;s/{name}=4/{name}=3/"
        shell(f"ark run --tag {tag} --attempts 2 --agent \"sed -i '{script}' train.py\"")
    found = made.compare("one", "two")
    assert offered(found) == {"one": [["two/1", "two/2"]], "two": [["one/1", "one/2"]]}
    commands = {offer["tag"]: (offer["changes"][0]["try"], offer["all"]) for offer in found["offers"]}
    shell(commands["one"][0])
    assert made.git("show", "autoresearch/one:train.py").split()[:2] == ["A=3", "B=3"]
    shell(commands["two"][1])
    assert made.git("show", "autoresearch/two:train.py").split()[:2] == ["A=3", "B=3"]
    found = made.compare("one", "two")
    assert found["offers"] == []
    assert [change["common"] for change in found["changes"]] == [True, True]
