"""Marks and fixtures of the suite."""

from __future__ import annotations

import pytest
from runs import PHISHING, Logistic, problem_of


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than a few seconds (deselect with -m 'not slow')")


@pytest.fixture(scope="session", params=["synthetic", "phishing"])
def problem(request: pytest.FixtureRequest) -> Logistic:
    if (found := problem_of(request.param)) is None:
        pytest.skip(f"no data set at {PHISHING}")
    return found
