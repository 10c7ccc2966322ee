"""What agents read in real runs: the digest of a real ledger, ideas, templates of the project.

pytest tests/engine/test_prompt.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from autoresearch_kit.agents.brief import desk_files, render_program, render_prompt
from autoresearch_kit.agents.digest import read_digest
from autoresearch_kit.ledger.ideas import write_idea
from autoresearch_kit.project import open_project
from autoresearch_kit.ratchet import Run

Tiny = Any  # see conftest.py

SCRIPT = """
cat > {seen}/$TURN; ls > {seen}/ls; cp program.md {seen}/program
case $TURN in
1) answer 12; title 'size: larger';;
2) answer 11; title 'size: smaller';;
3) printf 'echo step one; echo "# Now"; echo "  last words"; exit 7\\n' > train.sh; title 'systems: broken';;
4) answer 13; title 'batch: half';;
5) ;;
esac
"""


def prompts(tiny: Tiny, **play: Any) -> Path:
    """Plays five turns; the prompts lie there by the number of the turn."""
    seen: Path = tiny.tmp / "seen"
    seen.mkdir()
    tiny.play(SCRIPT.format(seen=seen), **play)
    return seen


@pytest.mark.slow
def test_the_digest_of_a_real_run(tiny: Tiny) -> None:
    seen = prompts(tiny, attempts=4)
    first, last = (seen / "1").read_text(), (seen / "4").read_text()
    assert "10 at the baseline (attempt 0), 10 now.\n0 attempts, 0 kept." in first
    assert "those of the baseline" in first
    assert (
        "10 at the baseline (attempt 0), 12 now, better by 2 (20.00 %).\n3 attempts, 1 kept, none in the last 2."
        in last
    )
    assert "attempt 1 (" in last and "\n> size: larger\n" in last
    assert "> -echo 10 > answer.txt\n> +echo 12 > answer.txt" in last, "the patch from the baseline"
    assert "> size: 1 kept, 1 discarded; best gain +2\n> systems: 1 crashed\n" in last
    assert "The end of the last crash's log:\n> step one\n> # Now\n>   last words\n" in last
    assert re.search(r"^> 2 \(\w{10}\) size: smaller \| Discard: 12 -> 11, worse by 1", last, re.M)
    assert last.count("\n# Now\n") == 1


@pytest.mark.slow
def test_a_resumed_run_reads_what_the_running_one_read(tiny: Tiny) -> None:
    seen = tiny.tmp / "last"
    tiny.play(f"cat > {seen}-$TURN; case $TURN in 1) answer 12;; 2) echo 'echo x; exit 3' > train.sh;; esac")
    project = open_project(tiny.folder)
    with Run(project, "t") as run:
        run.open()
        again = render_prompt(run)
    project.repository.close()
    told = r"\nAbout your last turn:\n> .*\n"
    running = (tiny.tmp / "last-7").read_text()
    assert re.search(told, running)
    assert re.sub(told, "", running) == again


@pytest.mark.slow
def test_ideas_are_in_the_prompt_of_the_next_turn(tiny: Tiny) -> None:
    def note(run: Run) -> None:
        for n in range(3):
            write_idea(run.project.repository, "t", f"try {n}\n# and more", "somebody")

    seen = tiny.tmp / "seen"
    tiny.play(f"cat > {seen}; answer 12", attempts=1, before=note)
    assert "Ideas noted for later:\n> try 0 # and more\n> try 1 # and more\n> try 2 # and more\n" in seen.read_text()


@pytest.mark.slow
def test_the_patch_is_that_of_this_project_alone(tmp_path: Path, _template: Path) -> None:
    from tests.engine.conftest import FILES
    from tests.engine.conftest import Tiny as Project

    nested = Project(tmp_path / "user", tmp_path, "deep/er")
    for path, text in FILES.items():
        nested.write(path, text)
    nested.git("init", "-q", ".")
    nested.commit("start", name="nested")
    nested.play("answer 12", attempts=1)
    nested.write("../../other.txt", "somebody else's\n")
    project = open_project(nested.folder)
    with Run(project, "t") as run:
        run.open()
        found = read_digest(run)
    project.repository.close()
    assert "> +++ b/deep/er/train.sh" in found.diff
    assert found.diff_left == 0


def test_what_a_desk_holds(tiny: Tiny) -> None:
    tiny.play("answer 12; title 'a: b'", attempts=1)
    project = open_project(tiny.folder)
    with Run(project, "t") as run:
        run.open()
        files = desk_files(run)
        assert "ark try -m" in render_prompt(run, drives=True)
    project.repository.close()
    assert files.keys() == {"program.md", "results.tsv"}
    assert files["program.md"].decode() == render_program(project.spec, project.folder)
    assert files["results.tsv"] == (tiny.folder / "results.tsv").read_bytes()


@pytest.mark.slow
def test_the_projects_own_templates_reach_the_agent(tiny: Tiny) -> None:
    tiny.write(
        "program.md.j2", "{% extends 'ark/program.md.j2' %}{% block ideas %}Ask {{ spec.name }}.\n{% endblock %}"
    )
    tiny.write("attempt.md.j2", "{{ tried }} so far.\n{{ recent }}\n")
    tiny.commit("templates")
    seen = prompts(tiny, attempts=2)
    assert "\nAsk tiny.\n" in (seen / "program").read_text()
    assert (seen / "2").read_text().startswith("1 so far.\n> 0 (")
    assert {"program.md.j2", "attempt.md.j2"} <= set((seen / "ls").read_text().split())


def test_what_an_agent_writes_into_the_templates_is_not_taken(tiny: Tiny) -> None:
    tiny.write("attempt.md.j2", "{{ tried }} so far.\n")
    tiny.commit("templates", mutable_files=["train.sh", "*.j2"])
    seen = tiny.tmp / "seen"
    played = tiny.play(
        f"cat > {seen}-$TURN; answer 1$TURN; echo mine > attempt.md.j2; echo mine > program.md.j2", attempts=2
    )
    assert played.outcomes == ["keep", "keep", "keep"]
    assert (tiny.tmp / "seen-2").read_text() == "1 so far.\n"
    assert tiny.show("autoresearch/t", "attempt.md.j2") == "{{ tried }} so far."


@pytest.mark.slow
@pytest.mark.parametrize("name", ["program.md.j2", "attempt.md.j2"])
def test_a_broken_template_is_a_sentence_in_check_and_run(tiny: Tiny, name: str) -> None:
    tiny.write(name, "fine\n{{ speck.metric }}\n")
    tiny.commit("templates")
    done = tiny.ark_here("check", "--json")
    found = {row["subject"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 1
    assert found["templates"]["level"] == "fail"
    assert found["templates"]["text"] == f"{tiny.folder.resolve()}/{name}:2: 'speck' is undefined"
    done = tiny.ark("run", "--tag", "t", "--agent", "true", "--attempts", "1")
    assert done.returncode == 1
    assert f"{name}:2: 'speck' is undefined" in done.stderr
    assert "Traceback" not in done.stderr


def test_check_names_the_projects_own_templates(tiny: Tiny) -> None:
    tiny.write("attempt.md.j2", "{{ told }}")
    tiny.commit("templates")
    found = {row["subject"]: row["text"] for row in json.loads(tiny.ark_here("check", "--json").stdout)}
    assert found["templates"] == "attempt.md.j2"


@pytest.mark.slow
def test_an_agent_is_told_what_was_not_taken(tiny: Tiny) -> None:
    played = tiny.play(
        f"""cat > {tiny.tmp}/prompt-$TURN
        echo x > .ark/attempt.md || exit 1
        case $TURN in
        1) echo x > evaluate.sh; echo y > run.log; echo z > answer.txt; mkdir a; echo h > a/helper.sh;;
        2) answer 11; echo h > helper.sh;;
        3) answer 12;;
        *) answer 13;; esac""",
        attempts=3,
    )
    assert played.notes[0].startswith(
        "No change: the mutable files are those of the head. "
        "Not taken, because it is not yours to change: evaluate.sh, a/helper.sh"
    )
    prompts = [(tiny.tmp / f"prompt-{turn}").read_text() for turn in (2, 3, 4)]
    assert "evaluate.sh, a/helper.sh" in prompts[0]
    assert "not yours to change: helper.sh" in prompts[1], "also where something was measured"
    assert "About your last turn" not in prompts[2]
