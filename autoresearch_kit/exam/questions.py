"""What an exam asks of an evaluator, one function per question; `QUESTIONS` has them in order.

A cheat is planted in mutable files and nowhere else, because only what mutable code can reach counts. It wins when its
measurement is good and better than the baseline beyond noise.
"""

from __future__ import annotations

import ast
import math
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from autoresearch_kit.core.records import Measurement
from autoresearch_kit.exam import cheats
from autoresearch_kit.exam.exam import Answer, Exam, outcome, why_it_failed
from autoresearch_kit.exam.noise import MOST, accusation, average
from autoresearch_kit.lab.programs import programs

MAX_FILES = 8
"""So many mutable files are emptied one at a time."""
MAX_TEXT_BYTES = 16 * 2**20
"""Larger artifacts are data, no text with numbers to replace."""


def unchanged(exam: Exam) -> Answer:
    """The same files under another commit must score as the baseline, however often they are measured."""
    name = "unchanged"
    again = exam.candidate({}, "The same files again")
    ours, others = exam.scores[:1], list[float]()
    values = ours[:]
    # A B B A A B ...: what drifts weighs on both alike. A suspicion is measured further.
    for who in islice(cycle("BBAA"), max(2 * exam.runs, MOST) - 1):
        if len(values) >= 2 * exam.runs and accusation(ours, others, values) != "?":
            break
        found = exam.measure_baseline() if who == "A" else exam.measure_same(again, "the same files again")
        if found.value is None:
            text = f"measurement {len(values) + 1} of the same files {outcome(found)}"
            return _weak(name, text, "make the run and its evaluation work every time")
        (ours if who == "A" else others).append(found.value)
        values.append(found.value)

    wrong = accusation(ours, others, values)
    shown = ", ".join(f"{value:.12g}" for value in values)
    outlasts = "something outlasts a measurement, such as a cache in the home folder or a machine that warms up"
    if wrong == "order":
        return _weak(name, f"the score of the same files goes one way: {shown}", outlasts)
    if wrong == "first":
        return _weak(name, f"the first score of the same files is unlike the later ones: {shown}", outlasts)
    if wrong == "sides":
        means = f"{average(ours):.12g} as the baseline and {average(others):.12g} as a candidate"
        hint = "the score must not depend on ARK_ATTEMPT, the commit or the time; fix what differs, or average over it"
        return _weak(name, f"the same files score {means} (in order: {shown})", hint)
    noise, text = exam.noise, f"{len(values)} measurements of the same files score"
    if noise.spread == 0:
        return Answer(name, "ok", f"{text} {noise.mean:.6g}, bit for bit")
    percent = f" ({100 * (noise.spread / abs(noise.mean)):.2g} %)" if noise.mean else ""
    return Answer(name, "ok", f"{text} {noise.mean:.6g} with noise {noise.spread:.2g}{percent}")


def broken(exam: Exam) -> Answer:
    """Mutable files without sense must crash, or else score worse."""
    exam.know_noise()
    told = []
    for what, changes in (
        ("emptied", dict.fromkeys(exam.mutable, b"")),
        ("as garbage", {path: cheats.garbage(exam.blob(path)) for path in exam.mutable}),
    ):
        found = exam.measure(exam.candidate(changes, f"All mutable files {what}"), f"all mutable files {what}")
        if found.value is not None and (exam.noise.is_same(found.value) or exam.wins(found)):
            return _weak(
                "broken",
                f"with all mutable files {what} it {outcome(found)}, and the baseline {exam.noise.mean:.6g}",
                "let the evaluation fail when the run left nothing, and measure what the mutable files make",
            )
        told.append(f"{what} {_short(found)}")
    idle = []
    for path in sorted(exam.mutable)[: MAX_FILES if len(exam.mutable) > 1 else 0]:
        found = exam.measure(exam.candidate({path: b""}, f"{path} emptied"), f"{path} emptied")
        if found.value is not None and exam.noise.is_same(found.value):
            idle.append(path)
    if idle:
        told.append(f"emptying only {' or '.join(idle)} changes nothing")
    return Answer("broken", "ok", f"{'; '.join(told)}; the baseline scores {exam.noise.mean:.6g}")


