"""From what the user gave to what is planned: models, clusters, jobs and goals, with all their problems at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .errors import InputError, Problem, gather

if TYPE_CHECKING:
    from .clusters.schema import Cluster
    from .planner.experts.routing import Routing
    from .planner.plan import ModelSpec
    from .planner.search.request import Request

Parsed = TypeVar("Parsed")


def read_requests(
    model: str,
    clusters: Sequence[str],
    job: Mapping[str, Any],
    pins: list[str],
    schedule_file: Path | None,
    **asked: Any,
) -> dict[str, Request]:
    """What a search is asked of each cluster, by its name. `asked`: the other fields of a Request; `tokens` and
    `deadline` as the user wrote them.

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
    (spec, routing), work, pinned, executed, listed, count, deadline_s, *machines = gather(
        lambda: _routed(load_model(model), asked.get("routing")),
        lambda: job_of_options(job),
        lambda: parse_pins(pins),
        lambda: framework(name),
        lambda: read_csv(schedule_file) if schedule_file else None,
        lambda: _optional("--tokens", tokens, parse_count),
        lambda: _optional("--deadline", deadline, parse_duration),
        *(partial(load_cluster, cluster) for cluster in clusters),
    )
    pinned = listing(pinned, listed) if listed else pinned
    asked |= {"model": spec, "job": work, "pins": pinned, "framework": executed.name}
    asked |= {"tokens": count, "deadline_s": deadline_s, "routing": routing}
    return {
        name: Request(cluster=cluster, **asked)
        for name, cluster in zip(_names(clusters, machines), machines, strict=True)
    }


def _routed(model: ModelSpec, path: Path | None) -> tuple[ModelSpec, Routing | None]:
    """The model with a trace of its routing: of a run's folder that in routing/. Raises InputError with every line that
    is wrong."""
    if path is None:
        return model, None
    from .planner.experts.routing import Routing
    from .planner.experts.trace import Routed
    from .planner.experts.trace_file import read_trace
    from .planner.families import architecture

    try:
        routed = Routed.of(architecture(model))
    except InputError as error:
        given = [replace(each, field="--routing", value=str(path)) for each in error.problems]
        raise InputError("--routing", given) from None
    inside = path / "routing"
    return model, Routing.of(read_trace(inside if inside.is_dir() else path, routed), path.name, routed.groups)


def _names(texts: Sequence[str], clusters: Sequence[Cluster]) -> list[str]:
    """Their own, or where two are the same what the user wrote."""
    own = [cluster.name for cluster in clusters]
    return own if len(set(own)) == len(own) else list(texts)


def which_clusters(cluster: str | None, clusters: str | None, given: Mapping[str, object]) -> list[str]:
    """Those of CLUSTER or of `--clusters`. `given` says which options about one plan stand beside the latter.

    Raises InputError with everything that does not go together.
    """
    if (cluster is None) is (clusters is None):
        rule = "is required, or --clusters" if cluster is None else "goes without --clusters"
        raise InputError.single("command line", "CLUSTER", cluster, rule, "CLUSTER, or --clusters a.yaml,b.yaml")
    if clusters is None:
        wrong = [] if cluster is None or not given["--picture"] else ["--picture"]
        rule, fix = "shows clusters compared", f"--clusters {cluster}"
        if wrong:
            raise InputError("command line", [Problem(name, None, rule, fix) for name in wrong])
        return [cluster or ""]
    names = [name.strip() for name in clusters.split(",") if name.strip()]
    found = [
        Problem(name, None, "is about one plan", "leave it out")
        for name in given
        if given[name] and name != "--picture"
    ]
    if not names or len(set(names)) < len(names):
        found.append(Problem("--clusters", clusters, "must be different clusters with commas between", "a.yaml,b.yaml"))
    if found:
        raise InputError("command line", found)
    return names


def _optional(option: str, text: str | None, parser: Callable[[object], Parsed]) -> Parsed | None:
    return None if text is None else quantity(option, text, parser)


def quantity(option: str, text: str, parser: Callable[[object], Parsed]) -> Parsed:
    """An option with a unit; a wrong one is the user's error, named as it was given."""
    try:
        return parser(text)
    except ValueError as error:
        raise InputError.single("command line", option, text, str(error)) from None
