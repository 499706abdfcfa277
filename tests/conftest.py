"""The order of the tests: those of whole commands and of trainings first, which take longest. Of two processes that
take one file after another neither is then left alone with them at the end."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
LONGEST = (TESTS / "runtime" / "test_parity.py", TESTS / "kernels" / "test_compiled.py")


def _place(item: pytest.Item) -> int:
    if item.path.parent == TESTS or item.path in LONGEST:
        return 0
    return 1 if item.path.parent == TESTS / "runtime" else 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Stable, so that a file's tests stay together and in their order."""
    items.sort(key=_place)
