"""Fit what the execution of each framework generation costs, on published runs.

    python -m meshwright.planner.published.fit runs.csv [framework ...] [--write]

A few figures a generation, and a share of the kernel tables for each further kind of device: never one for a model or
a row. Robust maximum a posteriori: residuals are log(predicted / measured) under a Cauchy loss (stalled runs and wrong
rows pull little), figures have a log-normal prior around `PRIOR`, so that a generation with few runs stays near it.
Printed beside the fit: the error of the same runs when their source (where nearly all have one: their group of model
and GPU count) was left out, and the spread that becomes the interval. `--write` puts the figures into the catalogue.
"""

from __future__ import annotations

import math
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..configuration import Configuration
from ..cost.setting import Setting
from ..cost.step import step_s
from ..frameworks.framework import Costs, Framework, Overrides, Spread, framework, kind_of, save
from .case import Case, make_case
from .generation import generation
from .recipe import as_row_ran
from .row import Row, read_rows
from .shape import NotModelledError

PRIOR = {
    "matmul": 0.85,
    "attention": 0.8,
    "elementwise": 1.5,
    "tensor": 1.1,
    "experts": 0.8,
    "dispatch": 1.2,
    "network": 1.2,
    "steal": 0.1,
    "host_layer_s": 3e-4,
    "host_moe_s": 1e-3,
    "host_microbatch_s": 1e-3,
    "step_s": 1e-2,
}
"""Where a figure stands before any run: sustained clocks below those of short bursts, element-wise kernels partly
fused, links a little slower than alone, some 60 launches of 5 us a layer."""

OF_EXPERTS = ("experts", "dispatch", "host_moe_s")
PRIOR_SPREAD = {
    "host_layer_s": 1.0,
    "host_moe_s": 1.0,
    "dispatch": 0.6,
    "host_microbatch_s": 1.0,
    "step_s": 1.0,
    "steal": 0.7,
    "network": 0.6,
}
PRIOR_SPREAD_ELSE = 0.35  # of the logarithm
RESIDUAL_SCALE = 0.08  # of the logarithm; beyond it a residual counts less and less
MOST_RUNS = 450  # a generation is fitted on so many, drawn at random
FOLDS = 5
DOMINANT = 0.9
"""Share of the runs above which a source is not left out whole: the others would say nothing of it."""
BOUNDS = {"steal": (1e-3, 0.8), "matmul": (0.2, 1.6), "attention": (0.1, 2.5)}

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Run:
    """A published run that can be priced, with what was measured."""

    row: Row
    case: Case
    measured_s: float

    @property
    def kind(self) -> str:
        return kind_of(self.case.setting.device)


def fitted(runs: Sequence[Run], base: Framework, start: Framework | None = None) -> Framework:
    """The framework with its costs fitted on runs; the descent begins at the prior, or at those of `start`."""
    drawn = random.Random(0).sample(list(runs), min(len(runs), MOST_RUNS))
    names = _names(drawn)
    prior = np.log([PRIOR[name.split(".")[-1]] for name in names])
    spread = np.array([PRIOR_SPREAD.get(name.split(".")[-1], PRIOR_SPREAD_ELSE) for name in names])
    first = prior if start is None else _figures(start, names, prior)
    (common, _), *_ = Counter(run.kind for run in drawn).most_common(1)
    base = base.model_copy(update={"fitted_on": common})
    at = _descend(lambda x: _residuals(drawn, _framework(base, names, x)), first, prior, spread, _limits(names))
    return _framework(base, names, at)


def _names(runs: Sequence[Run]) -> list[str]:
    """Figures to fit: one set for all, and the share of the kernel tables for each rarer kind of device."""
    kinds = [kind for kind, _ in Counter(run.kind for run in runs).most_common()]
    routed = any(run.row.experts for run in runs)
    figures = [name for name in PRIOR if routed or name not in OF_EXPERTS]
    return [*figures, *(f"{kind}.{figure}" for kind in kinds[1:] for figure in ("matmul", "attention"))]


def _figures(of: Framework, names: Sequence[str], prior: Vector) -> Vector:
    """Logarithms of a framework's fitted figures; the prior's where it has none."""
    values: list[float | None] = []
    for name in names:
        kind, dot, figure = name.partition(".")
        values.append(getattr(of.on.get(kind), figure, None) if dot else getattr(of.costs, name))
    return np.array([math.log(value) if value else known for value, known in zip(values, prior, strict=True)])


def _limits(names: Sequence[str]) -> tuple[Vector, Vector]:
    found = [BOUNDS.get(name.split(".")[-1], (1e-6, 100.0)) for name in names]
    return np.log([low for low, _ in found]), np.log([high for _, high in found])


def _framework(base: Framework, names: Sequence[str], at: Vector) -> Framework:
    values = {name: float(f"{math.exp(x):.3g}") for name, x in zip(names, at, strict=True)}
    costs = Costs(**{name: value for name, value in values.items() if "." not in name})
    on: dict[str, dict[str, float]] = defaultdict(dict)
    for name, value in values.items():
        kind, dot, figure = name.partition(".")
        if dot:
            on[kind][figure] = value
    return base.model_copy(update={"costs": costs, "on": {kind: Overrides(**own) for kind, own in on.items()}})


def predicted_s(run: Run, under: Framework) -> float:
    """Step time of a run under other costs."""
    setting = replace(run.case.setting, framework=as_row_ran(under, run.row), _costs={})
    return settled_step_s(setting, run.case.configuration)


SETTLED = (4, 5)  # microbatches over pipeline ranks, between which each further one adds the same


