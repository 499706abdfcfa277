"""Which configurations are legal and fit, each with its lower bound; and what to say when there are none."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ...clusters.wiring import is_uniform
from ...errors import InfeasibleError, InputError, Problem
from ...units import format_bytes
from ..configuration import Configuration
from ..cost.footprint import fullest_host, peaks, rank_memory
from ..cost.setting import Setting
from ..legality import is_legal, problems, runtime_problems
from ..pins import Pins
from ..plan import StageMemory
from .bound import Balancer, Bounded, bounded, holds
from .space import candidates


@dataclass(frozen=True, slots=True)
class Survey:
    """All legal configurations seen (`candidates`), and those that fit, in the order of the space."""

    candidates: int
    fitting: tuple[Bounded, ...]


def legal(setting: Setting, pins: Pins, runnable: bool) -> Iterator[Configuration]:
    """Legal configurations; with `runnable` only those that the built-in runtime can execute."""
    for configuration in candidates(setting, pins):
        if is_legal(setting, configuration) and not (runnable and runtime_problems(setting, configuration)):
            yield configuration


def survey(setting: Setting, pins: Pins, runnable: bool) -> Survey:
    """Enumerate, balance, drop what does not fit, bound the rest. Raises InputError when nothing is legal."""
    balancer, seen, fitting = Balancer(setting), 0, []
    for configuration in legal(setting, pins, runnable):
        seen += 1
        balanced = balancer.balanced(configuration)
        if holds(setting, balanced):
            fitting.append(bounded(setting, balanced))
    if not seen:
        raise _illegal(setting, pins, runnable)
    return Survey(seen, tuple(fitting))


def none_found(setting: Setting, pins: Pins, runnable: bool, candidates: int) -> InputError | InfeasibleError:
    """Why a search has no plan: nothing is legal, or nothing fits."""
    return infeasible(setting, pins, runnable) if candidates else _illegal(setting, pins, runnable)


def _illegal(setting: Setting, pins: Pins, runnable: bool) -> InputError:
    """Every problem of the configuration that has the fewest."""

    def broken(configuration: Configuration) -> list[Problem]:
        return problems(setting, configuration) + (runtime_problems(setting, configuration) if runnable else [])

    def blame(configuration: Configuration) -> tuple[int, int, int]:
        """Of two with as many problems, the one that asks for less change of the batch."""
        found = broken(configuration)
        fields = {problem.field for problem in found}
        dp = configuration.mesh.dp if "--pin dp" in fields else 0
        return len(found), dp, configuration.microbatches if "--global-batch" in fields else 0

    nearest = min(candidates(setting, pins), key=blame)
    return InputError("what is asked for", [_as_asked(setting, pins, nearest, problem) for problem in broken(nearest)])


def _as_asked(setting: Setting, pins: Pins, configuration: Configuration, problem: Problem) -> Problem:
    """Nobody pinned the dp that the other degrees leave: then it is the global batch that does not suit the cluster."""
    if problem.field != "--pin dp" or pins.dp is not None:
        return problem
    dp, batch = configuration.mesh.dp, setting.job.global_batch
    rule = f"{setting.num_devices} devices make at least {dp} data-parallel ranks, which must divide it"
    return Problem("--global-batch", batch, rule, f"--global-batch {max(1, round(batch / dp)) * dp}")


def infeasible(setting: Setting, pins: Pins, runnable: bool) -> InfeasibleError:
    """Name what binds in the configuration that comes closest to fitting, and the smallest change that fits."""
    return InfeasibleError(_closest(setting, pins, runnable), _change(setting, pins, runnable))


def _closest(setting: Setting, pins: Pins, runnable: bool) -> str:
    """The fullest stage of the configuration whose fullest stage holds least."""
    balancer, least, words = Balancer(setting), 0, ""
    for configuration in legal(setting, pins, runnable):
        balanced = balancer.balanced(configuration)
        if least and rank_memory(setting, balanced, 0).total >= least:
            continue
        stages = peaks(setting, balanced)
        rank = min(range(len(stages)), key=lambda r: stages[r].room_bytes)
        memory, limit_bytes = stages[rank]
        if not least or memory.total < least:
            least, words = memory.total, _binding(rank, memory, limit_bytes)
            if least <= limit_bytes:
                words = _host_binding(setting, balanced)
    return words


def _binding(rank: int, memory: StageMemory, limit_bytes: int) -> str:
    """`stage 3 needs 91.2 GiB of 80.0 GiB: activations 44.0, optimizer 31.5, ...`."""
    parts = sorted(memory.model_dump().items(), key=lambda part: -part[1])
    shown = ", ".join(f"{name} {size / 2**30:.1f}" for name, size in parts if size >= 2**30 / 20)
    return f"stage {rank} needs {format_bytes(memory.total)} of {format_bytes(limit_bytes)}: {shown}"


def _host_binding(setting: Setting, configuration: Configuration) -> str:
    """The devices hold it; what they offload is more than their host, or its drive, holds."""
    needed, limit = fullest_host(setting, configuration)
    place = "drive" if configuration.offload and configuration.offload_to == "nvme" else "host"
    what = "swapped layers" if configuration.swap_layers else "offloaded optimizer states"
    return f"the {place} needs {format_bytes(needed)} of {format_bytes(limit)} for each device: {what}"


RELEASE_ORDER = (
    "recompute",
    "sp",
    "zero",
    "microbatch",
    "schedule",
    "vpp",
    "ep",
    "etp",
    "tp",
    "cp",
    "pp",
    "dp",
    "offload",
)
"""Which pin to give up first: those that change least about a run stand in front."""


def _change(setting: Setting, pins: Pins, runnable: bool) -> str:
    """The first that fits of: another value of one pin, offloading, no pins, more nodes, more nodes and no pins, a
    shorter sequence."""
    for name in RELEASE_ORDER:
        if getattr(pins, name) is not None:
            found = _fastest(setting, replace(pins, **{name: None}), runnable)
            if found is not None:
                return f"--pin {name}={_value(found, name)}"
    if pins.offload is None and _any_fits(setting, replace(pins, offload=1.0), runnable):
        return "--pin offload=1"
    if pins != Pins() and _any_fits(setting, Pins(), runnable):
        return f"without {', '.join(f'--pin {name}' for name in pins.given())}"
    more = _more_nodes(setting, pins, runnable)
    if more:
        return more
    more = _more_nodes(setting, Pins(), runnable) if pins != Pins() else ""
    return f"{more}, and no pins" if more else _shorter(setting, pins, runnable)


def _any_fits(setting: Setting, pins: Pins, runnable: bool) -> bool:
    balancer = Balancer(setting)
    return any(holds(setting, balancer.balanced(each)) for each in legal(setting, pins, runnable))


def _fastest(setting: Setting, pins: Pins, runnable: bool) -> Configuration | None:
    try:
        fitting = survey(setting, pins, runnable).fitting
    except InputError:
        return None
    return min(fitting, key=lambda each: each.bound_s).configuration if fitting else None


def _value(configuration: Configuration, name: str) -> str:
    mesh = configuration.mesh
    value = getattr(mesh, name) if hasattr(mesh, name) else getattr(configuration, name)
    if name == "recompute":
        return str(value[0])
    return str(value).lower() if isinstance(value, bool) else f"{value}"


def _shorter(setting: Setting, pins: Pins, runnable: bool) -> str:
    """The longest sequence that fits, of half, a quarter, ... of what was asked: found by bisection."""
    lengths = [setting.job.seq_len >> power for power in range(1, setting.job.seq_len.bit_length())]

    def fits_at(length: int) -> bool:
        job = setting.job.model_copy(update={"seq_len": length})
        shorter = replace(setting.mapped(setting.rank_map), job=job)
        return _any_fits(shorter, pins, runnable)

    place = bisect_left(lengths, True, key=fits_at)
    return f"--seq-len {lengths[place]}" if place < len(lengths) else ""


def _more_nodes(setting: Setting, pins: Pins, runnable: bool) -> str:
    """The least doubling of a single-group cluster that fits, up to 64 times."""
    groups = setting.cluster.node_groups
    if len(groups) > 1 or groups[0].nics is None or not is_uniform(setting.cluster):
        return ""
    for power in range(1, 7):
        nodes = groups[0].nodes << power
        larger = setting.cluster.model_copy(update={"node_groups": (groups[0].model_copy(update={"nodes": nodes}),)})
        kept = setting.job, setting.every_device, setting.framework
        wider = Setting(setting.architecture, larger, *kept, routing=setting.routing)
        if _any_fits(wider, pins, runnable):
            return f"{nodes} nodes instead of {groups[0].nodes}"
    return ""
