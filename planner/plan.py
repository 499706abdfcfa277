"""Plan: the contract between deciding and doing. Versioned, frozen, complete.

A plan file stands alone: it holds the model's config, the cluster, the job, the configuration, and
beside these what was predicted and how it was proven. Nothing else passes from planner to runtime.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ..clusters.schema import Cluster, Origin
from ..errors import InputError
from ..schema import Frozen, dump_yaml, load_mapping, parse, writing
from .configuration import (
    CORE,
    Configuration,
    CpAlgorithm,
    Dispatch,
    Mesh,
    Module,
    OffloadTo,
    Recompute,
    ScheduleName,
    levers,
)
from .experts.planned import ExpertPlacement
from .experts.routing_report import RoutingReport
from .experts.token_homes import TokenHomes
from .families.spec import ModelSpec as ModelSpec
from .frameworks.framework import DEFAULT, FrameworkName
from .goal import AtRisk, Goal, Objective, Training
from .job import Job
from .lengths.mix import Expected, Mix
from .schedule.name import CUSTOM
from .schedule.table import custom, names


class MeshDegrees(Frozen):
    """Degrees of parallelism, as in configuration.Mesh."""

    pp: int = Field(1, ge=1)
    dp: int = Field(1, ge=1)
    cp: int = Field(1, ge=1)
    tp: int = Field(1, ge=1)
    ep: int = Field(1, ge=1)
    etp: int = Field(1, ge=1)


class ScheduleChoice(Frozen):
    """Which pipeline schedule, with how many virtual stages per rank and microbatches per step."""

    name: ScheduleName = "1f1b"
    vpp: int = Field(1, ge=1)
    microbatches: int = Field(1, ge=1)
    in_flight: tuple[int, ...] = ()  # the most stage inputs that a rank may hold: one for all ranks, or one each
    actions: tuple[str, ...] = ()  # of a custom schedule: for each rank, cells like 0F0 with commas between

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in (*names(), CUSTOM):
            raise ValueError(f"must be one of {', '.join(names())}, or custom")
        return name

    @field_validator("actions")
    @classmethod
    def _sound(cls, actions: tuple[str, ...]) -> tuple[str, ...]:
        if actions:
            try:
                custom(actions)
            except InputError as error:
                told = [f"{each.field}: {each.value} {each.rule}" for each in error.problems]
                raise ValueError("; ".join(told)) from None
        return actions

    @model_validator(mode="after")
    def _of_the_custom_one(self) -> ScheduleChoice:
        if self.actions and self.name != CUSTOM:
            raise ValueError("actions are those of the custom schedule")
        return self


class StageMemory(Frozen):
    """Bytes on the busiest device of one pipeline rank at its fullest moment, by cause."""

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    logits: int = 0
    buffers: int = 0
    reserve: int = 0  # fragments that the caching allocator holds beyond what is allocated
    context: int = 0

    @property
    def allocated(self) -> int:
        """What tensors fill (torch.cuda.max_memory_allocated)."""
        held = self.weights + self.gradients + self.optimizer
        return held + self.activations + self.logits + self.buffers

    @property
    def reserved(self) -> int:
        """What the allocator took from the device (torch.cuda.max_memory_reserved)."""
        return self.allocated + self.reserve

    @property
    def total(self) -> int:
        """What the device must have: reserved, and the context with its libraries."""
        return self.reserved + self.context


class Breakdown(Frozen):
    """Where a step's time goes; only exposed (not overlapped) communication counts. Sums to the step."""

    compute: float = 0.0
    tp: float = 0.0
    cp: float = 0.0
    ep: float = 0.0
    pp: float = 0.0
    dp: float = 0.0
    bubble: float = 0.0
    optimizer: float = 0.0
    offload: float = 0.0

    @property
    def total(self) -> float:
        return float(sum(dict(self).values()))


