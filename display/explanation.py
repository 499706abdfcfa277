"""Why a plan is as it is, for people: what other choices lose, what binds, what to buy."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ..planner.explain import MEANING
from ..planner.search.explanation import Alternative, Explanation
from ..units import format_bytes, format_seconds

SMALL = 0.001
"""Shares below are none."""
SHOWN = 3


def show_explanation(console: Console, found: Explanation) -> None:
    """What `plan --explain` adds."""
    console.print(_alternatives("one choice made otherwise", found.nearest))
    if found.too_large:
        console.print(_alternatives("better, if it fitted", found.too_large))
    if found.meshes:
        console.print(_alternatives("the best of other meshes", found.meshes))
    console.print(_binding(found))
    console.print(_purchases(found))


def _alternatives(title: str, found: tuple[Alternative, ...]) -> Table:
    lacks = any(not each.fits for each in found)
    sign, worse = (-1, "better by") if lacks else (1, "worse by")
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in ("choice", "change", "step", worse, *(["lacks"] if lacks else []), "spends more (less) on"):
        table.add_column(name)
    for each in found:
        cells = [each.choice, each.change, format_seconds(each.step_time_s), f"{sign * each.worse:.1%}"]
        cells += [format_bytes(each.short_bytes)] if lacks else []
        table.add_row(*cells, _where(each))
    return table


def _where(alternative: Alternative) -> str:
    """`0.344 s bubble (0.021 s dp)`: the largest differences, those that count."""
    least = SMALL * alternative.step_time_s
    parts = sorted(alternative.more_s.items(), key=lambda part: -abs(part[1]))
    told = [(name, seconds) for name, seconds in parts if abs(seconds) >= least][:SHOWN]
    more = [f"{format_seconds(seconds)} {name}" for name, seconds in told if seconds > 0]
    less = [f"({format_seconds(-seconds)} {name})" for name, seconds in told if seconds < 0]
    return " ".join((*more, *less)) or "nothing"


def _binding(found: Explanation) -> Table:
    table = Table(title="what binds: ten percent more of it", title_justify="left", header_style="bold")
    for name in ("resource", "gains", "of"):
        table.add_column(name)
    for each in found.binding:
        gains = f"{each.gain:.1%}" if each.gain >= SMALL else "nothing"
        table.add_row(each.words, gains, MEANING.get(each.of, each.of) if each.gain >= SMALL else "")
    return table


def _purchases(found: Explanation) -> Table:
    table = Table(title="what one could buy, planned anew", title_justify="left", header_style="bold")
    for name in ("bought", "times", "step", "how the plan changes"):
        table.add_column(name)
    for each in found.purchases:
        times = "" if each.times is None else f"{each.times:.2f}x"
        table.add_row(
            each.bought, times, "" if each.step_time_s is None else format_seconds(each.step_time_s), each.change
        )
    return table
