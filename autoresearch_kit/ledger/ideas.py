"""Ideas for later in the ledger: one commit each, at `refs/ark/<tag>/ideas/0001` and so on.

Its message is the idea, then a closing block of `Ark-` trailers; parent and tree are the baseline's, so that `git show`
prints the idea alone. No lock is needed: a number is taken by creating its ref. No attempt is ever called `ideas/N`, so
none of this is read as one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from autoresearch_kit.core.errors import ArkError, UsageError
from autoresearch_kit.core.records import clean_line, clean_text
from autoresearch_kit.ledger.git import ROOT, ZERO, RefMoved, Repository
from autoresearch_kit.ledger.ledger import check_tag, root_of, seconds_of, utc_now

FOLDER = "ideas"
IDEA_CHARACTERS = 2000
MAX_IDEAS = 1000
"""More than anybody reads; a program that notes without end must not fill the repository."""


@dataclass(frozen=True, slots=True)
class Idea:
    """Something to try later."""

    text: str
    """A few lines, cleaned."""
    when: str
    """When it was noted: ISO 8601, UTC."""
    by: str
    """Who noted it: an agent, as the ledger calls it, or a person."""


def write_idea(repository: Repository, tag: str, text: str, by: str) -> Idea:
    """Note an idea in the run `tag`. UsageError when it is empty, or when there is no such run here."""
    check_tag(tag)
    idea = Idea(clean_text(text, IDEA_CHARACTERS).strip(), utc_now(), clean_line(by, 80))
    if not idea.text:
        raise UsageError("the idea is empty", "write a sentence: ark note 'try ...'")
    baseline = repository.ref(f"{ROOT}{tag}/0000")
    if baseline is None:
        raise UsageError(f"there is no run {tag} yet", "start one: ark run, or ark desk")
    taken = _numbers(repository, tag)
    if len(taken) >= MAX_IDEAS:
        raise ArkError(f"run {tag} has {len(taken)} ideas already", "try some of them first")
    number = max(taken, default=0) + 1
    tree, when = repository.tree_of(baseline), max(int(time.time()), seconds_of(idea.when))
    while True:
        message = f"{idea.text}\n\nArk-Idea: {number}\nArk-When: {idea.when}\nArk-By: {idea.by}".rstrip() + "\n"
        commit = repository.store_commit(tree, [baseline], message, ("ark", "ark@localhost"), when)
        try:
            repository.update_refs({f"{ROOT}{tag}/{FOLDER}/{number:04d}": (commit, ZERO)})
        except RefMoved:
            number += 1
            continue
        return idea


def read_ideas(repository: Repository, run: str) -> list[Idea]:
    """The ideas of the run called `run`, oldest first; what is no record is left out."""
    found = []
    for name, contents in repository.refs(f"{root_of(run)}{FOLDER}/", "refname", "contents"):
        text, _, block = contents.rstrip("\n").rpartition("\n\n")
        fields = dict(line.removeprefix("Ark-").partition(":")[::2] for line in block.split("\n"))
        number, when, by = (fields.get(key, "").strip() for key in ("Idea", "When", "By"))
        if len(number) < 18 and number.isdecimal() and name.endswith(f"/{int(number):04d}") and text:
            clean = clean_text(text, IDEA_CHARACTERS)
            found.append((int(number), Idea(clean, clean_line(when, 40), clean_line(by, 80))))
    return [idea for _, idea in sorted(found, key=lambda row: row[0])]


def _numbers(repository: Repository, tag: str) -> list[int]:
    names = [name.rpartition("/")[2] for (name,) in repository.refs(f"{ROOT}{tag}/{FOLDER}/", "refname")]
    return [int(name) for name in names if len(name) < 18 and name.isascii() and name.isdecimal()]