class Prediction(Frozen):
    """What the planner expects of a configuration."""

    step_time_s: float
    step_time_interval_s: tuple[float, float]
    tokens_per_s_per_device: float
    model_tflops_per_device: float
    mfu: float
    hfu: float
    peak_memory_bytes: tuple[int, ...]  # one per pipeline rank: reserved and context, what fitting is judged on
    worst_routing_bytes: tuple[int, ...] = ()  # beyond that, when one rank gets every token
    memory_limit_bytes: int  # of the smallest device
    memory_limits_bytes: tuple[int, ...] = ()  # one per pipeline rank where devices may differ; (): all as above
    fits: bool
    memory: tuple[StageMemory, ...]
    breakdown_s: Breakdown
    origin: Origin

    @property
    def limits_bytes(self) -> tuple[int, ...]:
        """What the device has on which each pipeline rank leaves least room."""
        return self.memory_limits_bytes or (self.memory_limit_bytes,) * len(self.peak_memory_bytes)

    @property
    def fullest(self) -> int:
        """The pipeline rank that leaves least room."""
        pairs = list(zip(self.limits_bytes, self.peak_memory_bytes, strict=True))
        return min(range(len(pairs)), key=lambda rank: pairs[rank][0] - pairs[rank][1])

    @property
    def fullest_bytes(self) -> tuple[int, int]:
        """What that rank needs, and what its device has."""
        return self.peak_memory_bytes[self.fullest], self.limits_bytes[self.fullest]


OrdersProven = Literal["", "every", "groups whole", "groups kept"]
"""Orders of nodes that a proof covers, where orders differ: every one, those that keep each node group together, or
those that also leave the groups in their places."""


class Proof(Frozen):
    """How good the choice is: no plan in the searched space has less than `lower_bound` of what the objective counts.
    `lower_bound_s` is the plan's step time without the gap; of seconds the bound itself.

    `candidates` are recipes, each with its splits of layers and all recomputation per rank below it; `pruned` of them
    were never priced, since `bounded` branches had bounds that were high enough. `value` is the plan's in what the
    objective counts (`goal.UNITS`); `gap` is between this and `lower_bound`.
    """

    candidates: int
    pruned: int
    bounded: int = 0
    lower_bound_s: float
    gap: float
    objective: Objective = "time"
    value: float | None = None
    lower_bound: float | None = None
    orders: OrdersProven = ""
    seconds: float = Field(exclude=True, default=0.0)  # of this search; kept out of the file: same input, same bytes


class RunnerUp(Frozen):
    """A feasible plan that was not chosen."""

    mesh: MeshDegrees
    schedule: ScheduleChoice
    zero: int
    microbatch: int
    recompute: tuple[Recompute, ...]
    step_time_s: float
    peak_memory_bytes: int
    slower_by: float  # 0.05: five percent slower than the chosen plan, or that much worse in what was asked
    breakdown_s: Breakdown | None = None


class Contingency(Frozen):
    """What to run when nodes are lost: those fields of the plan that take other values, and what they give."""

    lost: dict[str, int]  # nodes of each node group, by its name
    devices: int  # in use: of what is left as many as are fastest
    step_time_s: float
    slower_by: float
    peak_memory_bytes: int
    fields: dict[str, Any]
    proof: Proof


