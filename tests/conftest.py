"""How two processes share the tests: one has those of the runtime, which start processes of their own, so that two such
tests never crowd the cores; the other goes through the rest, file by file."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent


def _group(item: pytest.Item) -> str:
    folder, *rest = item.path.relative_to(TESTS).parts
    return folder if folder == "runtime" else "/".join((folder, *rest))


def _place(item: pytest.Item) -> int:
    """The runtime first, then whole commands, which take long, too."""
    return 0 if _group(item) == "runtime" else 1 if item.path.parent == TESTS else 2


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Stable, so that a file's tests stay together and in their order."""
    items.sort(key=_place)
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_group(item)))
