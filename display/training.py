"""A running job: one bar with loss, speed and the prediction beside it; at the end, what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..units import format_bytes, format_seconds
from .console import stderr

LINES_WITHOUT_TERMINAL = 20  # how often a log file hears of progress


@contextmanager
def training(steps: int) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Show metrics events as they come: a live bar on a terminal, a line now and then in a log."""
    console = stderr()
    if not console.is_terminal:
        yield _Log(console, steps)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("starting workers", total=steps)

        def show(event: Mapping[str, Any]) -> None:
            if "step" in event:
                progress.update(task, completed=event["step"], description=_line(event))
            else:
                console.print(str(event.get("message", "")), markup=False)

        yield show


class _Log:
    """Plain lines: the first step, the last, and about twenty between."""

    def __init__(self, console: Console, steps: int):
        self.console = console
        self.every = max(1, steps // LINES_WITHOUT_TERMINAL)
        self.steps = steps

    def __call__(self, event: Mapping[str, Any]) -> None:
        if "step" not in event:
            self.console.print(str(event.get("message", "")), markup=False)
        elif event["step"] in (1, self.steps) or event["step"] % self.every == 0:
            self.console.print(f"step {event['step']}/{self.steps}  {_line(event)}", markup=False)


def _line(event: Mapping[str, Any]) -> str:
    measured, predicted = format_seconds(event["step_time_s"]), format_seconds(event["predicted_step_time_s"])
    line = (
        f"loss {event['loss']:.3f}  {event['tokens_per_s']:,.0f} tokens/s  MFU {event['mfu']:.1%}  "
        f"step {measured} (predicted {predicted})"
    )
    if event.get("predicted_peak_memory_bytes"):
        line += f"  memory {format_bytes(event['peak_memory_bytes'])} "
        line += f"(predicted {format_bytes(event['predicted_peak_memory_bytes'])})"
    return line


def show_result(console: Console, result: Mapping[str, Any]) -> None:
    """What the run came to: loss, predicted beside measured, where things are."""
    table = Table(title="run", title_justify="left", show_header=False)
    table.add_row("steps", f"{result['steps']} ({result['status']})")
    table.add_row("loss", f"{result['first_loss']:.3f} -> {result['recent_loss']:.3f} nats (mean of the last steps)")
    measured, predicted = result["measured_step_time_s"], result["predicted_step_time_s"]
    if measured:
        table.add_row("step time, measured", format_seconds(measured))
        table.add_row("step time, predicted", f"{format_seconds(predicted)} ({predicted / measured - 1:+.0%})")
    for name, row in _component_rows(result):
        table.add_row(name, row)
    if result.get("predicted_peak_memory_bytes"):
        table.add_row("peak memory, measured", format_bytes(result["peak_memory_bytes"]))
        table.add_row("peak memory, predicted", format_bytes(result["predicted_peak_memory_bytes"]))
    table.add_row("checkpoint", str(result["checkpoint"]))
    if result["export"]:
        table.add_row("weights for Hugging Face", str(result["export"]))
    table.add_row("run folder", str(result["run"]))
    console.print(table)


def _component_rows(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Parts of a step that take or were planned to take a hundredth of it, of the rank that computes longest."""
    parts = result.get("components_s") or {}
    measured, predicted = parts.get("measured") or {}, parts.get("predicted") or {}
    least = 0.01 * sum(measured.values())
    for name, seconds in measured.items():
        planned = predicted.get(name, 0.0)
        if max(seconds, planned) >= least > 0:
            yield f"  of it {name}", f"{format_seconds(seconds)} (predicted {format_seconds(planned)})"


def show_mapping(console: Console, values: Mapping[str, Any]) -> None:
    """Names and values, one a line."""
    for name, value in values.items():
        console.print(f"{name}: {value}", markup=False, soft_wrap=True)
