"""Progress of long work, on standard error, only where somebody watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


def searching() -> AbstractContextManager[Callable[[int, int], None]]:
    """A bar over the configurations priced so far; the callback takes (done, total)."""
    return _counting("searching")


def explaining() -> AbstractContextManager[Callable[[int, int], None]]:
    """A bar over the parts of an explanation; the callback takes (done, total)."""
    return _counting("explaining")


def preparing() -> AbstractContextManager[Callable[[int, int], None]]:
    """A bar over the losses planned for so far; the callback takes (done, total)."""
    return _counting("planning for lost nodes")


def comparing() -> AbstractContextManager[Callable[[int, int], None]]:
    """A bar over the published runs predicted so far; the callback takes (done, total)."""
    return _counting("predicting")


@contextmanager
def _counting(what: str) -> Iterator[Callable[[int, int], None]]:
    with _bar(counts=True) as progress:
        if progress is None:
            yield lambda done, total: None
            return
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def measuring() -> Iterator[Callable[[str, float], None]]:
    """A bar over the measurements; the callback takes (what is measured, fraction done)."""
    with _bar(counts=False) as progress:
        if progress is None:
            yield lambda what, fraction: None
            return
        task = progress.add_task("measuring", total=1.0)
        yield lambda what, fraction: progress.update(task, description=f"measuring {what}", completed=fraction)


@contextmanager
def _bar(counts: bool) -> Iterator[Progress | None]:
    """None where nobody watches: what draws it is not imported then."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from .console import stderr

    counted = [MofNCompleteColumn()] if counts else []
    columns = [SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), *counted, TimeElapsedColumn()]
    with Progress(*columns, console=stderr(), transient=True) as progress:
        yield progress
