"""Choose: the plan for a goal - one search, or for the fewest devices one for each number of them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace

from ...clusters.part import first_devices, part_sizes
from ...clusters.schema import Exceptions
from ...errors import InfeasibleError, InputError
from ..cost.memory import recipe_of
from ..cost.setting import Setting
from ..plan import Plan, Proof
from .objective import LATE
from .request import Progress, Request, check
from .search import find_plan


def choose(request: Request, progress: Progress | None = None) -> Plan:
    """The best plan for a request, whatever its objective.

    Raises InputError with every problem of the request, InfeasibleError where nothing fits or nothing meets the
    deadline.
    """
    check(request)
    try:
        plan = fewest(request, progress) if request.objective == "devices" else find_plan(request, progress)
    except InfeasibleError as error:
        raise _spared(request, error) from None
    if plan.judged_step_time_s > request.step_limit_s:
        raise late(request, plan)
    return plan


def _spared(request: Request, error: InfeasibleError) -> InfeasibleError:
    """The same, with what risk has to do with it."""
    if request.at_risk is None:
        return error
    kept = f"{request.at_risk.memory_share:.0%} of each device's memory is planned for with --risk {request.risk:g}"
    return InfeasibleError(f"{error.binding} ({kept})", error.change)


def fewest(request: Request, progress: Progress | None = None) -> Plan:
    """The fastest plan on the fewest devices that hold the model and meet the deadline; its cluster is that part.

    Every number of devices below was ruled out: by arithmetic, because nothing fits, or because no plan on so many
    meets the deadline. Where none does, the fastest of these plans. Raises as `find_plan` does.
    """
    started, fastest = time.perf_counter(), None
    setting, counted, pruned, open_ = request.setting(), 0, 0, list[int]()
    for devices in sizes(request):
        if devices < request.cluster.num_devices and too_few(request, setting, devices):
            continue
        part = replace(request, cluster=first_devices(request.cluster, devices), objective="time")
        try:
            plan = find_plan(part, progress)
        except (InfeasibleError, InputError):
            if devices == request.cluster.num_devices and fastest is None:
                raise
            continue
        counted, pruned = counted + plan.proof.candidates, pruned + plan.proof.pruned
        if plan.judged_step_time_s <= request.step_limit_s:
            told = {"candidates": counted, "pruned": pruned, "seconds": time.perf_counter() - started}
            return _of_fewest(request, plan, told, min([*open_, devices]))
        open_ += [] if _ruled_out(plan) else [devices]
        fastest = plan if fastest is None else min(fastest, plan, key=lambda late: late.judged_step_time_s)
    assert fastest is not None  # the last number of devices is all of them
    return fastest


def _ruled_out(late: Plan) -> bool:
    """Whether bounds show that no plan of a search which found none in time is."""
    return (late.proof.lower_bound or 0.0) >= LATE


def sizes(request: Request) -> list[int]:
    """Numbers of devices that are tried: parts of one node, then of whole ones."""
    whole = part_sizes(request.cluster)
    first = request.cluster.node_groups[0]
    if request.cluster.exceptions != Exceptions() or first.fabric.matrix is not None:
        return whole
    node = first.devices_per_node
    return [*(few for few in range(1, node) if node % few == 0), *whole]


def too_few(request: Request, setting: Setting, devices: int) -> bool:
    """What arithmetic alone rules out: steps at the peak of the fastest devices, or weights and gradients (optimizer
    states too, where these may not leave) that so many devices together do not hold, however they are sharded."""
    if _least_flops(request, setting) / (devices * _peak_flops(request)) > request.step_limit_s:
        return True
    if request.pins.swap_layers:
        return False
    job, keeps = request.job, setting.framework.keeps
    recipes = [recipe_of(job.precision, keeps, zero, job.optimizer_states) for zero in range(4)]
    stays = request.pins.offload == 0 and job.galore is None  # else states may all be on the host, or few
    least = min(recipe.weight + recipe.gradient + (recipe.states if stays else 0) for recipe in recipes)
    memory = max(group.device.memory_bytes for group in request.cluster.node_groups)
    return bool(least * setting.architecture.parameters > devices * memory)


def _least_flops(request: Request, setting: Setting) -> float:
    """Of a step at the least: where sequences differ in length, tokens that attend to nothing but themselves."""
    job, model = request.job, setting.architecture
    if job.lengths is not None:
        return model.training_flops(1) * job.tokens_per_step
    return model.training_flops(job.seq_len) * job.global_batch


def _peak_flops(request: Request) -> float:
    """No product is faster on any device of the cluster."""
    return max(max(group.device.peak_flops.values()) for group in request.cluster.node_groups)


def _of_fewest(request: Request, plan: Plan, told: dict[str, float], at_least: int) -> Plan:
    """The plan, with what all searches together proved of the number of its devices."""
    devices = plan.cluster.num_devices
    counts = {"objective": request.objective, "value": float(devices), "lower_bound": float(at_least)}
    proof: Proof = plan.proof.model_copy(update=told | counts | {"gap": 1 - at_least / devices})
    return plan.model_copy(update={"proof": proof, "goal": request.goal, "why": (*_few(request, devices), *plan.why)})


def _few(request: Request, devices: int) -> Iterator[str]:
    fewer = max((size for size in sizes(request) if size < devices), default=0)
    meets = "" if request.deadline_s is None else f" and meet the deadline of {days(request.deadline_s)}"
    rest = f": {fewer} and fewer do not" if fewer else ""
    are = "device is" if devices == 1 else "devices are"
    yield f"{devices} {are} the fewest tried that hold it{meets}{rest}."


def late(request: Request, fastest: Plan) -> InfeasibleError:
    """No plan meets the deadline: the fastest, and the deadline that it meets."""
    tokens, deadline_s = request.tokens or 0, request.deadline_s or 0.0
    steps = tokens / request.job.tokens_per_step
    run_s = steps * fastest.judged_step_time_s
    least_s = run_s * (1 - fastest.proof.gap)
    proven = f" (none takes less than {days(least_s)})" if least_s < run_s * 0.999 else ""
    proven = proven if _ruled_out(fastest) else " (bounds leave open whether one does)"
    binding = (
        f"no plan trains {tokens:,} tokens in {days(deadline_s)}: the best takes {days(run_s)} with "
        f"{fastest.configuration.mesh.world} devices{proven}"
    )
    return InfeasibleError(binding, late_by(run_s))


def days(seconds: float) -> str:
    """`41.2 days`, or hours below three days."""
    unit, name = (86_400, "days") if seconds >= 3 * 86_400 else (3600, "hours")
    return f"{seconds / unit:.4g} {name}"


def late_by(seconds: float) -> str:
    """A deadline as an option has it that is no shorter than `seconds`."""
    unit, name = (86_400, "d") if seconds >= 3 * 86_400 else (3600, "h") if seconds >= 3600 else (1, "s")
    return f"--deadline {math.ceil(10 * seconds / unit) / 10:g}{name}"
