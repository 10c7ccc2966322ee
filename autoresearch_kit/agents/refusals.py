"""What a rate limit and an expired login look like in an error message, and how long a rate limit lasts.

The words are the model providers', which every program passes on, so that one list serves all of them.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

MAX_SECONDS = 32 * 24 * 3600.0
"""No limit lasts longer than a month: a time beyond is a misreading."""
JUST_PAST_SECONDS = 15 * 60.0
"""A time of day that was reached so short a while ago is not tomorrow's."""
LONG_PAST_SECONDS = 3600.0
"""A time so long ago says nothing about this limit."""
SOON_SECONDS = 60.0

_RATE_LIMIT = re.compile(
    r"rate.?limit|usage.?limit|hit your (?:\w+ )?limit|limit (?:was )?reached|too many requests|\b429\b|quota|"
    r"resource.?(?:has been )?exhausted|exhausted your|overloaded|\b529\b|credit balance|insufficient.?credit",
    re.IGNORECASE,
)
_NOT_LOGGED_IN = re.compile(
    r"/login\b|not (?:logged|signed) in|log ?in (?:has )?expired|log ?in again|authenticat|unauthori[sz]ed|\b401\b|"
    r"(?:invalid|incorrect|missing|no|expired)(?: \w+)? (?:api.?key|credentials?|bearer)|"
    r"api.?key (?:is )?(?:not|missing|invalid|expired|must be set|not found)|set an auth method|"
    r"token (?:has |is |was )?(?:been )?(?:expired|revoked|invalid)|(?:expired|revoked|invalid)(?: \w+)? token",
    re.IGNORECASE,
)


def is_rate_limit(text: str) -> bool:
    """Whether an error is a limit that time lifts."""
    return bool(_RATE_LIMIT.search(text))


def is_login(text: str) -> bool:
    """Whether an error is one that only a person can mend, by logging in."""
    return bool(_NOT_LOGGED_IN.search(text)) and not is_rate_limit(text)


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_UNIT = r"(?:ms|milliseconds?|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|weeks?)\b"
_SPAN = rf"\d{{1,9}}(?:\.\d{{1,9}})?\s{{0,2}}{_UNIT}"
_SPANS = rf"{_SPAN}(?:[\s,]{{0,3}}(?:and\s)?{_SPAN}){{0,4}}"
_COMPACT = r"(?:\d{1,5}[dhm]){1,3}(?:\d{1,5}(?:\.\d{1,9})?s)?"
_IN = re.compile(
    rf"(?:\b(?:in|after|for|wait)\s{{1,2}}|delay\W{{1,5}})(?:about\s)?({_COMPACT}(?!\w)|{_SPANS})", re.IGNORECASE
)
_ONE = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|milli|[smhdw])", re.IGNORECASE)
_AFTER = re.compile(r"retry.?after(.?ms)?\W{1,6}(\d{1,9}(?:\.\d{1,6})?)(?!\d*[-/:])", re.IGNORECASE)
_EPOCH = re.compile(r"(?:\||resets?\w{0,12}\W{1,6})(\d{10}|\d{13})(?!\d)", re.IGNORECASE)
_ISO = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:\.\d+)? ?(Z|UTC|[+-]\d\d:?\d\d)?")
_CLOCK = re.compile(
    r"(?:resets?|again|available|until|retry)\W{1,4}(?:at |on )?(?:(?P<month>[A-Z][a-z]{2})[a-z]{0,6} (?P<day>\d{1,2})"
    r"(?:st|nd|rd|th)?,? (?:(?P<year>\d{4}),? )?(?:at )?)?(?P<hour>\d{1,2})(?::(?P<minute>\d\d))?\s?(?P<half>[ap]m)?\b"
    r"(?: ?\(?(?P<zone>[A-Z][A-Za-z_]+/[A-Za-z_/]+|UTC|GMT)\)?)?",
    re.IGNORECASE,
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


def rest_seconds(text: str, now: datetime) -> float | None:
    """How long a limit lasts from `now` (with its zone), as the text tells; None when it does not."""
    text = text[:20_000]
    for told in (_after, _span, _epoch, _iso, _clock):
        seconds = told(text, now)
        if seconds is not None and -LONG_PAST_SECONDS <= seconds <= MAX_SECONDS:
            return max(0.0, seconds)
    return None


def _after(text: str, now: datetime) -> float | None:
    found = _AFTER.search(text)
    return float(found.group(2)) * (0.001 if found.group(1) else 1.0) if found else None


def _span(text: str, now: datetime) -> float | None:
    found = _IN.search(text)
    if not found:
        return None
    parts = _ONE.findall(found.group(1))
    return sum(
        float(number) * _UNITS["ms" if unit.lower().startswith("mi") else unit.lower()] for number, unit in parts
    )


def _epoch(text: str, now: datetime) -> float | None:
    found = _EPOCH.search(text)
    if not found:
        return None
    stamp = int(found.group(1))
    return (stamp / 1000 if stamp > 1e12 else stamp) - now.timestamp()


def _iso(text: str, now: datetime) -> float | None:
    found = _ISO.search(text)
    if not found:
        return None
    day, clock, zone = found.groups()
    try:
        then = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if zone in (None, 'Z', 'UTC') else zone}")
    except ValueError:
        return None
    return (then - now).total_seconds()


def _clock(text: str, now: datetime) -> float | None:
    for found in _CLOCK.finditer(text):
        half, minute, hour = found["half"], int(found["minute"] or 0), int(found["hour"])
        if not half and not found["minute"]:  # a bare number is no time
            continue
        if half and not 1 <= hour <= 12:
            continue
        if half:
            hour = hour % 12 + (12 if half.lower() == "pm" else 0)
        here = now.astimezone(_zone(found["zone"], now))
        try:
            then = here.replace(hour=hour, minute=minute, second=0, microsecond=0)
            if found["month"]:
                month = _MONTHS.index(found["month"].lower()) + 1
                year = int(found["year"] or here.year + (month < here.month - 6))
                return (then.replace(year=year, month=month, day=int(found["day"])) - now).total_seconds()
        except ValueError:
            continue
        seconds = (then - now).total_seconds()
        if -JUST_PAST_SECONDS <= seconds <= 0:
            return SOON_SECONDS
        return seconds if seconds > 0 else (then + timedelta(days=1) - now).total_seconds()
    return None


def _zone(name: str | None, now: datetime) -> tzinfo:
    if name is None:
        return now.tzinfo or UTC
    try:
        return UTC if name.upper() in ("UTC", "GMT") else ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # a zone that this machine does not know
        return now.tzinfo or UTC
