"""The starters of `ark init` at work: right answers count, wrong ones, forged ones and cheats do not.

.venv/bin/pytest tests/examples/test_starters.py
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from example_project import edit

from autoresearch_kit import starter

compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture
def lay(tmp_path):
    """A starter's files in a folder, without `ark`."""

    def lay(template: str) -> Path:
        return Path(shutil.copytree(starter.find_template(template), tmp_path / template))

    return lay


def run(line: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/sh", "-c", line], cwd=folder, env={**os.environ, **env}, capture_output=True, text=True, timeout=120
    )


def number(done: subprocess.CompletedProcess[str], name: str) -> float:
    assert done.returncode == 0, done.stderr
    (found,) = re.findall(rf"^{name}: (.*)$", done.stdout, re.M)
    return float(found)


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def measure_roughly(folder: Path) -> None:
    """Few rounds: what is told apart here differs by more than a few percent."""
    edit(folder / "measure.py", "^ROUNDS = .*$", "ROUNDS = 4")


# python-speed

MEASURE = f"'{sys.executable}' answer.py && '{sys.executable}' measure.py"
CHECK = f"'{sys.executable}' -m unittest -q test_solution"


@pytest.mark.slow
def test_a_better_way_is_faster(lay):
    folder = lay("python-speed")
    measure_roughly(folder)
    before = number(run(MEASURE, folder), "speedup")
    change(folder / "solution.py", "CELLS = 4", "CELLS = 20")
    assert number(run(MEASURE, folder), "speedup") > 2 * before  # eight times, where it is quiet
    assert run(CHECK, folder).returncode == 0


@pytest.mark.parametrize(
    "cheat",
    [
        "close_pairs = lambda points, radius: 0",
        "known = []\nright = close_pairs\n"
        "def close_pairs(points, radius):\n    known.append(known[0] if known else right(points, radius))\n"
        "    return known[-1]",  # one answer for all questions
        "import sys\nright = close_pairs\n"
        "def close_pairs(points, radius):\n    return right(points, radius) if 'answer' in sys.argv[0] else 0",
    ],
    ids=["nothing", "the first answer again", "only in the run"],
)
def test_wrong_answers_have_no_number(lay, cheat):
    folder = lay("python-speed")
    with (folder / "solution.py").open("a") as file:
        file.write(f"\n{cheat}\n")
    done = run(MEASURE, folder)
    assert done.returncode != 0 and "wrong answer" in done.stderr and "speedup" not in done.stdout


@pytest.mark.parametrize("answers", ["[]", "[0]", "{}", "null"])
def test_forged_answers_have_no_number(lay, answers):
    folder = lay("python-speed")
    (folder / "answers.json").write_text(answers)
    done = run(f"'{sys.executable}' measure.py", folder)
    assert done.returncode != 0 and "wrong answers" in done.stderr


def test_the_tests_see_a_broken_corner(lay):
    folder = lay("python-speed")
    change(folder / "solution.py", "<= radius**2", "< radius**2")
    assert run(CHECK, folder).returncode != 0


# prompt

MODEL = """
import sys
prompt = sys.stdin.read()
message = prompt.split("Message:")[-1].lower()
words = {"refund": ["money", "paid", "return", "gave me back", "sent the amount", "reimburse"],
         "account": ["log in", "delete", "password", "e-mail", "login"],
         "delivery": ["door", "parcel", "courier", "hamburg", "neighbour", "tracking"],
         "order": ["mug", "colour", "basket", "table", "cancel", "declined"]}
found = [drawer for drawer in words if any(word in message for word in words[drawer])]
print(f" {(found or ['other'])[0].title()}. " if "one word" in prompt else "Well, I think it is ...")
"""


@pytest.fixture
def model(tmp_path):
    """A scripted model that answers well when it is told how."""
    (tmp_path / "model.py").write_text(MODEL)
    return f"'{sys.executable}' '{tmp_path}/model.py'"


