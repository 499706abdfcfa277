"""The one console that every table and message goes to."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InputError, MeshwrightError

if TYPE_CHECKING:
    from rich.console import Console


def stdout() -> Console:
    """For results. A pipe has no width of its own: give tables room there."""
    return _console(width=None if sys.stdout.isatty() else 120)


def stderr() -> Console:
    """For progress and errors, so that results can be piped."""
    return _console(stderr=True, width=None if sys.stderr.isatty() else 120)


def _console(**how: Any) -> Console:
    """Imported where something is printed: an object for a program is not."""
    from rich.console import Console

    return Console(**how, highlight=False)


def warn(words: Sequence[str]) -> None:
    """What is not wrong but should be known, a line each, on standard error."""
    for text in words:
        stderr().print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)


def show_error(error: MeshwrightError) -> None:
    """An error as one clear report."""
    console = stderr()
    if not isinstance(error, InputError):
        console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        return
    count = len(error.problems)
    noun = "problem" if count == 1 else "problems"
    console.print(f"error: {count} {noun} in {error.source}", style="red", markup=False, soft_wrap=True)
    for problem in error.problems:
        console.print(f"  - {problem}", markup=False, soft_wrap=True)


def error_json(error: MeshwrightError) -> dict[str, object]:
    """The same report for programs."""
    body: dict[str, object] = {"kind": type(error).__name__, "exit_code": error.exit_code, "message": str(error)}
    if isinstance(error, InputError):
        body["problems"] = [
            {"field": p.field, "value": repr(p.value), "rule": p.rule, "fix": p.fix} for p in error.problems
        ]
    return {"error": body}
