"""An error that is no number must fail every bar."""

from __future__ import annotations

import math

import pytest
from worst import worst


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_worst(bad: float) -> None:
    assert worst([1e-7, bad, 2e-7]) == math.inf


def test_the_largest() -> None:
    assert worst([1e-7, 3e-7, 2e-7]) == 3e-7