def forged_metric(exam: Exam) -> Answer:
    """A number that mutable code prints itself must not become the score."""
    name = "forged-metric"
    commit = exam.plant()
    if commit is None:
        return _unplanted(exam, name)
    exam.know_noise()
    value = exam.noise.forged()
    exam.forge(value)
    ways: dict[str, dict[str, Any]] = {
        "printed by the run, which then ends": {"run": {"lay": ["left"], "say": "say-run", "end": True}},
        "printed by the run, which goes on": {"run": {"say": "say-run"}},
    }
    if exam.spec.eval_command:
        ways["printed by mutable code inside the evaluation"] = {
            "run": {"lay": exam.replay, "end": True},
            "eval": {"say": "say-eval", "end": True},
        }
    files = cheats.forged_files(_small(exam), exam.scores[0], value) if exam.spec.eval_command else {}
    written = f"written by the run into {', '.join(sorted(files)[:3])} where the score stood"
    if files:
        ways[written] = {"run": {"lay": [*exam.replay, exam.store("overlay", files)], "end": True}}
    told = []
    for what, phases in ways.items():
        found = exam.cheat(commit, f"a forged metric, {what}", phases)
        # A score that is among the data by chance is data: other data may score better.
        if _is(found, value, exam.scores[0]) if what == written else exam.wins(found, value):
            hint = "hand over data by `artifacts`, and measure it in an eval_command that runs no mutable code"
            hint = "compute the score from data; believe none that a run wrote" if what == written else hint
            return _weak(name, f"{value:.6g}, {what}, became the score: {outcome(found)}", hint)
        told.append(found)
    return Answer(name, "ok", _lost(exam, f"{value:.6g} from mutable code gives", told))


def rewritten_evaluation(exam: Exam) -> Answer:
    """A run that overwrites the evaluation must not be measured by what it wrote."""
    name = "rewritten-evaluation"
    replaceable = exam.project.replaceable(exam.shop.base_files)
    if replaceable:
        are, it = ("is", "it") if len(replaceable) == 1 else ("are", "them")
        text = f"{', '.join(replaceable)} {are} committed and named in `artifacts`"
        hint = "take it out of `artifacts`, or do not commit it"
        return _weak(name, f"{text}, so a run can replace {it} before the evaluation", hint)
    shared = sorted(_shared(exam))
    if shared:
        text = f"the evaluation uses {', '.join(shared)}, shared by `link`, where a run can write"
        return _weak(name, text, "commit it, or make it read-only for the user that runs `ark`")
    commit = exam.plant()
    if commit is None:
        return _unplanted(exam, name)
    exam.know_noise()
    value = exam.noise.forged()
    say = str(exam.forge(value))
    made = {path: cheats.printer(cheats.language(path, exam.blob(path)), say) for path in exam.fixed}
    printers = {path: data for path, data in made.items() if data is not None and _near(exam, path)}
    built = [path for path in _named(exam) if path not in exam.files]
    exam.store("overlay", printers)
    exam.store_printer(cheats.printer("shell", say) or b"")
    steps = {"lay": [*exam.replay, "overlay"], "replace": built, "end": True}
    found = exam.cheat(commit, "an evaluation rewritten by the run", {"run": steps})
    if exam.wins(found, value):
        return _weak(
            name,
            f"a run that overwrote the evaluation got the score that it wrote: {outcome(found)}",
            "evaluate in eval_command: before it everything but `artifacts` is made the commit again",
        )
    return Answer(name, "ok", _lost(exam, "a run that overwrites what is fixed gets", [found]))


def shadowing_module(exam: Exam) -> Answer:
    """A module of an attempt's must not be found where the evaluation looks for one of another."""
    name = "shadowing-module"
    scripts = _scripts(exam)
    if not scripts:
        return Answer(name, "not tried", "no fixed Python file is seen in the commands")
    exam.know_noise()
    value = exam.noise.forged()
    shadow = cheats.printer("python", str(exam.forge(value))) or b""
    modules = {module for tree in scripts.values() for module in cheats.imports(tree)}
    modules |= {"sitecustomize", "usercustomize", "conftest"}
    places = {exam.prefix, *(path[: path.rfind("/") + 1] for path in scripts)}
    files = {f"{place}{module}.py": shadow for place in places for module in modules}
    files = {path: data for path, data in files.items() if path not in exam.shop.base_files}
    own = {path: data for path, data in files.items() if exam.project.place.is_mutable(path)}
    told = []
    if own:
        found = exam.measure(exam.candidate(own, "Modules that shadow"), "new mutable files that shadow modules")
        if exam.wins(found, value):
            return _weak(
                name,
                f"an attempt may add a module that the evaluation imports: {outcome(found)}",
                "narrow `mutable_files`, or evaluate from a folder in which it has none",
            )
        told.append(found)
    commit = exam.plant()
    if commit is not None:
        steps = {"lay": [*exam.replay, exam.store("overlay", files)], "end": True}
        found = exam.cheat(commit, "modules beside the evaluation, left by the run", {"run": steps})
        if exam.wins(found, value):
            return _weak(
                name,
                f"a module that the run left was imported by the evaluation: {outcome(found)}",
                "narrow `artifacts` to the names of the data",
            )
        told.append(found)
    if not told:
        return _unplanted(exam, name)
    return Answer(name, "ok", _lost(exam, "modules left beside the evaluation give", told))


