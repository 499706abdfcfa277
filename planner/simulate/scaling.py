"""Scaling: one configuration on more and more devices, the replicas growing with them.

Strong scaling keeps the global batch, weak scaling keeps the batch of each device. The model-parallel part of the plan
(pp, cp, tp, experts, recompute, microbatch) stays; dp follows from the number of devices. Efficiency is the tokens per
second and device over those of the first point that fits in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, get_args

from ...errors import InputError, Problem, did_you_mean
from ..plan import Plan
from .machines import SettingError, resized
from .scenario import Scenario
from .simulation import Simulation, simulate
from .whatif import apply_settings

Kind = Literal["strong", "weak"]
MOST_POINTS = 16


@dataclass(frozen=True, slots=True)
class Point:
    """One number of devices; `reason` says why it is illegal or does not fit, empty where it can run."""

    devices: int
    simulation: Simulation | None
    reason: str


@dataclass(frozen=True, slots=True)
class Scaling:
    """All numbers of devices, in the order given."""

    kind: Kind
    points: tuple[Point, ...]

    @property
    def base(self) -> Point:
        """What efficiency is measured against: the first point that fits, else the first that is legal."""
        legal = [point for point in self.points if point.simulation]
        return next((point for point in legal if not point.reason), legal[0])

    def efficiency(self, point: Point) -> float | None:
        """Tokens per second and device over the base's; None where the point is illegal."""
        base = self.base.simulation
        if point.simulation is None or base is None:
            return None
        return point.simulation.prediction.tokens_per_s_per_device / base.prediction.tokens_per_s_per_device

    def to_json(self) -> dict[str, Any]:
        """`points[i].simulation` is the contract of `simulate --json`; null where the point is illegal."""
        points = [
            {
                "devices": point.devices,
                "reason": point.reason,
                "efficiency": self.efficiency(point),
                "simulation": point.simulation.to_json() if point.simulation else None,
            }
            for point in self.points
        ]
        return {"kind": self.kind, "base_devices": self.base.devices, "points": points}


def scaling(plan: Plan, text: str, settings: Sequence[str] = (), tokens: float | None = None) -> Scaling:
    """Simulate `strong`, `weak` or `strong=8,16,32`: one point a number of devices, illegal ones with their reason.

    Raises InputError where the text is wrong, or no point is legal.
    """
    kind, counts = parse_scaling(text)
    scenario = apply_settings(plan, settings)
    points, errors = [], []
    for devices in counts or default_counts(scenario):
        try:
            simulation = simulate(plan, [*settings, *_settings(scenario, kind, devices)], tokens)
        except InputError as error:
            errors.append(error)
            points.append(Point(devices, None, "; ".join(map(str, error.problems))))
        else:
            points.append(Point(devices, simulation, simulation.shortage))
    if len(errors) == len(points):
        raise InputError("scaling", dict.fromkeys(problem for error in errors for problem in error.problems))
    return Scaling(kind, tuple(points))


def parse_scaling(text: str) -> tuple[Kind, tuple[int, ...]]:
    """Read `strong`, `weak`, `weak=8,16,32`. Raises InputError with all problems."""
    kind, equals, listed = (part.strip() for part in text.partition("="))
    problems = []
    if kind not in get_args(Kind):
        problems.append(Problem("--scaling", text, "must be strong or weak", did_you_mean(kind, get_args(Kind))))
    counts = [part.strip() for part in listed.split(",")] if equals else []
    for count in counts:
        if not (count.isascii() and count.isdecimal() and int(count) > 0):
            rule = "is not a number of devices"
            problems.append(Problem("--scaling", count, rule, f"{kind}=8,16,32"))
    if len(counts) > MOST_POINTS:
        problems.append(Problem("--scaling", text, f"takes at most {MOST_POINTS} numbers of devices"))
    if problems:
        raise InputError("command line", problems)
    return ("weak" if kind == "weak" else "strong"), tuple(dict.fromkeys(map(int, counts)))


def default_counts(scenario: Scenario) -> tuple[int, ...]:
    """Doubling from the fewest devices that hold the model-parallel part, to four times what the plan uses."""
    mesh = scenario.configuration.mesh
    fewest = mesh.pp * mesh.cp * mesh.tp
    start = next((fewest * times for times in range(1, mesh.dp + 1) if _whole(scenario, fewest * times)), mesh.world)
    most = max(4 * mesh.world, 16 * start)
    counts = [start]
    while counts[-1] * 2 <= most and len(counts) < MOST_POINTS:
        counts.append(counts[-1] * 2)
    return tuple(counts)


def _whole(scenario: Scenario, devices: int) -> bool:
    groups = [
        {"nodes": group.nodes, "devices_per_node": group.devices_per_node} for group in scenario.cluster.node_groups
    ]
    try:
        resized(groups, devices)
    except SettingError:
        return False
    return True


def _settings(scenario: Scenario, kind: Kind, devices: int) -> list[str]:
    """What makes the scenario one of so many devices. Raises InputError where the batch would not be whole."""
    mesh, batch = scenario.configuration.mesh, scenario.job.global_batch
    replicas, left = divmod(devices, mesh.pp * mesh.cp * mesh.tp)
    found = [f"devices={devices}"] + ([] if left or not replicas else [f"mesh.dp={replicas}"])
    if kind == "weak":
        grown = Fraction(batch * devices, mesh.world)
        if grown.denominator != 1:
            rule = f"the batch of {batch / mesh.world:g} sequences a device makes no whole batch"
            raise InputError.single("scaling", "devices", devices, rule)
        found.append(f"job.global_batch={grown.numerator}")
    return found
