"""From what the user gave to what is planned: models, clusters, jobs and goals, with all their problems at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import InputError, gather

if TYPE_CHECKING:
    from .planner.search.request import Request

Parsed = TypeVar("Parsed")


def read_request(
    model: str, cluster: str, job: Mapping[str, Any], pins: list[str], schedule_file: Path | None, **asked: Any
) -> Request:
    """What a search is asked. `asked`: the other fields of a Request; `tokens` and `deadline` as the user wrote them.

    Raises InputError with every problem of all of it.
    """
    from .clusters import load_cluster
    from .planner.families import load_model
    from .planner.frameworks.framework import framework
    from .planner.job import job_of_options
    from .planner.pins import listing, parse_pins
    from .planner.schedule.csv_file import read_csv
    from .planner.search.request import Request
    from .units import parse_count, parse_duration

    name, tokens, deadline = asked.pop("framework"), asked.pop("tokens", None), asked.pop("deadline", None)
    spec, machines, work, pinned, executed, listed, count, deadline_s = gather(
        lambda: load_model(model),
        lambda: load_cluster(cluster),
        lambda: job_of_options(job),
        lambda: parse_pins(pins),
        lambda: framework(name),
        lambda: read_csv(schedule_file) if schedule_file else None,
        lambda: _optional("--tokens", tokens, parse_count),
        lambda: _optional("--deadline", deadline, parse_duration),
    )
    return Request(
        model=spec,
        cluster=machines,
        job=work,
        pins=listing(pinned, listed) if listed else pinned,
        framework=executed.name,
        tokens=count,
        deadline_s=deadline_s,
        **asked,
    )


def _optional(option: str, text: str | None, parser: Callable[[object], Parsed]) -> Parsed | None:
    return None if text is None else quantity(option, text, parser)


def quantity(option: str, text: str, parser: Callable[[object], Parsed]) -> Parsed:
    """An option with a unit; a wrong one is the user's error, named as it was given."""
    try:
        return parser(text)
    except ValueError as error:
        raise InputError.single("command line", option, text, str(error)) from None
