"""The main job: `meshwright launch` without a plan.

Measures this machine, plans a small byte-level Llama for it, and trains that on a text that every machine
has: the Python standard library's own source.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .clusters.schema import Cluster
    from .planner.plan import Plan

MODEL = "byte-llama"
SEQ_LEN, GLOBAL_BATCH = 256, 8
CPU_WORKERS = 2
MEASURING_S = 30.0  # less leaves out the kernels' shapes, or what a collective takes from compute
TRAINING_S = 120.0  # with measuring, starting and slower steps than predicted: a job of about three minutes
FEWEST_STEPS, MOST_STEPS = 450, 5000  # 460 steps end at 1.94 nats, 400 at 2.07; a slow machine takes its time
LEARNING_RATE = 3e-3  # usual for a model of a few million parameters


def make_plan(cluster: Cluster, pins: Sequence[str]) -> Plan:
    """The fastest plan of the small model on a measured machine, among those that the runtime runs."""
    from .planner.families import load_model
    from .planner.job import Job
    from .planner.pins import parse_pins
    from .planner.search.request import Request
    from .planner.search.search import find_plan

    on_gpu = cluster.node_groups[0].device.kind != "cpu"
    job = Job(seq_len=SEQ_LEN, global_batch=GLOBAL_BATCH, precision="bf16" if on_gpu else "fp32")
    request = Request(model=load_model(MODEL), cluster=cluster, job=job, pins=parse_pins(pins), runnable=True)
    return find_plan(request)


def measure(workers: int | None, progress: Callable[[str, float], None]) -> Cluster:
    """This machine, with the layers of the model: one worker a GPU, or two that share the CPU's cores."""
    from .clusters.local import visible_gpus
    from .profiler.measure import profile_machine
    from .profiler.parts import Asked

    asked = Asked(MODEL, SEQ_LEN, GLOBAL_BATCH)
    return profile_machine(workers or len(visible_gpus()) or CPU_WORKERS, MEASURING_S, progress, asked)


def recipe_defaults(plan: Plan, steps: object = None) -> dict[str, Any]:
    """As many steps as fit the time, by the plan's own prediction, or `steps`; the rest follows from them."""
    if not isinstance(steps, int) or steps < 1:
        fitting = round(TRAINING_S / plan.predicted.step_time_s / 10) * 10
        steps = min(MOST_STEPS, max(FEWEST_STEPS, fitting))
    return {
        "steps": steps,
        "lr": LEARNING_RATE,
        "warmup_steps": steps // 20,
        "checkpoint_every": max(1, steps // 5),
    }
