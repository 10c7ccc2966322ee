"""python -m pytest tests/core/test_spec.py

The messages are the point: each test of a wrong spec reads the sentence as a user would.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autoresearch_kit.core.errors import SpecError
from autoresearch_kit.core.names import is_name
from autoresearch_kit.core.spec import Spec
from autoresearch_kit.core.specfile import MAX_BYTES, load_spec, parse_spec

GOOD = """\
name: "my-project"
metric: "val_bpb"
metric_direction: "minimize"            # or "maximize"
mutable_files:
  - "train.py"
immutable_files:
  - "prepare.py"
run_command: "python train.py > run.log 2>&1"
eval_command: "grep '^val_bpb:' run.log"
budget_minutes: 5
branch_prefix: "autoresearch"
rules:
  - "Only modify files listed in mutable_files"
"""
END = len(GOOD.splitlines()) + 1  # the line of what is appended

FULL = """\
goal: Lower it
context: |
  What is known.
timeout_minutes: 12
eval_timeout_minutes: 3
setup_command: make
artifacts: [model.pt, "out/"]
link: [.venv, ../data]
inputs:
  - {path: ~/data/train.bin, sha256: 0000000000000000000000000000000000000000000000000000000000000AbC}
metric_pattern: 'loss is (\\S+)'
constraints: ["peak_vram_mb <= 80000", {metric: steps, sign: ">", limit: 1e-4}]
checks: [make test, {command: make lint, timeout_minutes: 1}]
holdout_command: python holdout.py
decision: {rule: first_better, min_gain: 0.5%}
agent: {command: my-agent, timeout_minutes: 20}
tunables:
  - {file: train.py, name: LR, low: 1e-4, high: 1e-1, log: true}
  - {file: ./train.py, name: ACT, choices: [relu, gelu]}