class Plan(Frozen):
    """A chosen configuration with everything needed to run, judge and repeat it."""

    schema_version: Literal[1] = 1
    model: ModelSpec
    cluster: Cluster
    job: Job
    framework: FrameworkName = DEFAULT  # what the step is priced as
    mesh: MeshDegrees
    schedule: ScheduleChoice
    stage_layers: tuple[int, ...]
    microbatch: int = Field(ge=1)
    zero: int = Field(ge=0, le=3)
    sp: bool = False
    recompute: tuple[Recompute, ...]
    recompute_operations: tuple[Module, ...] = CORE
    dp_replicate: int = Field(1, ge=1)
    offload: float = Field(0.0, ge=0.0, le=1.0)
    offload_to: OffloadTo = "cpu"
    swap_layers: int = Field(0, ge=0)
    cp_algorithm: CpAlgorithm = "ring"
    cp_ulysses: int = Field(1, ge=1)
    logits_chunks: int = Field(1, ge=1)
    spread_vocabulary: bool = False
    shares: tuple[int, ...] = ()  # microbatches of each dp rank where they differ
    dispatch: Dispatch = "copies"
    dispatch_chunks: int = Field(1, ge=1)
    expert_replicas: int = Field(0, ge=0)
    placement: ExpertPlacement | None = None  # of experts; None: expert e in slot e
    routing: RoutingReport | None = None  # the trace that experts were placed by; None: taken as balanced
    token_homes: TokenHomes | None = None  # which tokens tp ranks take to experts; None: in order of the sequence
    rank_map: tuple[int, ...] = ()  # the device of each logical rank; (): in their order
    mix: Mix | None = None  # groups for sequences of different lengths, where the job has lengths
    predicted: Prediction
    expected: Expected | None = None  # what is predicted of lengths
    proof: Proof
    goal: Goal = Goal()
    training: Training | None = None  # where the tokens of the run are known
    at_risk: AtRisk | None = None  # where it was chosen against its intervals
    why: tuple[str, ...] = ()
    runners_up: tuple[RunnerUp, ...] = ()
    contingency: tuple[Contingency, ...] = ()

    @field_validator("schedule")
    @classmethod
    def _complete(cls, schedule: ScheduleChoice) -> ScheduleChoice:
        if schedule.name == CUSTOM and not schedule.actions:
            raise ValueError("a custom schedule needs its actions")
        return schedule

    @property
    def configuration(self) -> Configuration:
        """The configuration as search, cost and runtime read it."""
        return Configuration(
            mesh=Mesh(**dict(self.mesh)),
            stage_layers=self.stage_layers,
            microbatch=self.microbatch,
            microbatches=self.schedule.microbatches,
            schedule=self.schedule.name,
            vpp=self.schedule.vpp,
            in_flight=self.schedule.in_flight,
            actions=self.schedule.actions,
            **levers(self),
        )

    @property
    def judged_step_time_s(self) -> float:
        """What deadlines are held against: the predicted step time, or that which is not exceeded with the probability
        that was asked for."""
        return self.at_risk.step_time_s if self.at_risk else self.predicted.step_time_s

    @property
    def fingerprint(self) -> str:
        """Hash of what determines the training run: model, job and configuration."""
        judged = {
            "framework",
            "predicted",
            "expected",
            "proof",
            "goal",
            "training",
            "at_risk",
            "why",
            "runners_up",
            "routing",
        }
        judged |= {"contingency", "cluster", "rank_map"} | (set() if self.mix else {"mix"})
        parts = self.model_dump(mode="json", exclude=judged)
        if self.job.lengths is None:  # as before there were any
            del parts["job"]["lengths"]
        del parts["job"]["kernels"]  # the same training
        for name in ("galore", "optimizer_states", "compress", "attention", "s2"):
            if getattr(self.job, name) == Job.model_fields[name].default:
                del parts["job"][name]
        optional = ("shares", "dispatch", "dispatch_chunks", "expert_replicas", "placement", "token_homes")
        for name in optional:  # likewise
            if getattr(self, name) == type(self).model_fields[name].default:
                del parts[name]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write the plan as YAML (or JSON when the name ends so)."""
        data = self.model_dump(mode="json", by_alias=True)
        with writing(path):
            path.write_text(json.dumps(data, indent=2) + "\n" if path.suffix == ".json" else dump_yaml(data))


def load_plan(path: Path) -> Plan:
    """Read a plan file. Raises InputError naming every wrong field."""
    return parse(Plan, load_mapping(path), str(path))
