"""program.md for any spec, a project's own templates, and their mistakes.   pytest tests/agents/test_brief.py"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoresearch_kit.agents import brief
from autoresearch_kit.agents.digest import SAMPLE
from autoresearch_kit.cli import main
from autoresearch_kit.core.errors import ArkError
from autoresearch_kit.core.spec import Spec
from autoresearch_kit.core.specfile import load_spec, parse_spec
from autoresearch_kit.data import data_folder

ROOT = Path(__file__).parents[2]
SPECS = sorted([*(ROOT / "examples").glob("*/*.yaml"), *(ROOT / "templates").glob("*/*.yaml")])
DOMAINS = sorted(path.name.removesuffix(".md.j2") for path in (ROOT / "templates" / "domains").iterdir())
MINIMAL: dict[str, Any] = {
    "metric": "val_bpb",
    "metric_direction": "minimize",
    "mutable_files": ["train.py"],
    "run_command": "python train.py",
}
FULL: dict[str, Any] = {
    **MINIMAL,
    "name": "everything",
    "metric_direction": "maximize",
    "mutable_files": ["train.py", "model/*.py"],
    "immutable_files": ["prepare.py", "data/"],
    "run_command": "python train.py > run.log 2>&1\ntest -s model.pt",
    "eval_command": "python evaluate.py `cat which`",
    "budget_minutes": 7,
    "timeout_minutes": 11,
    "eval_timeout_minutes": 1.5,
    "branch_prefix": "night",
    "rules": ["No new dependencies", "Keep the interface\nof train.py"],
    "goal": "Lower the loss of the small model.",
    "context": "Earlier work has shown that batches matter.",
    "setup_command": "python prepare.py",
    "artifacts": ["model.pt", "tokens/*.json"],
    "link": [".venv"],
    "inputs": [{"path": "data/train.bin", "sha256": "0" * 64}],
    "metric_pattern": "^score=(.*)$",
    "constraints": ["peak_vram_mb <= 80000", "wall_seconds < 400"],
    "checks": ["python -m pytest -q", {"command": "make lint", "timeout_minutes": 3}],
    "holdout_command": "python evaluate.py --secret-holdout",
    "decision": {"rule": "sequential", "false_keeps": 0.25, "min_gain": 0.002, "baseline_runs": 5, "max_runs": 16},
    "agent": [{"name": "claude"}, {"command": "mine", "label": "mine"}],
    "tunables": [{"file": "train.py", "name": "LR", "low": 0.1, "high": 1}],
    "budget": {"attempts": 100, "hours": 8, "target": 0.9, "patience": 30, "money": 20, "tokens": 1000},
    "sandbox": "none",
    "env": {"OMP_NUM_THREADS": "4", "NAME": "two words"},
    "resources": {"memory_mb": 16000},
    "on": {"keep": "./tell.sh"},
}


def spec(base: dict[str, Any] = MINIMAL, **changes: Any) -> Spec:
    return parse_spec(json.dumps({**base, **changes}))


def plain(text: str) -> str:
    """The text with all white space alike, to look for words across lines."""
    return " ".join(text.split())


def section(text: str, heading: str) -> str:
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.S | re.M)
    assert found, f"no section {heading}"
    return plain(found[1])


def test_the_full_spec_of_this_test_has_every_key() -> None:
    assert FULL.keys() == Spec.model_fields.keys()


# What the program says


@pytest.mark.parametrize("base", [MINIMAL, FULL], ids=["minimal", "full"])
@pytest.mark.parametrize("rule", ["sequential", "first_better"])
def test_what_every_program_says(base: dict[str, Any], rule: str) -> None:
    wanted = spec(base, decision=rule)
    text = brief.render_program(wanted)
    goal, files = section(text, "Goal"), section(text, "What you may change")
    run, decided = section(text, "How it is run and measured"), section(text, "How it is decided")
    history, turn = section(text, "History"), section(text, "Your turn")
    ideas, safety = section(text, "Out of ideas?"), section(text, "Safety")

    assert "`val_bpb`" in goal
    assert ("Higher is better" if wanted.maximize else "Lower is better") in goal
    assert all(f"- `{path}`" in files for path in wanted.mutable_files)
    assert ("worth reading: `prepare.py`, `data/`." in files) is bool(wanted.immutable_files)
    assert "a change to another file is simply not taken" in files
    assert "install nothing" in files
    assert f"ARK_BUDGET_SECONDS={wanted.budget_minutes * 60:g}" in run
    assert f"is meant to take {brief_minutes(wanted.budget_minutes)}" in run
    assert f"is killed after {brief_minutes(wanted.timeout_seconds / 60)}" in run
    assert "Missing, not a finite number, or twice with different values: a crash" in run
    assert "choosing a seed gains nothing" in run
    assert "luck is not rewarded" in decided if rule == "sequential" else "lucky run is no discovery" in decided
    assert "in one run" in decided if rule == "first_better" else "until luck is ruled out" in decided
    assert "Simple is better" in decided and "twenty ugly lines" in decided and "deleting lines" in decided
    assert f"up to {brief_minutes(wanted.timeout_seconds / 60)}" in turn, "how long `ark try` may take"
    assert "A crash or a time-out" in decided and "drop what is wrong at the root" in decided
    assert all(words in history for words in ("`results.tsv`", "`git show COMMIT`", "`ark log`", "`ark show N`"))
    assert "`.ark/attempt.md`" in turn and "kind: what changes" in turn and "Stop" in turn
    verbs = ["ark try -m", "--why", "ark try --detach", "ark wait", "ark try --from N", "ark log", "ark show N"]
    assert all(verb in turn for verb in [*verbs, "ark status", 'ark note "IDEA"'])
    assert "Do not edit anything until the verdict is there" in turn
    assert "Never stop before `ark try` says that the run is over, and never ask" in turn
    for words in ("Read the mutable files again", "two near misses", "the opposite", "Remove", "radical"):
        assert words in ideas, words
    assert "other projects" in safety and "leave other folders" in safety


def brief_minutes(minutes: float) -> str:
    return f"{minutes:g} minutes" if minutes >= 2 else f"{minutes * 60:g} seconds"


def test_what_the_full_spec_adds() -> None:
    text = brief.render_program(spec(FULL))
    assert text.startswith(
        "<!-- rendered by ark from autoresearch-config.yaml; edit the spec instead -->\n# everything:"
    )
    assert "Lower the loss of the small model." in section(text, "Goal")
    run, decided = section(text, "How it is run and measured"), section(text, "How it is decided")
    for line in ("python train.py > run.log 2>&1", "test -s model.pt", "python evaluate.py `cat which`"):
        assert f"\n    {line}\n" in text, "commands stand in a block of their own, which no backtick can close"
    for path in ("`run.log`", "`model.pt`", "`tokens/*.json`"):
        assert path in run, "what survives the run"
    assert "export ARK_BUDGET_SECONDS=420 ARK_SEED=1 NAME='two words' OMP_NUM_THREADS=4 python train.py" in run
    assert "11 minutes" in run and "the evaluation after 90 seconds" in run
    assert "\n    ^score=(.*)$\n" in text
    assert "val_bpb: 0.123" not in text, "a pattern takes the place of the metric's own line"
    assert "- `peak_vram_mb <= 80000` - `wall_seconds < 400`" in run
    assert "more than 16000 MB of memory" in run
    assert "python -m pytest -q # at most 10 minutes" in run and "make lint # at most 3 minutes" in run
    assert "at least 0.002" in decided and "16 runs" in decided and "0.25 keeps" in decided
    assert "not to be worse by 0.002" in decided
    assert "data that no decision has seen" in decided
    assert "--secret-holdout" not in text, "nobody tunes for a command that is not told"
    assert section(text, "Rules of this project") == "- No new dependencies - Keep the interface of train.py"
    assert "\n- Keep the interface\n  of train.py\n" in text
    assert section(text, "Background") == "Earlier work has shown that batches matter."


def test_what_a_minimal_spec_leaves_out() -> None:
    text = brief.render_program(spec())
    left_out = ["Hard limits", "These must pass", "Background", "Rules of this project", "evaluation after"]
    for words in [*left_out, "worth reading", "at least", "no decision has seen"]:
        assert words not in text, words
    assert "\n    val_bpb: 0.123\n" in text
    assert "\n    python train.py\n" in text


@pytest.mark.parametrize(
    ("gain", "words"), [("0.5%", "by at least 0.5% of it"), (1e-05, "by at least 1e-05"), (0, ""), ("0%", "")]
)
@pytest.mark.parametrize("rule", ["sequential", "first_better"])
def test_the_smallest_gain_is_told_in_words(gain: Any, words: str, rule: str) -> None:
    text = plain(brief.render_program(spec(decision={"rule": rule, "min_gain": gain})))
    assert words in text if words else "at least" not in text
    for noiseless in ("has no noise and stays as it is", "propose it, where the number has no noise"):
        assert (noiseless in text) is (rule == "sequential" and not words)


def test_same_spec_same_bytes() -> None:
    assert brief.render_program(spec(FULL)) == brief.render_program(spec(dict(reversed(FULL.items()))))


@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1).filter(str.strip))
def test_any_words_in_a_spec_arrive_as_they_are(words: str) -> None:
    text = brief.render_program(spec().model_copy(update={"rules": [words], "goal": words, "context": words}))
    assert text.count(words.strip()) >= 3


@pytest.mark.parametrize("path", SPECS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_spec_of_ours_has_a_program_that_can_be_read_in_one_go(path: Path) -> None:
    text = brief.render_program(load_spec(path), path.parent)
    assert len(text.splitlines()) <= 160
    assert not re.search(r"\n\n\n", text), "no two blank lines in a row"
    assert not re.search(r"[ \t]\n", text), "nothing at the end of a line"
    assert text.endswith("\n") and not text.endswith("\n\n")


@pytest.mark.parametrize("rule", ["sequential", "first_better"])
@pytest.mark.parametrize("base", [MINIMAL, FULL], ids=["minimal", "full"])
def test_the_kits_text_is_tidy_whatever_the_spec_has(base: dict[str, Any], rule: str) -> None:
    text = brief.render_program(spec(base, decision=rule))
    assert not re.search(r"\n\n\n|[ \t]\n", text)
    assert max(map(len, text.splitlines())) <= 160


def test_the_kernel_example_uses_its_domain() -> None:
    folder = ROOT / "examples" / "kernel_tuning"
    text = (folder / "program.md").read_text()
    assert text.startswith(
        "<!-- rendered by ark from autoresearch-config.yaml and program.md.j2; edit them instead -->"
    )
    assert "## Fast kernels" in text
    assert text.index("## Out of ideas?") < text.index("## Fast kernels") < text.index("## Safety")


# A project's own templates


def own(folder: Path, text: str | bytes, name: str = "program.md.j2") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return folder


def test_an_own_template_takes_the_place_of_the_kits(tmp_path: Path) -> None:
    text = brief.render_program(spec(), own(tmp_path, "Make {{ spec.metric }} small.\n"))
    marked, _, rest = text.partition("\n")
    assert marked == "<!-- rendered by ark from autoresearch-config.yaml and program.md.j2; edit them instead -->"
    assert rest == "Make val_bpb small.\n"
    assert brief.render_program(spec()) == brief.render_program(spec(), tmp_path / "elsewhere")


def test_an_own_template_fills_blocks_of_the_kits(tmp_path: Path) -> None:
    own(tmp_path, "{% extends 'ark/program.md.j2' %}{% block safety %}Touch nothing.\n{% endblock %}")
    text = brief.render_program(spec(FULL), tmp_path)
    assert section(text, "Safety") == "Touch nothing."
    kits = brief.render_program(spec(FULL))
    assert section(text, "Goal") == section(kits, "Goal")


@pytest.mark.parametrize("block", ["goal", "files", "run", "decision", "history", "turn", "ideas", "domain", "safety",
                                   "rules", "context"])  # fmt: skip
def test_every_block_can_be_filled_and_extended(tmp_path: Path, block: str) -> None:
    own(tmp_path, "{% extends 'ark/program.md.j2' %}{% block " + block + " %}MINE\n{{ super() }}{% endblock %}")
    kits = brief.render_program(spec(FULL)).splitlines()[1:]
    ours = brief.render_program(spec(FULL), tmp_path).splitlines()[1:]
    assert [line for line in ours if line != "MINE"] == kits
    assert ours.count("MINE") == 1


@pytest.mark.parametrize("name", DOMAINS)
def test_every_domain_can_be_included(tmp_path: Path, name: str) -> None:
    own(tmp_path, "{% extends 'ark/program.md.j2' %}\n{% block domain %}\n"
                  "{% include 'ark/domains/" + name + ".md.j2' %}\n{% endblock %}\n")  # fmt: skip
    text = brief.render_program(spec(), tmp_path)
    partial = (data_folder("templates") / "domains" / f"{name}.md.j2").read_text()
    assert partial.strip() in text
    assert not re.search(r"\n\n\n|[ \t]\n", text)
    assert 20 <= len(partial.splitlines()) <= 40
    assert max(map(len, partial.splitlines())) <= 120


def test_the_domains_that_are_promised() -> None:
    assert {"kernels", "llm-pretrain", "python-speed", "prompt"} <= set(DOMAINS)


def test_an_own_template_may_include_files_beside_it(tmp_path: Path) -> None:
    own(tmp_path, "Known: {{ spec.name }}.\n", "notes/facts.md")
    own(tmp_path, "{% include 'notes/facts.md' %}")
    assert brief.render_program(spec(name="n"), tmp_path).endswith("\nKnown: n.\n")


def test_an_own_prompt(tmp_path: Path) -> None:
    own(tmp_path, "{% extends 'ark/attempt.md.j2' %}{% block closing %}Hurry.{% endblock %}", "attempt.md.j2")
    text = brief.prompt_of(spec(), SAMPLE, tmp_path)
    assert text.endswith("Hurry.")
    assert "> kinds" in text


def test_a_changed_template_is_read_again(tmp_path: Path) -> None:
    own(tmp_path, "first")
    assert brief.render_program(spec(), tmp_path).endswith("\nfirst")
    own(tmp_path, "second")
    assert brief.render_program(spec(), tmp_path).endswith("\nsecond")


# Mistakes in them: one sentence with file, line and message

MISTAKES = {
    "syntax": ("line\n{% if %}", 2, "Expected an expression"),
    "unclosed": ("{% block a %}\n\n{{ 1 }}", 3, "endblock"),
    "unknown tag": ("a\nb\n{% fetch 'x' %}", 3, "unknown tag 'fetch'"),
    "unknown filter": ("a\n{{ 1 | upside_down }}", 2, "upside_down"),
    "undefined": ("a\nb\n{{ spce.metric }}", 3, "'spce' is undefined"),
    "undefined key": (
        "{{ spec.metric }}\n{{ spec.metrik }}",
        2,
        "the spec has no key `metrik`; did you mean `metric`?",
    ),
    "undefined key inside": ("{{ spec.decision.max_rums }}", 1, "there is no key `max_rums`; did you mean `max_runs`?"),
    "missing include": ("\n\n{% include 'other.md' %}", 3, "there is no template `other.md`"),
    "missing parent": ("\n{% extends 'program.md' %}", 2, "there is no template `program.md`"),
    "outside": ("{% include '../secret' %}", 1, "there is no template `../secret`"),
    "absolute": ("{% include '/etc/passwd' %}", 1, "there is no template `/etc/passwd`"),
    "a zero byte": ("{% include 'a\\0b' %}", 1, "there is no template"),
    "run time": ("a\n{{ 1 / 0 }}", 2, "division by zero"),
    "wrong type": ("{{ spec.metric + 1 }}", 1, "str"),
    "too much": ("\n{% for i in range(10 ** 9) %}{% endfor %}", 2, "range"),
    "itself": ("{% include 'program.md.j2' %}", 1, "recursion"),
    "not UTF-8": (b"fine\nfine\nstra\xdfe\n", 3, "UTF-8"),
    "private": ("{{ spec.__class__.__mro__ }}", 1, "unsafe"),
    "changing the spec": ("{{ spec.mutable_files.append('x') }}", 1, "unsafe"),
}


@pytest.mark.parametrize("kind", MISTAKES)
@pytest.mark.parametrize("included", [False, True], ids=["direct", "included"])
def test_a_mistake_is_a_sentence_with_file_and_line(tmp_path: Path, kind: str, included: bool) -> None:
    text, line, words = MISTAKES[kind]
    if included and kind != "itself":
        own(tmp_path, "top\n{% include 'part.md' %}\n")
        own(tmp_path, text, "part.md")
    else:
        own(tmp_path, text)
    file = tmp_path / ("part.md" if included and kind != "itself" else "program.md.j2")
    with pytest.raises(ArkError) as error:
        brief.render_program(spec(), tmp_path)
    assert error.value.message.startswith(f"{file}:{line}: ")
    assert words in error.value.message
    assert "\n" not in error.value.message and not error.value.message.endswith(".")
    assert ("ark/program.md.j2" in error.value.hint) is ("there is no template" in words)


@pytest.mark.parametrize("name", ["program.md.j2", "attempt.md.j2"])
def test_a_block_that_would_go_nowhere_is_a_mistake(tmp_path: Path, name: str) -> None:
    own(tmp_path, "{% extends 'ark/" + name + "' %}\n\n{% block domian %}MINE{% endblock %}", name)
    with pytest.raises(ArkError) as error:
        brief.check_templates(spec(), tmp_path)
    assert error.value.message == f"{tmp_path / name}:3: `ark/{name}` has no block `domian` that could be filled"
    assert "history, " in error.value.hint


def test_a_block_may_hold_new_ones_and_be_that_of_a_template_between(tmp_path: Path) -> None:
    own(
        tmp_path,
        "{% extends 'ark/program.md.j2' %}{% block domain %}A{% block new %}B{% endblock %}{% endblock %}",
        "b",
    )
    own(tmp_path, "{% extends 'b' %}\n{% block new %}C{% endblock %}{% block safety %}D{% endblock %}")
    text = brief.render_program(spec(), tmp_path)
    assert "\nAC\n" in text and section(text, "Safety") == "D"
    own(tmp_path, "{% extends 'b' %}\n{% block newer %}C{% endblock %}")
    with pytest.raises(ArkError, match=r"program\.md\.j2:2: `b` has no block `newer`"):
        brief.render_program(spec(), tmp_path)


def test_a_mistake_in_the_prompt_is_found_before_a_night(tmp_path: Path) -> None:
    own(tmp_path, "{% if drives and ideas %}\n{{ idaes }}{% endif %}", "attempt.md.j2")
    with pytest.raises(ArkError, match=r"attempt\.md\.j2:2: 'idaes' is undefined"):
        brief.check_templates(spec(), tmp_path)
    brief.check_templates(spec(FULL), None)


def test_a_template_cannot_reach_past_the_data(tmp_path: Path) -> None:
    """A model of pydantic has `parse_raw`, which unpickles what it is given."""
    own(tmp_path, "{{ spec.parse_raw }}")
    with pytest.raises(ArkError, match="parse_raw"):
        brief.render_program(spec(), tmp_path)
    wanted = spec(FULL)
    own(tmp_path, "{% set _ = spec.update({'metric': 'mine'}) %}")
    with pytest.raises(ArkError, match="unsafe"):
        brief.render_program(wanted, tmp_path)
    assert wanted.metric == "val_bpb"


def test_the_command_shows_a_mistake_without_a_traceback(tmp_path: Path) -> None:
    from click.testing import CliRunner

    own(tmp_path, json.dumps(MINIMAL), "autoresearch-config.yaml")
    own(tmp_path, "a\n{{ nothing }}")
    done = CliRunner().invoke(main, ["render-program", str(tmp_path)], prog_name="ark")
    assert done.exit_code == 1
    assert f"{tmp_path}/program.md.j2:2: 'nothing' is undefined" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "program.md").exists()
    own(tmp_path, "Mine.\n")
    for _ in range(2):  # what it wrote it may write anew
        assert CliRunner().invoke(main, ["render-program", str(tmp_path)], prog_name="ark").exit_code == 0
    assert (tmp_path / "program.md").read_text().endswith("-->\nMine.\n")


@pytest.mark.parametrize("name", ["program.md.j2", "attempt.md.j2"])
def test_an_agent_cannot_write_the_templates(name: str) -> None:
    from autoresearch_kit.lab.desk import Place

    assert not Place.of("", "autoresearch-config.yaml", ["**"]).is_mutable(name)
    with pytest.raises(ArkError, match="cannot be mutable"):
        spec(mutable_files=[name])
