"""The page of a report: one file that asks nobody for anything.

Its scripts are named by hash in its content security policy, so that no other can run in it whatever is in a title.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup

from autoresearch_kit import __version__
from autoresearch_kit.core import words
from autoresearch_kit.core.campaign import Campaign
from autoresearch_kit.core.records import clean_line, number
from autoresearch_kit.core.verification import Verification
from autoresearch_kit.data import data_folder
from autoresearch_kit.ledger.git import Repository
from autoresearch_kit.views import chart
from autoresearch_kit.views.report.data import changed_entries, chart_data, sections
from autoresearch_kit.views.report.runtime import digest, load_runtime

TITLE_CHARACTERS = 140
"""Of a title in a table; the whole of it is shown with its attempt."""
REASON_CHARACTERS = 140
"""Of a verdict's sentence there."""


def page(campaign: Campaign, document: Mapping[str, Any], live: bool = False) -> str:
    """The whole page. With `live` it has a live part and may ask the server that it came from."""
    runtime = load_runtime()
    scripts = [_file("page.js")]
    if live:
        scripts.append(_file("live.js"))
    # Whitespace too is a part of what is hashed.
    hashes = " ".join(f"'sha256-{one}'" for one in (*map(digest, scripts), runtime.digest))
    policy = [
        "default-src 'none'",
        f"script-src {hashes}",
        "style-src 'unsafe-inline'",
        "img-src data:",
        "connect-src 'self'" if live else "connect-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    whole = {
        **{key: value for key, value in document.items() if key not in _IN_TABLES},
        "chart": {**document["chart"], "specs": specs(campaign)},
        "words": {str(outcome): word for outcome, word in chart.WORDS.items()},
    }
    template = environment().get_template("page.html.j2")
    return template.render(
        doc=document,
        campaign=campaign,
        attempts=campaign.attempts,
        css=_file("page.css"),
        scripts=scripts,
        vega=runtime.packed,
        policy="; ".join(policy),
        data=in_script(whole),
        live=live,
        version=__version__,
        licences=_file("licences.txt"),
    )


_IN_TABLES = ("about", "gains", "baselines", "claims", "costs", "crashes", "tree", "spec", "program", "notes", "goal")
"""Parts of a document that are written into the page alone, not into the data that its scripts read."""
_SECTIONS = ("gains", "claims", "costs", "crashes", "tree", "about")


def update(
    repository: Repository, campaign: Campaign, known: Mapping[int, str], verifications: Sequence[Verification] = ()
) -> dict[str, Any]:
    """What a live page that knows the attempts `known`, their commits by number, is to be told by `ark.update`."""
    document = sections(campaign, verifications)
    module = environment().get_template("sections.html.j2").module
    return {
        "attempts": changed_entries(repository, campaign, known),
        "summary": document["summary"],
        "chart": chart_data(campaign),
        "html": {name: str(getattr(module, name)(document)) for name in _SECTIONS},
    }


def specs(campaign: Campaign) -> dict[str, Any]:
    """The progress chart as Vega wants it, without data, for a light and a dark ground."""
    found = {}
    for name, dark in (("light", False), ("dark", True)):
        spec = chart.progress(campaign, dark=dark, data=False)
        spec["autosize"] = {"type": "fit", "contains": "padding"}
        found[name] = chart.to_vega(spec)
    return found


_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def in_script(value: Any) -> str:
    """JSON that can stand inside a script element: nothing in it ends the element or begins a comment."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).translate(_ESCAPES)


@functools.cache
def environment() -> jinja2.Environment:
    """Templates of the report; whatever they print is escaped."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_folder("templates") / "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "number": number,
        "signed": words.signed,
        "duration": words.duration,
        "value": lambda value, digits: f"{value:.{digits}g}",
        "joined": _joined,
        "title": lambda text: _joined(clean_line(text, TITLE_CHARACTERS)),
        "reason": _short_reason,
        "code": _code,
        "day": lambda text: text[:16].replace("T", " "),
    }
    found.globals |= {"words": {str(outcome): word for outcome, word in chart.WORDS.items()}}
    return found


def _short_reason(text: str) -> Markup:
    """A verdict's sentence without the outcome, which stands beside it."""
    return _joined(clean_line(text.partition(": ")[2] or text, REASON_CHARACTERS))


_JOINED = re.compile(r"(->|(?<!\S)--?\w)")
"""A browser would break a line behind any hyphen, also inside `->` and `-O3`."""


def _joined(text: str) -> Markup:
    """Text whose arrows and options stay on one line."""
    parts = _JOINED.split(text)
    return Markup("").join(
        Markup('<span class="joined">{}</span>').format(part) if at % 2 else part for at, part in enumerate(parts)
    )


def _code(sentence: str) -> Markup:
    """A sentence in which commands stand between backticks."""
    parts = sentence.split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if at % 2 and at < len(parts) - 1 else part
        for at, part in enumerate(parts)
    )


def _file(name: str) -> str:
    text = (data_folder("templates") / "report" / name).read_text(encoding="utf-8")
    # An element ends at the first such tag, also in a string.
    assert not re.search(r"</(script|style)", text, re.I), name
    return text
