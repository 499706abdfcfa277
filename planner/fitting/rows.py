"""Rows: runs of a CSV file in the columns of `simulate --against` as observations of one cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...clusters.schema import Cluster, Exceptions
from ...errors import InputError, MeshwrightError, Problem
from ..published.case import Case, make_case
from ..published.row import Row, read_rows
from ..published.shape import NotModelledError
from .observation import Observation


@dataclass(frozen=True, slots=True)
class Found:
    """What can be fitted: runs of one cluster and framework; `refused` says why each other one cannot, `steps` how many
    a run has and how many of them were timed, where that is known."""

    cluster: Cluster
    framework: str
    observations: tuple[Observation, ...]
    refused: Mapping[str, str] = field(default_factory=dict)
    steps: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def read_log(path: Path, cluster: Cluster | None = None) -> Found:
    """Runs of a file, priced on `cluster`, or on the bundled one of their GPU. Raises InputError with every problem of
    the file, and where no run can be used."""
    if cluster is not None:
        _check_base(cluster)
    found = of_rows(_rows(path), cluster)
    if not found.observations:
        reasons = [Problem(name, None, why) for name, why in list(found.refused.items())[:20]]
        raise InputError(str(path), [*reasons, Problem("runs", None, "none of them can be used", _NEEDED)])
    return found


def _rows(path: Path) -> tuple[Row, ...]:
    """The rows of a file, with its problems under the option that named it here."""
    try:
        return read_rows(path)
    except InputError as error:
        said = (replace(each, field="--from-log") if each.field == "--against" else each for each in error.problems)
        raise InputError(error.source, said) from None


_NEEDED = "rows with a step time and their whole layout, as docs/published.md has them"


def _check_base(cluster: Cluster) -> None:
    if len(cluster.node_groups) > 1:
        names = ", ".join(group.name for group in cluster.node_groups)
        rule = f"rows do not say which of the node groups {names} they ran on"
        fix = "a cluster of one node group, or profile --from-run, whose plans say it"
        raise InputError.single("profile", "cluster", cluster.name, rule, fix)


def of_rows(rows: Sequence[Row], cluster: Cluster | None = None) -> Found:
    """The runs of the machine and framework that most rows are of; the others are refused."""
    refused: dict[str, str] = {}
    cases = [(row, case) for row in _measured(rows, refused) if (case := _case(row, cluster, refused)) is not None]
    kinds = Counter(_kind(case) for _, case in cases)
    if not kinds:
        return Found(cluster or Cluster.model_construct(), "", (), refused)
    (kind, _), *_ = kinds.most_common(1)
    for row, case in cases:
        if _kind(case) != kind:
            refused[row.row_id] = f"ran {' on '.join(_kind(case))}; most runs are of {' on '.join(kind)}: fit it alone"
    kept = [(row, case) for row, case in cases if _kind(case) == kind]
    largest = max((case.setting.cluster for _, case in kept), key=lambda each: each.num_devices)
    return Found(cluster or largest, kind[0], tuple(_observations(kept)), refused)


def _measured(rows: Sequence[Row], refused: dict[str, str]) -> Iterator[Row]:
    """Rows with a step time that can be believed."""
    repeated: set[str] = set()
    for row in rows:
        if row.measured_step_time_s is None or row.measured_step_time_s <= 0:
            refused[row.row_id] = "has no step time"
        elif row.consistent == "no":
            refused[row.row_id] = "contradicts itself"
        elif row.dup_group and row.dup_group in repeated:
            refused[row.row_id] = "repeats another row"
        else:
            repeated.add(row.dup_group)  # not for one that is refused: another copy of it may have what it lacks
            yield row


def _case(row: Row, cluster: Cluster | None, refused: dict[str, str]) -> Case | None:
    try:
        case = make_case(row)
        if cluster is not None:
            case = replace(case, setting=replace(case.setting, cluster=_resized(cluster, case)))
        _ = case.setting.rates
        return case
    except NotModelledError as error:
        refused[row.row_id] = f"not modelled: {error}"
    except (MeshwrightError, ValueError) as error:
        refused[row.row_id] = f"cannot be priced: {' '.join(str(error).split())}"
    return None


def _resized(cluster: Cluster, case: Case) -> Cluster:
    """The user's cluster with as many nodes and devices as a row used."""
    ran = case.setting.cluster.node_groups[0]
    sizes = {"nodes": ran.nodes, "devices_per_node": ran.devices_per_node}
    group = cluster.node_groups[0].model_copy(update=sizes)
    if group.nics is None and ran.nodes > 1:
        raise ValueError(f"{ran.nodes} nodes, and {cluster.name} has no network cards")
    return cluster.model_copy(update={"node_groups": (group,), "exceptions": Exceptions(), "adjustment": None})


def _kind(case: Case) -> tuple[str, str]:
    return case.setting.framework.name, case.setting.cluster.node_groups[0].device.name


def _observations(cases: Sequence[tuple[Row, Case]]) -> Iterator[Observation]:
    """Rows of one model, job and configuration are one group."""
    groups: dict[object, str] = {}
    for row, case in cases:
        setting = case.setting
        key = replace(setting.architecture, name=""), setting.job, case.configuration, setting.num_devices
        group = groups.setdefault(key, row.row_id)
        assert row.measured_step_time_s
        yield Observation(row.row_id, group, setting, case.configuration, row.measured_step_time_s)
