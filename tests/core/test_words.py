"""Numbers and times as people read them.

.venv/bin/pytest tests/core/test_words.py
"""

from __future__ import annotations

from autoresearch_kit.core.words import duration, money, percent, rate, signed


def test_time_spans() -> None:
    shown = [duration(seconds) for seconds in (0.0, 5.25, 48, 600, 3.4 * 3600, 60 * 86400)]
    assert shown == ["0.0 s", "5.2 s", "48 s", "10 min", "3.4 h", "60 days"]


def test_rates_have_no_exponent() -> None:
    assert [rate(value) for value in (0.5234, 12.345, 99.96, 2123.4)] == ["0.523", "12.3", "100", "2,123"]


def test_shares_money_and_gains() -> None:
    assert [percent(value) for value in (None, 0.1234, 12345.6)] == ["", "0.123 %", "12,346 %"]
    assert [money(value) for value in (12.3456, 0.1, 0.01234)] == ["12.35", "0.10", "0.012"]
    assert [signed(value) for value in (1.5, -0.25, 0.0)] == ["+1.5", "-0.25", "0"]