budget: {attempts: 100, hours: 8, target: 0.9, patience: 30, money: 20}
sandbox: none
env: {VERSION: 3.10, NO: yes, ON: 1:30, EMPTY: "", WIDTH: 010}
resources: {memory_mb: 16000}
on: {keep: ./tell.sh}
"""


def without(key: str) -> str:
    """The good spec without one of its keys."""
    lines, kept = GOOD.splitlines(keepends=True), []
    for line in lines:
        if line.startswith(" ") and not kept:
            continue
        if not line.startswith(" "):
            dropping = line.startswith(f"{key}:")
        if not dropping:
            kept.append(line)
    return "".join(kept)


def problems(text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, "spec.yaml")
    assert caught.value.exit_code == 2
    for problem in caught.value.problems:
        check_sentence(problem)
    return caught.value.problems


LEAKS = ("Input should", "input should", "pydantic", "validat", "NoneType", "dictionary", "instance of", "Value error",
         "function-", "union", "tag:yaml", "parsing", "mapping values", " token ", "scanning", "Traceback")  # fmt: skip


def check_sentence(problem: str) -> None:
    assert "\n" not in problem
    assert problem.isprintable()
    assert not problem.endswith(".")
    assert problem.startswith("spec.yaml:") and problem.split(":")[1].isdigit()
    assert not [leak for leak in LEAKS if leak in problem]


def test_the_ten_common_keys() -> None:
    spec = parse_spec(GOOD)
    assert spec.model_dump(exclude_unset=True) == {
        "name": "my-project",
        "metric": "val_bpb",
        "metric_direction": "minimize",
        "mutable_files": ["train.py"],
        "immutable_files": ["prepare.py"],
        "run_command": "python train.py > run.log 2>&1",
        "eval_command": "grep '^val_bpb:' run.log",
        "budget_minutes": 5.0,
        "branch_prefix": "autoresearch",
        "rules": ["Only modify files listed in mutable_files"],
    }
    assert not spec.maximize
    assert spec.timeout_seconds == 600 and spec.eval_timeout_seconds == 600
    assert spec.agents == []


def test_every_optional_key() -> None:
    spec = parse_spec(GOOD + FULL)
    assert set(Spec.model_fields) == spec.model_fields_set, "a key is missing from this test"
    assert spec.goal == "Lower it" and spec.context == "What is known.\n"
    assert (spec.timeout_seconds, spec.eval_timeout_seconds) == (720, 180)
    assert spec.artifacts == ["model.pt", "out/"] and spec.link == [".venv", "../data"]
    assert [str(c) for c in spec.constraints] == ["peak_vram_mb <= 80000", "steps > 0.0001"]
    assert [(c.command, c.timeout_minutes) for c in spec.checks] == [("make test", 10), ("make lint", 1)]
    assert spec.decision.threshold(-2.0) == pytest.approx(0.01)
    assert [agent.known_as for agent in spec.agent] == ["command"]
    assert [(t.name, t.low, t.choices) for t in spec.tunables] == [("LR", 1e-4, None), ("ACT", None, ("relu", "gelu"))]
    assert spec.budget.model_dump() == {
        "attempts": 100,
        "hours": 8,
        "target": 0.9,
        "patience": 30,
        "money": 20,
        "tokens": None,
    }
    assert spec.resources.memory_mb == 16000
    assert spec.env == {"VERSION": "3.10", "NO": "yes", "ON": "1:30", "EMPTY": "", "WIDTH": "010"}, "taken as spelled"


def test_short_forms() -> None:
    spec = parse_spec(
        GOOD + "agent: search\ndecision: first_better\ntunables: [{file: train.py, name: A, choices: [1]}]"
    )
    assert [agent.known_as for agent in spec.agents] == ["search"]
    spec = parse_spec(GOOD + "tunables: [{file: train.py, name: A, choices: [1, 2]}]")
    assert spec.agent == [] and [agent.name for agent in spec.agents] == ["search"]
    spec = parse_spec(GOOD + "agent: [claude, {name: codex, model: o9}, {command: my-agent, label: mine}]")
    assert [agent.known_as for agent in spec.agents] == ["claude", "codex:o9", "mine"]
    assert parse_spec(GOOD + "agent: {name: claude, drive: agent}").agents[0].drive == "agent"
    assert parse_spec(GOOD + "decision: {min_gain: 1e-4}").decision.threshold(5) == 1e-4
    assert parse_spec(GOOD + "budget: {attempts: 1e2, target: '1e-3'}").budget.attempts == 100
    assert parse_spec(without("budget_minutes") + "budget_minutes: 5e-1").timeout_seconds == 60
    assert parse_spec("\ufeff".encode().decode("utf-8-sig") + GOOD.replace("\n", "\r\n")) == parse_spec(GOOD)


@pytest.mark.parametrize("files", ["[new.py]", "['src/*.py']", "['**']", "[src/]", "[./train.py]", "['a b/ü.py']"])
def test_mutable_files_may_be_globs_of_what_does_not_exist(files: str) -> None:
    text = without("immutable_files").replace('mutable_files:\n  - "train.py"', f"mutable_files: {files}")
    assert len(parse_spec(text).mutable_files) == 1


def test_paths_are_kept_in_normal_form() -> None:
    text = without("mutable_files") + "mutable_files: [./a//b.py, src/./x/]\n"
    assert parse_spec(text).mutable_files == ["a/b.py", "src/x/"]


DIRECTION = 'write for example `metric_direction: "minimize"`'
TUNABLE = "tunables: [{file: train.py, name: LR, "
# text appended to the good spec, the line below it (0 is the first), and words of the one sentence
APPENDED = [
    ("budgt_minutes: 3", 0, "`budgt_minutes` is not a key of the spec; did you mean `budget_minutes`?"),
    ("mutable_file: [a]", 0, "`mutable_file` is not a key of the spec; did you mean `mutable_files`?"),
    ("metric-direction: x", 0, "did you mean `metric_direction`?"),
    ("Timeout: 4", 0, "did you mean `timeout_minutes`?"),
    ("eval: x", 0, "did you mean `eval_command`?"),
    ("xyzzy: 1", 0, "`xyzzy` is not a key of the spec; known keys are name, metric, "),
    ("attempts: 5", 0, "it belongs into `budget`: write `budget: {attempts: ...}`"),
    ("min_gain: 5", 0, "it belongs into `decision`"),
    ("3: 4", 0, "`3` is not a key of the spec"),
    ("true: 4", 0, "`true` is not a key of the spec"),
    ("null: 4", 0, "`null` is not a key of the spec"),
    ("? [a, b]\n: 3", 0, "has a list or a mapping as a key; write `key: value`"),
    ('"a\\ud800": 3', 0, "`a\ufffd` is not a key of the spec"),
    ('"\\e[2J": 3', 0, "`\ufffd[2J` is not a key of the spec"),
    ("budget:\n  hours: 2\n  attemps: 3", 2, "`budget.attemps` is not a key of the spec; did you mean `attempts`?"),
    ("budget:\n  budget_minutes: 3", 1, "it belongs to the outermost keys: write for example `budget_minutes: 5`"),
    ("agent:\n  comand: x", 1, "`agent.comand` is not a key of the spec; did you mean `command`?"),
    ("decision:\n  rul: first_better", 1, "`decision.rul` is not a key of the spec; did you mean `rule`?"),
    (TUNABLE + "\n  lo: 1, low: 1, high: 2}]", 1, "`tunables[0].lo` is not a key of the spec; did you mean `low`?"),
    ("inputs:\n- path: a\n  sha265: x", 2, "`inputs[0].sha265` is not a key of the spec; did you mean `sha256`?"),
    ("inputs:\n- path: a", 1, "`inputs[0].sha256` is missing; write for example `sha256: the 64 digits"),
    ("resources:\n  memory: 3", 1, "`resources.memory` is not a key of the spec; did you mean `memory_mb`?"),
    ("metric: b", 0, "`metric` stands twice; remove one"),
    ("budget: {hours: 1,\n hours: 2}", 1, "`budget.hours` stands twice; remove one"),
    ("rules2: &a [*a]\nrules2: 3", 0, "`rules2[0]` is an alias for something around it; write the values out"),
    ("env: &a {A: *a}", 0, "`env.A` is an alias for something around it; write the values out"),
    ("timeout_minutes: 3", 0, "`timeout_minutes` (3) is shorter than `budget_minutes` (5); write 5 or more"),
    ("timeout_minutes: 1e7", 0, "`timeout_minutes` (1e7) should be at most 1e+06; write for example"),
    ("eval_timeout_minutes: true", 0, "(true) should be a number, not true or false; write for example"),
    ("goal: [a]", 0, "`goal` should be text, not a list; write for example `goal: "),
    ("goal:", 0, "`goal` has no value; write for example"),
    ("goal: 2024-13-45 # is text\ngaol: 2", 1, "`gaol` is not a key of the spec; did you mean `goal`?"),
    ('goal: "a\\ud800b"', 0, "holds the character U+D800, which no file can; remove it"),
    ("goal: !foo x", 0, "has the tag `!foo`; remove it"),
    ("goal: !!python/object:os.system x", 0, "has the tag `!!python/object:os.system`; remove it"),
    ("goal: !!bool x", 0, "is not what its tag says"),
    ("goal: !!float", 0, "is not what its tag says"),
    ("goal: \ufeff\t", 0, "has a value that begins with '\ufffd'; put it in quotes"),
    ("goal: !!timestamp x\ncontext: !!int y", 1, "`context` (y) is not what its tag says"),
    ("env: !!set {a, b}", 0, "has the tag `!!set`; remove it"),
    ("artifacts: model.pt", 0, '`artifacts` (model.pt) should be a list; write `artifacts: ["model.pt"]`'),
    ("artifacts: [/tmp/x]", 0, "`artifacts[0]` (/tmp/x) is absolute; write it relative to the spec's folder"),
    ("link: [..]", 0, "`link[0]` (..) is a whole folder around the spec; name what to share in it"),
    ("link: [../../a/../b]", 0, "leads out of the spec's folder"),
    ("link: [~/data]", 0, "is absolute; write it relative to the spec's folder"),
    ("inputs: [{path: a, sha256: abc}]", 0, "(abc) is not a SHA-256 digest of 64 hexadecimal digits; take what"),
    ("inputs: data.bin", 0, "`inputs` (data.bin) should be a list; write for example `inputs: [{path:"),
    ("inputs:\n- data.bin", 1, "`inputs[0]` (data.bin) should be a mapping of keys; write for example"),
    ("metric_pattern: (", 0, "`metric_pattern` (() is not a regular expression (missing ), unterminated subpattern"),
    ("metric_pattern: a", 0, "has 0 groups; write exactly one, around the number"),
    ("metric_pattern: (a)(b)", 0, "has 2 groups; write exactly one, around the number"),
    ("metric_pattern: '([[a]+)'", 0, "is not a regular expression (Possible nested set"),
    ("metric_pattern: '(a{99999999999})'", 0, "is not a regular expression"),
    ("constraints: [a = 3]", 0, "`constraints[0]` (a = 3) is not a limit; write for example `peak_vram_mb <= 80000`"),
    ("constraints: [a <= nan]", 0, "(a <= nan) is not a limit"),
    ("constraints: [a <= 3 MB]", 0, "(a <= 3 MB) is not a limit"),
    ("constraints:\n- a < 3\n- val_bpb < 3", 2, "`constraints[1]` limits the metric itself; remove it"),
    ("constraints: [{metric: a, sign: '==', limit: 3}]", 0, "`constraints[0].sign` (==) should be `<=` or `>=` or"),
    ("constraints: a <= 3", 0, '`constraints` (a <= 3) should be a list; write `constraints: ["a <= 3"]`'),
    ("checks: [make test, '']", 0, "`checks[1]` is empty; write a shell command"),
    ("checks: [3]", 0, '`checks[0]` (3) should be a mapping of keys; write for example `checks: ["python'),
    ("checks: [{timeout_minutes: 3}]", 0, "`checks[0].command` is missing; write for example `command: "),
    ("holdout_command: ' '", 0, "`holdout_command` ( ) is empty; write a shell command"),
    ("decision: best", 0, "`decision` (best) should be `sequential` or `first_better`; "),
    ("decision: 3", 0, "`decision` (3) should be a mapping of keys"),
    ("decision: {max_runs: 1}", 0, "`decision.max_runs` (1) is below 2: on a noisy metric a candidate is held against"),
    ("decision: {false_keeps: -0.1}", 0, "`decision.false_keeps` (-0.1) should be above 0"),
    ("decision: {false_keeps: 0}", 0, "`decision.false_keeps` (0) should be above 0"),
    ("decision: {baseline_runs: 0}", 0, "`decision.baseline_runs` (0) should be"),
    ("decision: {min_gain: -1}", 0, "should be a number of at least 0, or a percentage such as `0.5%`"),
    ("decision: {min_gain: nan%}", 0, "`decision.min_gain` (nan%) should be a plain number"),
    ("decision: {min_gain: [1]}", 0, "should be a number of at least 0, or a percentage"),
    ("agent: {}", 0, "`agent` should have either `name` or `command`; write for example `agent: search`"),
    ("agent: {name: pi, command: b}", 0, "`agent` should have either `name` or `command`"),
    ("agent: ''", 0, "`agent` is not an agent of the kit; known are search, transplant, claude"),
    ("agent: my-agent --once", 0, "(my-agent --once) is not an agent of the kit; known are"),
    ("agent: [claud]", 0, "`agent[0]` (claud) is not an agent of the kit; did you mean `claude`?"),
    ("agent: [claude, [codex]]", 0, "`agent[1]` should be a mapping of keys, not a list"),
    ("agent: [claude, {name: codex, drive: agent}]", 0, "`agent` has `drive: agent` in a list"),
    ("agent: {command: x, model: y}", 0, "`agent` has `model` or `arguments` beside a command"),
    ("agent: {name: transplant, model: y}", 0, "`agent` is `transplant`, which takes no `model`"),
    ("drive: agent", 0, "`drive` is not a key of the spec; it belongs into `agent`"),
    ("agent: search", 0, "`agent` is `search`, which needs `tunables` to turn; write for example `tunables: [{file:"),
    ("agent: {name: search}", 0, "`agent` is `search`, which needs `tunables` to turn"),
    (TUNABLE + "low: 1}]", 0, "`tunables[0]`: LR needs low and high, or choices"),
    (TUNABLE + "low: 2, high: 1}]", 0, "`tunables[0]`: LR has a low of 2 that is not below its high of 1"),
    (TUNABLE + "choices: [[1]]}]", 0, "`tunables[0].choices[0]` should be text, a number, or true or false"),
    (TUNABLE + "choices: a}]", 0, '`tunables[0].choices` (a) should be a list; write `choices: ["a"]`'),
    (TUNABLE + "log: maybe, low: 1, high: 2}]", 0, "`tunables[0].log` (maybe) should be true or false"),
    ("tunables: [{file: other.py, name: LR, choices: [1]}]", 0, "`other.py` holds a tunable and is not in `mutable_"),
    ("tunables: LR", 0, "`tunables` (LR) should be a list; write for example `tunables: [{file: train.py, name: LR"),
    ("budget: 100", 0, "`budget` (100) should be a mapping of keys; write for example `budget: {attempts: 100, hours"),
    ("budget:", 0, "`budget` has no value; write for example `budget: {attempts: 100, hours: 8}`, or remove the key"),
    ("budget: {attempts: 1.5}", 0, "`budget.attempts` (1.5) should be a whole number; write for example `attempts: 1"),
    ("budget: {attempts: true}", 0, "`budget.attempts` (true) should be a number, not true or false"),
    ("budget: {patience: 0}", 0, "`budget.patience` (0) should be at least 1; write for example `patience: 30`"),
    ("budget: {target: .nan}", 0, "`budget.target` (.nan) should be a finite number; write for example `target: 0.9"),
    ("budget: {hours: 8h}", 0, "`budget.hours` (8h) should be a plain number, without unit or words; write for exam"),
    ("budget: {money: -1}", 0, "`budget.money` (-1) should be above 0; write for example `money: 20`"),
    ("sandbox: docker", 0, "`sandbox` (docker) should be `none`"),
    ("env: {ARK_SEED: 1}", 0, "`env.ARK_SEED` (1) cannot be set: names that begin with ARK_ or GIT_ belong to the"),
    ("env: {A B: 1}", 0, "`env.A B` (1) is not the name of an environment variable; use letters, digits and `_`"),
    ("env: {A: [1]}", 0, "`env.A` should be text, not a list"),
    ("env: {A: }", 0, '`env.A` has no value; write for example `env: {OMP_NUM_THREADS: "4"}`'),
    ('env: {A: "x\\0y"}', 0, "`env.A` (x\ufffdy) holds the character U+0000, which no file can; remove it"),
    ("env: [A=1]", 0, "`env` should be a mapping of keys, not a list; write for example `env: {OMP"),
    ("resources: {memory_mb: 0}", 0, "`resources.memory_mb` (0) should be above 0; write for example `memory_mb: "),
    ("<<: 3", 0, "`<<` should be an alias of a mapping; write the keys out"),
    # no YAML at all: the first mistake hides the others
    ("budget:\n\thours: 3", 1, "has a tab where YAML wants blanks; indent with blanks"),
    ("goal: a: b", 0, "has a `: ` where none can be; put the value in quotes"),
    ("env: {a: 1\n", 0, "opens a `{` that is not closed; close it"),
    ("link: [a, b\n", 0, "opens a `[` that is not closed; close it"),
    ('context: x\ngoal: "abc\n\n', 1, "opens a quote that is never closed; close it"),
    ('goal: "\\d"', 0, "has a backslash that YAML does not know in double quotes; use single quotes"),
    ("artifacts:\n  - *.pt", 1, "has a value that begins with `*` or `&`; put it in quotes"),
    ("artifacts: [*pt]", 0, "has a value that begins with `*`, which YAML takes for an alias; put it in quotes"),
    ("goal: @home", 0, "has a value that begins with '@'; put it in quotes"),
    ("goal: `x`", 0, "has a value that begins with '`'; put it in quotes"),
    ("goal: %x", 0, "has a value that begins with '%'; put it in quotes"),
    ("---\nname: x", 0, "begins a second document; remove the `---`"),
    ("goal\n", 0, "does not fit the lines above; write `key: value`"),
    (" goal: x\n", 0, "does not fit the lines above; write `key: value`, or `- item`, indented like the others"),
    ("goal: a\0b", 0, "holds the control character 0x00; remove it"),
    ("goal: '\x1b[2J'", 0, "holds the control character 0x1b; remove it"),
]


@pytest.mark.parametrize(("text", "line", "words"), APPENDED, ids=[repr(text)[:40] for text, _, _ in APPENDED])
def test_one_mistake_in_what_was_added(text: str, line: int, words: str) -> None:
    found = problems(GOOD + text)
    assert [p for p in found if p.startswith(f"spec.yaml:{END + line}:") and words in p], found
    assert len(found) == 1 or "stands twice" in text or "rules2" in text, found


# a key of the good spec, what stands there instead, and words of the one sentence
REPLACED = [
    ("name", "7", '`name` (7) should be text; put it in quotes: `name: "7"`'),
    ("name", "yes", '`name` (yes) should be text; put it in quotes: `name: "yes"`'),
    ("metric", "3.5", '`metric` (3.5) should be text; put it in quotes: `metric: "3.5"`'),
    ("metric", "val bpb", "(val bpb) is not a metric's name; use letters, digits, `_`, `.`, `/`, `-`"),
    ("metric", "''", "`metric` is not a metric's name"),
    ("metric_direction", "min", "(min) should be `minimize` or `maximize`; did you mean `minimize`?"),
    ("metric_direction", "MAXIMIZE", "did you mean `maximize`?"),
    ("metric_direction", "42", "(42) should be `minimize` or `maximize`; write `metric_direction: minimize`"),
    ("metric_direction", '"a\\nb"', "(a\ufffdb) should be `minimize` or `maximize`"),
    ("metric_direction", "z" * 300, "zzz…) should be `minimize` or `maximize`"),
    ("mutable_files", "train.py", '`mutable_files` (train.py) should be a list; write `mutable_files: ["train.py"]`'),
    ("mutable_files", "[]", '`mutable_files` is empty; write for example `mutable_files: ["train.py"]`'),
    ("mutable_files", "", '`mutable_files` has no value; write for example `mutable_files: ["train.py"]`'),
    ("mutable_files", "{a: b}", "`mutable_files` should be a list, not a mapping; write for example"),
    ("mutable_files", "[1]", '`mutable_files[0]` (1) should be text; put it in quotes: `"1"`'),
    ("mutable_files", "[/etc/passwd]", "`mutable_files[0]` (/etc/passwd) is absolute; write it relative to the spec's"),
    ("mutable_files", "[~/x]", "is absolute; write it relative to the spec's folder"),
    ("mutable_files", "[a/../../b]", "leads out of the spec's folder; move the spec up, or the file below it"),
    ("mutable_files", "[.]", "is the folder itself; write `**` for everything in it"),
    ("mutable_files", "['']", "`mutable_files[0]` is empty; write a path relative to the spec's folder"),
    ("mutable_files", "['a\\b']", "holds a backslash or a control character; write a plain path"),
    ("mutable_files", '["a\\nb"]', "holds a backslash or a control character; write a plain path"),
    ("mutable_files", "[a/.GIT/config]", "lies inside .git, which is never part of an attempt; remove it"),
    ("mutable_files", "[program.md]", "`program.md` belongs to the engine and cannot be mutable; remove it"),
    ("mutable_files", "[./results.tsv]", "`results.tsv` belongs to the engine"),
    ("mutable_files", "[.ark/]", "`.ark/` belongs to the engine"),
    ("mutable_files", "[spec.yaml]", "`spec.yaml` says how to measure and cannot be mutable; remove it"),
    ("mutable_files", "[autoresearch-config.yaml]", "says how to measure and cannot be mutable"),
    ("run_command", "", '`run_command` has no value; write for example `run_command: "python train.py'),
    ("run_command", "'  '", "`run_command` (  ) is empty; write a shell command"),
    ("run_command", "[python, x]", "`run_command` should be text, not a list; write for example"),
    ("run_command", '"a\\0b"', "holds the character U+0000, which no file can; remove it"),
    ("budget_minutes", "-1", "`budget_minutes` (-1) should be above 0; write for example `budget_minutes: 5`"),
    ("budget_minutes", "0", "should be above 0"),
    ("budget_minutes", ".inf", "(.inf) should be a finite number"),
    ("budget_minutes", "'inf'", "(inf) should be a plain number"),
    ("budget_minutes", "five", "(five) should be a plain number, without unit or words"),
    ("budget_minutes", "'1_0'", "(1_0) should be a plain number"),
    ("budget_minutes", "\u0661", "should be a plain number"),
    ("budget_minutes", "[5]", "`budget_minutes` should be a number, not a list"),
    ("budget_minutes", "1:30", "(1:30) is read as 90 by YAML; write 90"),
    ("budget_minutes", "010", "(010) is read as 8 by YAML; write 8"),
    ("budget_minutes", "9" * 5000, "999…) is not what its tag says, or too long; write a plain number"),
    ("budget_minutes", "9" * 400, "999…) is too large for a number; write for example `budget_minutes: 5`"),
    ("branch_prefix", "a b", "(a b) cannot begin a branch's name; use letters, digits"),
    ("branch_prefix", "/a", "(/a) cannot begin a branch's name"),
    ("branch_prefix", "a.lock", "cannot begin a branch's name"),
    ("branch_prefix", "''", "`branch_prefix` cannot begin a branch's name"),
    ("rules", "be good", '`rules` (be good) should be a list; write `rules: ["be good"]`'),
    ("immutable_files", "[train.py]", "`train.py` is both mutable and immutable; remove it from one list"),
    ("immutable_files", "['*.py']", "`*.py` is both mutable and immutable"),
    ("immutable_files", "[./train.py]", "`train.py` is both mutable and immutable"),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value", "words"), REPLACED, ids=[f"{k}: {v}"[:40] for k, v, _ in REPLACED])
def test_one_mistake_in_the_common_keys(key: str, value: str, words: str) -> None:
    found = problems(without(key) + f"{key}: {value}\n")
    assert len(found) == 1, found
    assert found[0].startswith(f"spec.yaml:{len(without(key).splitlines()) + 1}:") and words in found[0], found


@pytest.mark.parametrize("key", ["metric", "metric_direction", "mutable_files", "run_command"])
def test_a_missing_key_shows_how_to_write_it(key: str) -> None:
    (found,) = problems(without(key))
    assert found.startswith(f"spec.yaml:1: `{key}` is missing; write for example `{key}: ")


def test_a_slip_in_a_required_key_is_one_mistake() -> None:
    assert problems(without("metric") + "metrc: x") == [
        f"spec.yaml:{END - 1}: `metrc` is not a key of the spec; did you mean `metric`?"
    ]


def test_mutable_globs_against_immutable_files() -> None:
    text = without("mutable_files") + "mutable_files: ['*.py', 'src/']\n"
    assert "`prepare.py` is both mutable and immutable" in problems(text)[0]
    assert parse_spec(text.replace("prepare.py", "data/prepare.py")).immutable_files == ["data/prepare.py"]


def test_all_mistakes_at_once_in_the_order_of_their_lines() -> None:
    text = """\