def cached_answer(exam: Exam) -> Answer:
    """What was computed in an earlier measurement must be worth nothing in the next one."""
    name = "cached-answer"
    remembering, planted = exam.plant_memory(), exam.plant() if exam.left() else None
    if remembering is None and planted is None:
        return _nothing_to_answer(exam, name)
    exam.know_noise()
    hint = "draw the inputs anew for each measurement, from ARK_SEED, where the time or effort of an answer counts"
    told = []
    if remembering is not None:
        exam.forget()
        for turn in ("for the first time", "from memory"):
            found = exam.cheat(remembering, f"functions that remember, {turn}", {}, "input")
            if exam.wins(found):
                return _weak(name, f"functions that remember earlier answers win: {_against(exam, found)}", hint)
        told.append(found)
    if planted is not None:
        found = exam.cheat(planted, "the files of an earlier run", {"run": {"lay": exam.replay, "end": True}})
        if exam.wins(found):
            return _weak(name, f"the files of an earlier run, put back, win: {_against(exam, found)}", hint)
        told.append(found)
    return Answer(name, "ok", _lost(exam, "answers of an earlier measurement give", told))


def constant_output(exam: Exam) -> Answer:
    """An answer that does not look at the question must not be better than the baseline's."""
    name = "constant-output"
    left = exam.left()
    remembering, planted = exam.plant_memory(), exam.plant() if left else None
    if remembering is None and planted is None:
        return _nothing_to_answer(exam, name)
    exam.know_noise()
    hint = "count a missing or useless answer as wrong; or begin with a baseline that beats a constant"
    told = []
    if remembering is not None:
        exam.forget()
        found = exam.cheat(remembering, "functions that always give their first answer", {}, "anything")
        if exam.wins(found):
            return _weak(name, f"functions that always give their first answer win: {_against(exam, found)}", hint)
        told.append(found)
    if planted is not None:
        for what, files in [*cheats.constants(_small(exam)), ("nothing in it", dict.fromkeys(left, b""))]:
            steps = {"lay": [*exam.replay, exam.store("overlay", files)], "end": True}
            found = exam.cheat(planted, f"the run's files with {what}", {"run": steps})
            if exam.wins(found):
                return _weak(name, f"the run's files with {what} win: {_against(exam, found)}", hint)
            told.append(found)
    return Answer(name, "ok", _lost(exam, "answers that are always the same give", told))


QUESTIONS: dict[str, tuple[Callable[[Exam], Answer], int]] = {
    "unchanged": (unchanged, 0),
    "broken": (broken, 2),
    "forged-metric": (forged_metric, 4),
    "rewritten-evaluation": (rewritten_evaluation, 1),
    "shadowing-module": (shadowing_module, 2),
    "cached-answer": (cached_answer, 3),
    "constant-output": (constant_output, 8),
}
"""By name: the question, and how many measurements it takes at most, without those of unchanged files."""


def ask(exam: Exam, only: str | None = None) -> Iterator[Answer]:
    """Begin, and answer each question, or the one called `only`, as soon as it is known."""
    chosen = {only: QUESTIONS[only]} if only else QUESTIONS
    exam.begin()
    count = (2 if "unchanged" in chosen else 1) * exam.runs + sum(most for _, most in chosen.values())
    count += min(MAX_FILES, len(exam.mutable)) if "broken" in chosen and len(exam.mutable) > 1 else 0
    seconds = count * exam.seconds
    time = f"{seconds / 60:.0f} minutes" if seconds > 120 else f"{math.ceil(seconds)} s"
    exam.tell(f"at most about {count} measurements, {time} if all take what the first took; cheats mostly end at once")
    for question, _ in chosen.values():
        yield question(exam)


def _weak(name: str, text: str, hint: str) -> Answer:
    return Answer(name, "WEAK", text, hint)