ASK = f"'{sys.executable}' ask.py && '{sys.executable}' evaluate.py"


@pytest.mark.slow
def test_a_better_prompt_is_more_accurate(lay, model):
    folder = lay("prompt")
    assert number(run(ASK, folder, MODEL_COMMAND=model), "accuracy") == 0
    (folder / "prompt.md").write_text("Answer with one word: order, delivery, ...\n\nMessage: {input}\n")
    done = run(ASK, folder, MODEL_COMMAND=model)
    assert number(done, "accuracy") > 0.9
    assert number(done, "prompt_characters") == len((folder / "prompt.md").read_text())
    cases, held_out = (set((folder / name).read_text().splitlines()) for name in ("cases.jsonl", "holdout.jsonl"))
    assert len(cases) == 30 and len(held_out) == 15 and not cases & held_out


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("", "set MODEL_COMMAND, under `env` in autoresearch-config.yaml"),
        ("echo no key >&2; exit 3", "the model failed with exit code 3: no key"),
    ],
)
def test_without_a_model_that_works_there_is_no_number(lay, command, said):
    folder = lay("prompt")
    done = run(ASK, folder, MODEL_COMMAND=command)
    assert done.returncode != 0 and said in done.stderr and not (folder / "answers.jsonl").exists()


def test_a_prompt_without_a_place_for_the_message_is_refused(lay, model):
    folder = lay("prompt")
    (folder / "prompt.md").write_text("Say other.")
    assert "has no {input}" in run(ASK, folder, MODEL_COMMAND=model).stderr


def test_a_prompt_cannot_reach_a_shell(lay, model):
    folder = lay("prompt")
    (folder / "prompt.md").write_text("one word `touch pwned` $(touch pwned) '; touch pwned; ' {input}")
    assert run(ASK, folder, MODEL_COMMAND=model).returncode == 0
    assert not (folder / "pwned").exists()


# compile-flags

BUILD = f"'{sys.executable}' build.py"
SPEEDUP = f"{BUILD} && '{sys.executable}' measure.py"


@compiler
@pytest.mark.slow
def test_better_flags_are_faster(lay):
    folder = lay("compile-flags")
    measure_roughly(folder)
    change(folder / "flags.ini", "level = -O1", "level = -O0")
    slow = number(run(SPEEDUP, folder), "speedup")
    change(folder / "flags.ini", "level = -O0", "level = -O3")
    assert number(run(SPEEDUP, folder), "speedup") > 1.3 * slow


@compiler
@pytest.mark.slow
def test_every_value_that_the_search_may_choose_builds_and_prints_the_same(lay):
    from autoresearch_kit.core.specfile import load_spec

    folder = lay("compile-flags")
    kept = (folder / "flags.ini").read_text()
    for tunable in load_spec(folder / "autoresearch-config.yaml").tunables:
        for choice in tunable.choices or ():
            key = tunable.name.removeprefix("flags.")
            (folder / "flags.ini").write_text(re.sub(rf"^{key} = .*$", f"{key} = {choice}", kept, flags=re.M))
            assert run(BUILD, folder).returncode == 0, choice
            outputs = {run(f"build/{name} 77", folder).stdout for name in ("plain", "tuned")}
            assert len(outputs) == 1 and len(next(iter(outputs))) > 50, choice


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        "-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-ffp-contract=fast", "-DSIDE=1", "-Dmain=x",
        "-include /tmp/x.h", "-I/tmp", "-fplugin=./x.so", "-wrapper /bin/sh", "-B.", "-specs=x", "@flags", "-o x",
        "-Wl,-z,x", "-x assembler", "other.c", "-O2; touch pwned", "$(touch pwned)", "`touch pwned`", "-O2\n  -Ofast",
        "%(level)s", "-O2,-Ofast", "-march=native\u00a0-Ofast", "-fprofile-use=x", "-fno-fast-math -ffast-math",
    ],
)  # fmt: skip
def test_flags_that_are_not_on_the_list_are_refused(lay, flags):
    folder = lay("compile-flags")
    with (folder / "flags.ini").open("a") as file:
        file.write(f"more = {flags}\n")
    done = run(BUILD, folder)
    assert done.returncode != 0 and "flags.ini may not contain" in done.stderr
    assert not (folder / "pwned").exists() and not (folder / "build").exists()


