"""Runs: run folders of the built-in runtime (docs/launch.md) as observations of the cluster of their plans."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TypeGuard

from ...clusters.schema import Cluster
from ...errors import InputError, Problem
from ...schema import load_json
from ..plan import Plan, load_plan
from ..simulate.scenario import Scenario
from .observation import Observation
from .rows import Found

WARM_UP_STEPS = 5
"""The first steps of every launch, also of one that resumed, which say nothing of the rest."""
LEAST_STEPS = 10
"""Steps of a launch, below which the median of the others says little."""
LEAST_TIMED = LEAST_STEPS - WARM_UP_STEPS

Unpriced = Callable[[Path, Plan], str]
"""What a run in a folder did that no price of its plan has; nothing where there is no such thing."""

TIMED = ("compute", "tp", "cp", "ep", "dp")
"""Parts that a run times as a prediction has them. Waiting for a pipeline is a result of the others."""

_RULE = "holds no step_time_s above 0, or no later step than the line before"

LEAST_SHARE = 0.1
"""Of the step: a smaller part's error is mostly that of its own noise."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a folder says."""

    path: Path
    plan: Plan
    measured_s: float
    components_s: Mapping[str, float]
    steps: int
    timed_steps: int  # without those in which a launch warmed up


@dataclass(frozen=True, slots=True)
class _Steps:
    """Logged steps of a plan: seconds of each that was past its launch's warm-up, how many there are in all, how many
    the last launch has, and the number of the last one."""

    timed_s: list[float]
    count: int
    of_last_launch: int
    last: int


def read_runs(paths: Sequence[Path], unpriced: Unpriced = lambda path, plan: "") -> Found:
    """Runs of several folders. Raises InputError with every problem of all of them, and where none can be used."""
    runs, problems = [], list[Problem]()
    for path in paths:
        try:
            runs.append(read_run(path))
        except InputError as error:
            problems += [Problem(f"{path}: {each.field}", each.value, each.rule, each.fix) for each in error.problems]
    if problems:
        raise InputError("profile --from-run", problems)
    return of_runs(runs, unpriced)


def read_run(path: Path) -> Run:
    """One folder. Raises InputError with everything that is wrong with it."""
    if not path.is_dir():
        raise InputError.single(str(path), "run folder", None, "is not a folder", "the --run of a meshwright launch")
    plan = load_plan(path / "plan.yaml")
    steps = _timed(*_steps(path / "metrics.jsonl", plan), _launches(path / "events.jsonl"))
    if not steps.count:
        rule = "holds no step that was measured under plan.yaml as it is now"
        raise InputError.single(str(path), "metrics.jsonl", None, rule, "let it train a few steps first")
    if len(steps.timed_s) < LEAST_TIMED:
        rule = f"are too few: the first {WARM_UP_STEPS} of every launch warm up, which leaves {len(steps.timed_s)}"
        raise InputError.single(str(path), "steps", steps.count, rule, f"let it train on until {LEAST_TIMED} are left")
    result = load_json(path / "result.json") if (path / "result.json").exists() else {}
    is_whole = steps.of_last_launch >= LEAST_STEPS and _is_of(plan, result)  # a result is of one launch alone
    is_whole &= result.get("steps") in (None, steps.last)  # the last one, if it came to its end
    measured = result.get("measured_step_time_s") if is_whole else None
    if not _is_number(measured) or measured <= 0:
        measured = median(steps.timed_s)
    timed = result.get("components_s") or {}
    found = timed.get("measured", {}) if isinstance(timed, dict) else {}
    numbers = {name: float(each) for name, each in found.items() if _is_number(each)}
    return Run(path, plan, float(measured), numbers if is_whole else {}, steps.count, len(steps.timed_s))


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_of(plan: Plan, told: Mapping[str, Any]) -> bool:
    """Whether a line or a result is of this plan: a run may go on under another one, in the same folder."""
    predicted = told.get("predicted_step_time_s")
    return predicted is None or predicted == plan.predicted.step_time_s