name: 7
metrc: val_bpb
metric_direction: min
mutable_files:
  - train.py
  - /etc/passwd
  - 3
immutable_files: [train.py]
run_command: ""
budget_minutes: -1
budget:
  attemps: 3
  hours: 0
  hours: 2
agent: {}
decision:
  min_gain: -1
  rule: best
tunables:
  - {file: other.py, name: A, low: 1, high: 0}
  - {file: train.py}
inputs: [{path: "", sha256: no}]
checks:
  - ""
env:
  ARK_X: 1
  A B: 2
color: red
"""
    found = [problem.removeprefix("spec.yaml:") for problem in problems(text)]
    lines = [int(problem.split(":")[0]) for problem in found]
    assert lines == sorted(lines)
    assert lines == [1, 2, 3, 6, 7, 8, 9, 10, 12, 13, 14, 15, 17, 18, 20, 20, 21, 22, 22, 24, 26, 27, 28]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n- b\n", "hello", "3", "null", "[]", "--- \n"])
def test_what_is_no_spec_at_all(text: str) -> None:
    assert problems(text) == [
        "spec.yaml:1: should hold keys such as `metric: val_bpb`; `ark init` writes a full example"
    ]


def test_merged_keys_and_aliases_are_read() -> None:
    spec = parse_spec(GOOD + "checks: [&a {command: make, timeout_minutes: 3}, {<<: *a, command: x}, *a]")
    assert [(c.command, c.timeout_minutes) for c in spec.checks] == [("make", 3), ("x", 3), ("make", 3)]
    (found,) = problems(GOOD + "checks:\n- &a {command: make}\n- <<: *a\n  comand: x")
    assert found.startswith(f"spec.yaml:{END + 3}: `checks[1].comand`")


def test_aliases_that_explode() -> None:
    bomb = "goal: \n - &a [x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f" - &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
    assert "holds more than 50000 values, perhaps by aliases; write fewer" in problems(GOOD + bomb)[0]
    chain = "goal: \n - &a0 []\n" + "".join(f" - &a{n + 1} [*a{n}]\n" for n in range(300))
    assert "is nested too deeply" in problems(GOOD + chain)[0]


@pytest.mark.parametrize(
    "deep", ["[" * 40 + "]" * 40, "[" * 9000, "{a: " * 300, "\n" + "".join(" " * n + "a:\n" for n in range(1, 500))]
)
def test_deep_nesting(deep: str) -> None:
    (found,) = problems(GOOD + f"goal: {deep}")
    assert "is nested too deeply; a spec has three levels" in found


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "autoresearch-config.yaml"

    def refused() -> str:
        with pytest.raises(SpecError) as caught:
            load_spec(path)
        return caught.value.message

    assert refused() == f"{path} does not exist"
    path.mkdir()
    assert refused() == f"{path} cannot be read: Is a directory"
    path.rmdir()
    path.write_bytes(GOOD.encode() + b"goal: \xff\n")
    assert refused() == f"{path}:{END}: is not UTF-8 text; save the file as UTF-8"
    path.write_bytes(b"#" * (MAX_BYTES + 1))
    assert "larger than a megabyte" in refused()
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_spec(path) == parse_spec(GOOD)


@pytest.mark.parametrize("name", ["a", "mar5", "2026-01-01", "a.b_c-d", "A" * 80])
def test_tags(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize(
    "name", ["", "a/b", ".a", "-a", "a.", "a..b", "a.lock", "a b", "ä", "a\n", "@", "a~1", "a^", "a:b", "A" * 81, "²"]
)
def test_no_tags(name: str) -> None:
    assert not is_name(name)


def test_the_yardstick_is_what_fixes_the_number() -> None:
    plain = parse_spec(GOOD + FULL).yardstick
    for old, new in [("goal: Lower it", "goal: x"), ("attempts: 100", "attempts: 7"), ("0.5%", "1"), ("my-agent", "x")]:
        assert parse_spec((GOOD + FULL).replace(old, new)).yardstick == plain, new
    for old, new in [
        ("make\n", "make all\n"),
        ("0000AbC", "0000AbD"),
        ("3.10", "3.1"),
        ("python train.py", "python x.py"),
    ]:
        assert old in GOOD + FULL
        assert parse_spec((GOOD + FULL).replace(old, new)).yardstick != plain, new


# Whatever the text is: a spec, or sentences


def accepted_or_refused(text: str) -> None:
    try:
        parse_spec(text, "spec.yaml")
    except SpecError as error:
        assert error.problems
        for problem in error.problems:
            check_sentence(problem)


PIECES = [
    ": ", "- ", "\n", "\n  ", "  ", "[", "]", "{", "}", ",", "#", "&a ", "*a", "!!", "!", "|", ">", "'", '"', "%", "@",
    "? ", "<<", "---", "\t", "~", "null", "true", "yes", ".nan", "1e9", "-1", "0o7", "1:30", "2020-01-01", "\0", "\\",
    "\\ud800", "\ud800", "\ufeff", "\u2028", "\x85", "é", "!!binary ", "!!set ", "!!float ", "!!int ",
    *Spec.model_fields,
    "attempts", "hours", "command", "timeout_minutes", "min_gain", "path", "low", "high", "choices", "limit", "sign",
]  # fmt: skip
BITS = st.sampled_from(PIECES)
SLOW = [HealthCheck.too_slow]


@settings(max_examples=200, deadline=None, suppress_health_check=SLOW)
@given(st.lists(BITS, max_size=25).map("".join), st.booleans())
def test_any_text(text: str, after: bool) -> None:
    accepted_or_refused(GOOD + text if after else text)


@settings(max_examples=100, deadline=None, suppress_health_check=SLOW)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_any_edit_of_a_good_spec(seed: int, edits: int) -> None:
    rng, text = random.Random(seed), GOOD + FULL
    for _ in range(edits):
        at, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        end = min(end, at + rng.randrange(40))
        text = text[:at] + rng.choice(["", text[at:end] * 2, rng.choice(PIECES)]) + text[end:]
    accepted_or_refused(text)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["a <= 3", "5%", "("]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | BITS, inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=SLOW)
@given(st.dictionaries(st.sampled_from(list(Spec.model_fields)), VALUES, max_size=6))
def test_any_value_of_any_key(changes: dict[str, object]) -> None:
    accepted_or_refused(yaml.safe_dump({**yaml.safe_load(GOOD), **changes}, allow_unicode=True))