@pytest.mark.parametrize(
    "text",
    ["", "a = -O2", "[other]\na = -O2", "[flags]\n[flags]", "[flags]\na = -O2\na = -O3", "[flags]\n" + "#" * 20_000],
)
def test_a_broken_file_of_flags_is_a_sentence(lay, text):
    folder = lay("compile-flags")
    (folder / "flags.ini").write_text(text)
    done = run(BUILD, folder)
    assert done.returncode != 0 and done.stderr.startswith("flags.ini ") and "Traceback" not in done.stderr


def test_flags_behind_a_link_are_refused(lay):
    folder = lay("compile-flags")
    (folder / "flags.ini").rename(folder / "elsewhere")
    (folder / "flags.ini").symlink_to("elsewhere")
    assert "not a small plain file" in run(BUILD, folder).stderr


@compiler
def test_a_program_that_prints_something_else_has_no_number(lay):
    folder = lay("compile-flags")
    assert run(BUILD, folder).returncode == 0
    (folder / "build/tuned").write_text("#!/bin/sh\necho 1\n")
    done = run(f"'{sys.executable}' measure.py", folder)
    assert done.returncode != 0 and "wrong output" in done.stderr


def test_without_a_compiler_it_says_so(lay):
    assert "there is no C compiler `nocc`" in run(BUILD, lay("compile-flags"), CC="nocc").stderr


# With ark

AGENTS = {
    "python-speed": "sed -i.old 's/^CELLS = .*/CELLS = 20/' solution.py && rm solution.py.old",
    "prompt": "echo 'Answer with one word.' > prompt.md; echo 'Message: {input}' >> prompt.md",
    "compile-flags": "sed -i.old 's/^level = .*/level = -O3/' flags.ini && rm flags.ini.old",
}


@pytest.mark.slow
@pytest.mark.parametrize("template", AGENTS)
def test_a_better_idea_is_kept(template, model, tmp_path, monkeypatch):
    if template == "compile-flags" and shutil.which("cc") is None:
        pytest.skip("no C compiler")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "mine"
    starter.start_project(folder, template)
    spec = folder / "autoresearch-config.yaml"
    if template == "prompt":
        change(spec, '{MODEL_COMMAND: ""}', json.dumps({"MODEL_COMMAND": model}))
    else:
        measure_roughly(folder)
    if template == "compile-flags":
        change(folder / "flags.ini", "level = -O1", "level = -O0")
    subprocess.run(["git", "commit", "-qam", "mine"], cwd=folder, check=False)
    ark = [sys.executable, "-m", "autoresearch_kit"]
    words = [*ark, "run", "--tag", "t", "--attempts", "1", "--agent", AGENTS[template]]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    log = json.loads(subprocess.check_output([*ark, "log", "--tag", "t", "--json"], cwd=folder))
    assert [attempt["outcome"] for attempt in log] == ["keep", "keep"], log[-1]


@pytest.mark.slow
def test_without_a_model_the_run_ends_with_the_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    starter.start_project(tmp_path / "mine", "prompt")
    words = [sys.executable, "-m", "autoresearch_kit", "run", "--tag", "t", "--agent", "true"]
    done = subprocess.run(words, cwd=tmp_path / "mine", capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "set MODEL_COMMAND" in done.stderr
    check = [sys.executable, "-m", "autoresearch_kit", "check"]
    assert "env: MODEL_COMMAND is empty" in subprocess.check_output(check, cwd=tmp_path / "mine", text=True)