def _steps(path: Path, plan: Plan) -> tuple[list[tuple[int, float]], int]:
    """The logged steps of a plan: their numbers, and the mean seconds of the steps since the line before; and the last
    step of another plan before them. Raises InputError with every line that is none, but for the last: a run that died
    may have left half of it."""
    if not path.exists():
        raise InputError.single(str(path), "metrics.jsonl", None, "is not there", "a folder that a run has trained in")
    found, before, last, problems = [], 0, 0, list[Problem]()
    lines = path.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            told = json.loads(line)
            seconds, step = told["step_time_s"], told.get("step", number)
            if not _is_number(seconds) or seconds <= 0 or not _is_number(step) or step <= last:
                raise ValueError
            last = int(step)
            if _is_of(plan, told):
                found.append((last, float(seconds)))
            else:
                found, before = [], last
        except (AttributeError, ValueError, KeyError, TypeError):
            if number < len(lines):
                problems.append(Problem(f"metrics.jsonl line {number}", line[:40], _RULE))
    if problems:
        raise InputError(str(path), problems)
    return found, before


def _launches(path: Path) -> set[int]:
    """The steps behind which a launch began."""
    found = {0}
    for line in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            step = json.loads(line).get("resumed_step")
        except (AttributeError, ValueError):  # half a line: the writer died in it
            continue
        found |= {int(step)} if _is_number(step) else set()
    return found


def _timed(lines: Sequence[tuple[int, float]], first: int, launches: Collection[int]) -> _Steps:
    """A line counts as often as it has steps, and not at all where one of them was warming up. `first`: what stands
    before the lines."""
    if not lines:
        return _Steps([], 0, 0, 0)
    first = max([first, *(each for each in launches if each < lines[0][0])])
    starts = sorted({first, *(each for each in launches if first <= each < lines[-1][0])})
    timed_s, count, before = list[float](), 0, first
    for step, seconds in lines:
        start = max(each for each in starts if each < step)
        begin = max(before, start)
        count += step - begin
        timed_s += [seconds] * (step - begin) if begin >= start + WARM_UP_STEPS else []
        before = step
    return _Steps(timed_s, count, before - starts[-1], before)


def of_runs(runs: Sequence[Run], unpriced: Unpriced) -> Found:
    """The runs of the cluster and framework of the last one; others are refused. Raises InputError where none can be
    used."""
    cluster, framework = _bare(runs[-1].plan.cluster), runs[-1].plan.framework
    whys = {str(run.path): _refusal(run, cluster, framework) or unpriced(run.path, run.plan) for run in runs}
    refused = {name: why for name, why in whys.items() if why}
    kept = [run for run in runs if str(run.path) not in refused]
    if not kept:
        raise InputError("profile --from-run", [Problem(name, None, why) for name, why in refused.items()])
    steps = {str(run.path): (run.steps, run.timed_steps) for run in kept}
    return Found(runs[-1].plan.cluster, framework, tuple(_observations(kept)), refused, steps)


def _bare(cluster: Cluster) -> Cluster:
    """Without what earlier runs taught: a fit begins at what was measured."""
    return cluster.model_copy(update={"adjustment": None})


def _refusal(run: Run, cluster: Cluster, framework: str) -> str:
    if _bare(run.plan.cluster) != cluster:
        return f"was planned for another cluster ({run.plan.cluster.name}) than the last run ({cluster.name})"
    if run.plan.framework != framework:
        return f"was priced as {run.plan.framework}, the last run as {framework}"
    if run.plan.mix is not None:
        return "has sequences of different lengths: its steps are not all alike"
    return ""


def _observations(runs: Sequence[Run]) -> Iterator[Observation]:
    groups: dict[Any, str] = {}
    for run in runs:
        scenario = Scenario.of(run.plan.model_copy(update={"cluster": _bare(run.plan.cluster)}))
        group = groups.setdefault((run.plan.fingerprint, run.plan.rank_map), str(run.path))
        setting, configuration = scenario.setting, scenario.configuration
        yield Observation(str(run.path), group, setting, configuration, run.measured_s)
        for name in TIMED:
            predicted = getattr(run.plan.predicted.breakdown_s, name)
            measured = run.components_s.get(name, 0.0)
            if min(predicted, measured) >= LEAST_SHARE * run.measured_s:
                yield Observation(f"{run.path}: {name}", group, setting, configuration, measured, of=name)
