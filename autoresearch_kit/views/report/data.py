"""The document of a report: everything on the page as plain data, from the ledger alone.

The same ledger gives the same document. Titles, reasons, logs and patches are whatever agents and programs wrote.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from autoresearch_kit.core.campaign import ARK, BRANCH, Campaign
from autoresearch_kit.core.records import Attempt, Outcome
from autoresearch_kit.core.verification import Verification
from autoresearch_kit.core.words import apart
from autoresearch_kit.ledger.git import Repository
from autoresearch_kit.ledger.patches import patches
from autoresearch_kit.ledger.verified import read_verifications
from autoresearch_kit.views import chart
from autoresearch_kit.views.report import facts
from autoresearch_kit.views.report.crashes import crashes
from autoresearch_kit.views.report.pack import pack, pack_details, plain_patch

Document = dict[str, Any]

TAIL_CHARACTERS = 4000
"""Of the log of a crash."""


def read_document(repository: Repository, campaign: Campaign, program: str = "") -> Document:
    """The document of a run of this repository; `program` is what its agents were told."""
    verifications = read_verifications(repository, campaign.name) if campaign.source == ARK else []
    return document(campaign, patches(repository, _commits(campaign)), verifications, program)


def document(
    campaign: Campaign,
    found_patches: Mapping[str, str],
    verifications: Sequence[Verification] = (),
    program: str = "",
) -> Document:
    """The document of a run, with the patches by commit."""
    packed, inside = pack_details(_details(campaign, found_patches))
    return {
        "project": campaign.spec.name if campaign.spec else "",
        "name": campaign.name,
        "metric": campaign.metric,
        "maximize": campaign.maximize,
        "goal": campaign.spec.goal if campaign.spec else "",
        "notes": list(campaign.notes),
        "show": show_command(campaign),
        **sections(campaign, verifications),
        "spec": campaign.spec_text,
        "program": program,
        "chart": chart_data(campaign),
        "packed": {"attempts": pack([entry(a) for a in campaign.attempts]), "details": packed},
        "left_out": len(campaign.attempts) - len(inside),
        "live": None,
    }


def sections(campaign: Campaign, verifications: Sequence[Verification] = ()) -> Document:
    """What is counted anew whenever an attempt is added."""
    return {
        "summary": facts.summary(campaign, verifications),
        "about": about(campaign),
        "gains": facts.gains(campaign),
        "baselines": facts.baselines_note(campaign),
        "claims": facts.claims(campaign, verifications),
        "costs": facts.costs(campaign),
        "crashes": crashes(campaign),
        "tree": facts.tree(campaign),
    }


def changed_entries(repository: Repository, campaign: Campaign, known: Mapping[int, str]) -> list[Document]:
    """The attempts that differ from `known`, their commits by number, each with its details."""
    changed = [a for a in campaign.attempts if known.get(a.number) != a.commit]
    found = patches(repository, [a.commit for a in changed if a.parent])
    return [{**entry(a), "details": details(a, found.get(a.commit, ""))} for a in changed]


def chart_data(campaign: Campaign) -> Document:
    """What the chart needs besides the attempts."""
    axis = chart.value_axis(campaign.attempts)
    return {
        "low": axis.low,
        "high": axis.high,
        "log": axis.log,
        "digits": facts.kept_digits(campaign),
        "last": max([1, *(a.number for a in campaign.attempts)]),
        "marks": chart.present_marks(campaign.attempts, axis),
        "best": chart.best_rows(campaign),
        "text": chart_words(campaign),
    }


def chart_words(campaign: Campaign) -> str:
    """The chart in a sentence, for whoever cannot see it."""
    if not campaign.attempts:
        return "No attempts yet."
    better = "higher" if campaign.maximize else "lower"
    tried = len(campaign.tried)
    words = f"{campaign.metric} of {tried} attempt{'s' * (tried != 1)}; {better} is better."
    first, best = campaign.baseline, campaign.best
    if first and best and first.value is not None and best.value is not None:
        kept = sum(a.number <= best.number for a in campaign.kept_since_baseline)
        since = f" since the baseline of attempt {first.number}" if len(campaign.baselines) > 1 else ""
        name = campaign.line_name
        if not kept:
            return f"{words} No change was kept{since or ' so far'}; the line is {name}."
        words += f" {name[0].upper()}{name[1:]}, the line, went from {apart(first.value, best.value)} to"
        words += f" {apart(best.value, first.value)} in {kept} kept change{'s' * (kept != 1)}{since}."
    return words


def entry(attempt: Attempt) -> Document:
    """One attempt as the page lists it; keys without a value are left out."""
    found: Document = {
        **chart.progress_row(attempt),
        "value": attempt.value,
        "title": attempt.proposal.title,
        "reason": attempt.verdict.reason if attempt.verdict else "",
        "problem": attempt.problem,
        "agent": attempt.proposal.agent,
        "seconds": round(attempt.seconds, 3),
        "started": attempt.started,
        "commit": attempt.commit[:10],
    }
    return {key: value for key, value in found.items() if value not in (None, "")}


def details(attempt: Attempt, patch: str) -> Document:
    """What is shown when an attempt is opened."""
    shown, cut = plain_patch(patch)
    cost = attempt.proposal.cost
    tail = next((m.log_tail for m in reversed(attempt.measurements) if m.log_tail), "")
    found: Document = {
        "why": attempt.proposal.why,
        "values": list(attempt.values) if len(attempt.values) > 1 else None,
        "head_values": list(attempt.head_values) or None,
        "noise": attempt.verdict.noise if attempt.verdict else None,
        "also": dict(attempt.also) or None,
        "machine": attempt.machine,
        "origin": list(attempt.proposal.origin) or None,
        "cost": {name: getattr(cost, name) for name in ("seconds", "tokens", "money") if getattr(cost, name)} or None,
        "patch": shown,
        "cut": cut or None,
        "log": tail[-TAIL_CHARACTERS:],
    }
    return {key: value for key, value in found.items() if value not in (None, "")}


def show_command(campaign: Campaign) -> str:
    """The command that shows attempt NNNN, or the commit COMMIT, without any tool; empty where nothing can be shown."""
    if campaign.source != ARK:
        return "git show COMMIT" if campaign.source == BRANCH else ""
    return f"git show refs/{'ark-remotes' if '/' in campaign.name else 'ark'}/{campaign.name}/NNNN"


def about(campaign: Campaign) -> list[list[str]]:
    """Label and text of what is good to know about the run."""
    attempts, best = campaign.attempts, campaign.best
    first = attempts[0].started if attempts else ""
    last = attempts[-1].started if attempts else ""
    rows = [
        ("branch", campaign.branch),
        (
            "best" if campaign.is_foreign else "head",
            f"{best.commit[:10]}, attempt {best.number}" if best and best.commit else "",
        ),
        ("metric", f"{campaign.metric}, {'higher' if campaign.maximize else 'lower'} is better"),
        ("agents", ", ".join(campaign.agents)),
        ("machine", "; ".join(campaign.machines)),
        ("time", f"{_minute(first)} to {_minute(last)} UTC" if first and last else ""),
        ("source", campaign.source if campaign.source != ARK else ""),
    ]
    return [[label, text] for label, text in rows if text]


def _minute(started: str) -> str:
    return started[:16].replace("T", " ")


def _commits(campaign: Campaign) -> list[str]:
    return [a.commit for a in campaign.attempts if a.commit and a.parent]


def _details(campaign: Campaign, found: Mapping[str, str]) -> Iterator[tuple[int, Document]]:
    """Of each attempt, those that people will want to open first: the kept, then the latest."""
    kept = [a for a in campaign.attempts if a.outcome is Outcome.KEEP]
    others: Collection[Attempt] = [a for a in reversed(campaign.attempts) if a.outcome is not Outcome.KEEP]
    for attempt in (*kept, *others):
        yield attempt.number, details(attempt, found.get(attempt.commit, ""))