def settled_step_s(setting: Setting, configuration: Configuration) -> float:
    """`step_s`, of many microbatches by as few as it takes until each further round of the pipeline adds the same."""
    pp, count = configuration.mesh.pp, configuration.microbatches
    fewer, more = (each * pp + count % pp for each in SETTLED)
    if count <= more:
        return step_s(setting, configuration)
    before_s, then_s = (step_s(setting, replace(configuration, microbatches=each)) for each in (fewer, more))
    return then_s + (then_s - before_s) * (count - more) / (more - fewer)


def _residuals(runs: Sequence[Run], under: Framework) -> Vector:
    return np.array([math.log(predicted_s(run, under) / run.measured_s) for run in runs])


def _descend(
    residuals: Callable[[Vector], Vector],
    first: Vector,
    prior: Vector,
    spread: Vector,
    limits: tuple[Vector, Vector],
) -> Vector:
    """Levenberg and Marquardt's descent, with the weights of a Cauchy loss."""
    at, damping = first.copy(), 1e-2
    now = residuals(at)
    best = _loss(now, at, prior, spread)
    for _ in range(15):
        weights = 1 / (1 + (now / RESIDUAL_SCALE) ** 2) / RESIDUAL_SCALE**2
        slopes = np.stack([(residuals(at + 0.05 * step) - now) / 0.05 for step in np.eye(len(at))], axis=1)
        curvature = (slopes * weights[:, None]).T @ slopes + np.diag(spread**-2)
        gradient = (slopes * weights[:, None]).T @ now + (at - prior) / spread**2
        for _ in range(6):
            move = -np.linalg.solve(curvature + damping * np.diag(np.diag(curvature)), gradient)
            there: Vector = np.clip(at + np.clip(move, -0.5, 0.5), *limits)
            then = residuals(there)
            loss = _loss(then, there, prior, spread)
            if loss < best:
                break
            damping *= 4
        else:
            return at
        gain, at, now, best, damping = best - loss, there, then, loss, max(damping / 4, 1e-4)
        if gain < 1e-3 * len(now) ** 0.5:
            return at
    return at


def _loss(residuals: Vector, at: Vector, prior: Vector, spread: Vector) -> float:
    return float(np.sum(np.log1p((residuals / RESIDUAL_SCALE) ** 2)) + np.sum(((at - prior) / spread) ** 2))


def held_out(runs: Sequence[Run], whole: Framework) -> Vector:
    """Residuals of every run under costs that were fitted without its source, or without its group. `whole` was fitted
    on all of them: each descent begins there and ends where the runs that are left lead it."""
    found = np.zeros(len(runs))
    most = max(Counter(run.row.source for run in runs).values())
    folds = [_fold(run, most <= DOMINANT * len(runs)) for run in runs]
    for fold in sorted(set(folds)):
        inside = [index for index, other in enumerate(folds) if other == fold]
        rest = [run for run, other in zip(runs, folds, strict=True) if other != fold]
        found[inside] = _residuals([runs[index] for index in inside], fitted(rest, whole, whole))
    return found


def _fold(run: Run, by_source: bool) -> str:
    row = run.row
    if by_source:
        return row.source
    return str(random.Random(f"{row.model} {row.gpus}").randrange(FOLDS))


def usable_runs(rows: Iterable[Row], wanted: Collection[str] = ()) -> dict[str, list[Run]]:
    """Runs by the framework that prices them (of some alone, if any are wanted); what contradicts itself, repeats or
    cannot be priced is left out."""
    found: dict[str, list[Run]] = defaultdict(list)
    seen: set[str] = set()
    for row in rows:
        measured = row.measured_step_time_s
        if measured is None or row.consistent == "no" or (row.dup_group and row.dup_group in seen):
            continue
        seen.add(row.dup_group)
        if wanted and generation(row) not in wanted:
            continue
        try:
            case = make_case(row)
            step_s(case.setting, case.configuration)
        except (NotModelledError, ValueError):
            continue
        found[case.setting.framework.name].append(Run(row, case, measured))
    return found


def spread_of(residuals: Vector) -> Spread:
    """The interval that holds 90 % of measured over predicted."""
    low, high = np.quantile(np.exp(-residuals), [0.05, 0.95])
    return Spread(low=float(f"{min(low, 0.95):.3g}"), high=float(f"{max(high, 1.05):.3g}"))


def _print(name: str, runs: Sequence[Run], result: Framework, inside: Vector, outside: Vector) -> None:
    own = {kind: each.model_dump(exclude_none=True) for kind, each in result.on.items()}
    print(f"{name}: {len(runs)} runs, {result.costs.model_dump()} {own or ''}")
    sources = defaultdict(list)
    for index, run in enumerate(runs):
        sources[run.row.source[:44], run.kind].append(index)
    for (source, kind), at in [(("all", ""), list(range(len(runs)))), *sorted(sources.items())]:
        print(f"  {source:44s} {kind:6s} {len(at):5d} fitted {_errors(inside[at])}   left out {_errors(outside[at])}")


def _errors(residuals: Vector) -> str:
    error = np.expm1(residuals)
    mape, median, bias = (100 * each for each in (np.mean(np.abs(error)), np.median(np.abs(error)), np.mean(error)))
    return f"MAPE {mape:5.1f} % median {median:5.1f} % bias {bias:+6.1f} %"


def main(arguments: Sequence[str]) -> None:
    path, *wanted = [each for each in arguments if not each.startswith("--")]
    for name, runs in usable_runs(read_rows(Path(path)), wanted).items():
        base = framework(name)
        result = fitted(runs, base)
        inside = _residuals(runs, result)
        outside = inside if "--quick" in arguments else held_out(runs, result)
        result = result.model_copy(update={"spread": spread_of(outside)})
        _print(name, runs, result, inside, outside)
        if "--write" in arguments:
            save(result)


if __name__ == "__main__":
    main(sys.argv[1:])
