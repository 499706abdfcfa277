"""Progress of long work, on standard error, only where somebody watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from .console import stderr


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
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with _progress(*columns) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def measuring() -> Iterator[Callable[[str, float], None]]:
    """A bar over the measurements; the callback takes (what is measured, fraction done)."""
    with _progress(SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()) as progress:
        task = progress.add_task("measuring", total=1.0)
        yield lambda what, fraction: progress.update(task, description=f"measuring {what}", completed=fraction)


def _progress(*columns: SpinnerColumn | TextColumn | BarColumn | MofNCompleteColumn | TimeElapsedColumn) -> Progress:
    console = stderr()
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