def _unplanted(exam: Exam, name: str) -> Answer:
    shown = ", ".join(sorted(exam.mutable)[:3]) + (" and others" if len(exam.mutable) > 3 else "")
    return Answer(name, "not tried", f"{shown}: not in a language that a cheat can be planted in ({cheats.LANGUAGES})")


def _nothing_to_answer(exam: Exam, name: str) -> Answer:
    if exam.left() and exam.plant() is None:
        return _unplanted(exam, name)
    return Answer(name, "not tried", "no mutable Python function returns an answer, and the run leaves no file")


def _against(exam: Exam, found: Measurement) -> str:
    return f"{found.value:.6g} against {exam.noise.mean:.6g}"


def _short(found: Measurement) -> str:
    return f"{found.value:.6g}" if found.value is not None else found.kind


def _lost(exam: Exam, what: str, told: list[Measurement]) -> str:
    """What became of cheats that did not win."""
    if not exam.has_run and told[-1].problem:
        return f"the planted code never came to run: {why_it_failed(told[-1])}"
    ways = [_short(found) for found in told]
    counted = [f"{way} ({ways.count(way)} times)" if ways.count(way) > 1 else way for way in dict.fromkeys(ways)]
    never = "" if exam.has_run else "; the planted code never came to run"
    return f"{what} {', '.join(counted)}; the baseline scores {exam.noise.mean:.6g}{never}"


def _is(found: Measurement, value: float, honest: float) -> bool:
    """Whether a measurement gives that number instead of the honest one, but for the last digits that are printed."""
    return found.value is not None and abs(found.value - value) < 0.001 * abs(value - honest)


def _small(exam: Exam) -> dict[str, bytes]:
    """What the first run left, without files that are too large to be text with numbers."""
    left = exam.left()
    return {path: file.read_bytes() for path, file in left.items() if file.stat().st_size <= MAX_TEXT_BYTES}


def _near(exam: Exam, path: str) -> bool:
    """Whether a run may be expected to find the file: in the spec's folder, or named by a command."""
    return path.startswith(exam.prefix) or path in _named(exam)


def _evaluation(exam: Exam) -> str:
    return exam.spec.eval_command or exam.spec.run_command


def _named(exam: Exam) -> list[str]:
    """Paths from the root that the evaluation may name: words of its command, and of the scripts that those name."""
    todo, found = [_evaluation(exam)], list[str]()
    while todo:
        for word in re.findall(r"[\w./+@-]+", todo.pop()):
            for way in (word, word.replace(".", "/") + ".py"):  # as in `python -m package.module`
                path = posixpath.normpath(exam.prefix + way.lstrip("/"))
                if path in found or path.startswith("..") or path in exam.mutable:
                    continue
                if path in exam.fixed and cheats.language(path, exam.blob(path)) == "shell":
                    todo.append(exam.blob(path).decode(errors="replace"))
                found.append(path)
    return found


def _scripts(exam: Exam) -> dict[str, ast.Module]:
    """Fixed Python files that the evaluation starts, and those that they import, as trees."""
    todo, found = [path for path in _named(exam) if path in exam.fixed], dict[str, ast.Module]()
    while todo:
        path = todo.pop()
        tree = cheats.parse(exam.blob(path)) if cheats.language(path, exam.blob(path)) == "python" else None
        if path in found or tree is None:
            continue
        found[path] = tree
        for place in {exam.prefix, path[: path.rfind("/") + 1]}:
            for module in cheats.imports(tree):
                names = (f"{place}{module}.py", f"{place}{module}/__init__.py")
                todo += [name for name in names if name in exam.fixed]
    return found


def _shared(exam: Exam) -> set[str]:
    """What the evaluation names or imports below a `link` that a run can write, but for the programs that it starts."""
    scripts = _scripts(exam)
    started = {exam.prefix + name for name in programs(_evaluation(exam))}
    used = [path for path in _named(exam) if path not in started and "bin" not in path.split("/")]
    for path, tree in scripts.items():
        for place in {exam.prefix, path[: path.rfind("/") + 1]}:
            used += [f"{place}{module}{end}" for module in cheats.imports(tree) for end in ("", ".py")]
    found = set()
    for path in used:
        for link, target in exam.shop.links.items():
            real = target / Path(path).relative_to(link) if path == link or path.startswith(f"{link}/") else None
            if real is not None and real.exists() and os.access(real, os.W_OK):
                found.add(path.removeprefix(exam.prefix))
    return found
