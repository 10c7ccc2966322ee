"""What every test relies on."""

from __future__ import annotations

import signal

import pytest
from hypothesis import HealthCheck, settings

# No test asserts a time, and a busy machine says nothing of the inputs.
settings.register_profile("ark", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ark")


@pytest.fixture(scope="session", autouse=True)
def _ordinary_signals():
    """`nohup pytest &` starts us with signals ignored, which every process that a test starts would inherit."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What was given more time than others begins first, so that no worker is left alone with it in the end."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)
