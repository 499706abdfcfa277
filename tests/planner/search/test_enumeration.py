"""The plan against every legal configuration, every split within two layers of even and every choice of recomputation
by rank, written down here anew: nothing of the search's own space or bounds is asked.

What a step cannot take less than is said here by one thing alone: a rank computes all its work, one action at a time.
What that leaves is priced by the event interpreter. Minutes a case: `pytest -m slow tests/planner/search`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice, product

import pytest

from meshwright.clusters.catalogue import load_cluster
from meshwright.planner.configuration import Configuration, Mesh, Recompute
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.stage import stage_times
from meshwright.planner.cost.step import price
from meshwright.planner.families import architecture, load_model
from meshwright.planner.job import Job
from meshwright.planner.legality import is_legal
from meshwright.planner.pins import Pins, parse_pins
from meshwright.planner.schedule.table import table
from meshwright.planner.search.request import Request
from meshwright.planner.search.search import find_plan

ROUNDING = 1e-9
REACH = 2  # layers that a stage may have more or less than its even share
MOST_SPLITS = 200  # of one schedule, else those nearer to even
LARGEST_MICROBATCH = 16
CHOICES: tuple[Recompute, ...] = ("none", "selective", "full")


@dataclass(frozen=True)
class Case:
    model: str
    cluster: str
    seq_len: int
    global_batch: int
    pins: tuple[str, ...] = ()
    precision: str = "bf16"

    def request(self) -> Request:
        job = Job(seq_len=self.seq_len, global_batch=self.global_batch, precision=self.precision)
        model, cluster = load_model(self.model), load_cluster(self.cluster)
        return Request(model=model, cluster=cluster, job=job, pins=parse_pins(self.pins), gap=0.0, top=0)


CASES = (
    Case("llama-3.2-1b", "gb200-nvl72:1", 2048, 16),
    Case("gpt2-xl", "rtx4090-ethernet:1", 1024, 8, ("pp=4",)),
    Case("olmoe-1b-7b", "dgx-a100-40g:1", 2048, 16, ("pp=2",)),
    Case("llama-3.2-1b", "jean-zay-v100:2", 2048, 16, ("pp=2",), "fp16"),
    Case("mixtral-8x7b", "dgx-a100-80g:2", 4096, 16, ("pp=4", "tp=2")),
    Case("llama-3.1-8b", "rtx4090-ethernet:1", 2048, 16, ("pp=4",)),
)


def divisors(number: int) -> list[int]:
    return [each for each in range(1, number + 1) if number % each == 0]


def meshes(setting: Setting) -> Iterator[Mesh]:
    """Tensor and expert-tensor parallelism inside a fast domain; no context parallelism at these lengths."""
    world, moe = setting.cluster.num_devices, setting.architecture.layers[-1].moe
    for tp in divisors(world):
        for pp in divisors(world // tp):
            ranks = world // pp
            for etp in divisors(ranks) if moe else [1]:
                for ep in divisors(ranks // etp) if moe else [1]:
                    if setting.domain_devices % tp == 0 and setting.domain_devices % etp == 0:
                        yield Mesh(pp=pp, dp=ranks // tp, tp=tp, ep=ep, etp=etp)


def schedules(setting: Setting, pp: int) -> Iterator[tuple[str, int]]:
    layers = len(setting.architecture.layers)
    for name, builder in table().items():
        for vpp in range(1, 9):
            plain = name == "1f1b" or pp > 1
            halves = setting.framework.splits_backward or not builder.splits
            if builder.searched and plain and halves and vpp in builder.chunks and pp * vpp <= layers:
                yield name, vpp


def bases(setting: Setting, pins: Pins) -> Iterator[Configuration]:
    """Everything but splits and recomputation, legal where the even split is."""
    batch, layers = setting.job.global_batch, len(setting.architecture.layers)
    for mesh in meshes(setting):
        if pins.pp not in (None, mesh.pp) or pins.tp not in (None, mesh.tp) or batch % mesh.dp:
            continue
        sizes = [size for size in divisors(batch // mesh.dp) if size <= LARGEST_MICROBATCH]
        spreads = (False, True) if mesh.pp > 1 and setting.framework.spreads_vocabulary else (False,)
        for size, (name, vpp), zero, spread in product(sizes, schedules(setting, mesh.pp), range(4), spreads):
            few, more = divmod(layers, mesh.pp * vpp)
            base = Configuration(
                mesh=mesh,
                stage_layers=(few,) * (mesh.pp * vpp - more) + (few + 1,) * more,
                microbatch=size,
                microbatches=batch // mesh.dp // size,
                schedule=name,
                vpp=vpp,
                zero=zero,
                sp=mesh.tp > 1,
                recompute=("none",) * mesh.pp,
                spread_vocabulary=spread,
            )
            if is_legal(setting, base):
                yield base


def splits(layers: int, stages: int, reach: int) -> Iterator[tuple[int, ...]]:
    low, high = max(1, layers // stages - reach), -(-layers // stages) + reach

    def rest(left: int, count: int) -> Iterator[tuple[int, ...]]:
        if not low * count <= left <= high * count:
            return
        if count == 0:
            yield ()
        for own in range(low, min(high, left) + 1) if count else ():
            yield from ((own, *after) for after in rest(left - own, count - 1))

    return rest(layers, stages)


def near_even(base: Configuration) -> list[tuple[int, ...]]:
    """All splits within REACH of even, or within less where these are too many."""
    stages, layers = len(base.stage_layers), sum(base.stage_layers)
    for reach in range(REACH, 0, -1):
        found = list(islice(splits(layers, stages, reach), MOST_SPLITS + 1))
        if len(found) <= MOST_SPLITS:
            return found
    return [base.stage_layers]


def ranks_s(setting: Setting, configuration: Configuration) -> list[float]:
    """What each rank computes in a step; halves of a backward may take less than the whole."""
    work = stage_times(setting, configuration)
    backward = list(work.backward_s)
    if work.input_s:
        halves = zip(work.backward_s, work.input_s, work.weight_s, strict=True)
        backward = [min(whole, first + second) for whole, first, second in halves]
    each = [forward + back for forward, back in zip(work.forward_s, backward, strict=True)]
    own = [sum(each[stage] for stage in configuration.stages_of(rank)) for rank in range(configuration.mesh.pp)]
    return [configuration.microbatches * seconds * (1 - ROUNDING) for seconds in own]


def better_than(setting: Setting, base: Configuration, step_s: float) -> Iterator[tuple[float, Configuration]]:
    """Every split and choice over a base that fits and takes less."""
    if sum(ranks_s(setting, base)) / base.mesh.pp >= step_s:  # recomputation only adds, and a split moves work
        return
    for split, choice in product(near_even(base), product(CHOICES, repeat=base.mesh.pp)):
        configuration = replace(base, stage_layers=split, recompute=choice)
        if max(ranks_s(setting, configuration)) < step_s:
            predicted = price(setting, configuration)
            if predicted.fits and predicted.step_time_s < step_s * (1 - ROUNDING):
                yield predicted.step_time_s, configuration


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.model}-{case.cluster}")
def test_nothing_written_down_beats_the_plan(case):
    request = case.request()
    setting = Setting(architecture(request.model), request.cluster, request.job)
    plan, counted, better = find_plan(request), 0, []
    for base in bases(setting, request.pins):
        counted += len(near_even(base)) * len(CHOICES) ** base.mesh.pp
        better += better_than(setting, base, plan.predicted.step_time_s)
    print(f"{counted:,} configurations, {plan.predicted.step_time_s:.6g} s, {len(better)} take less")
    assert counted > len(CHOICES)
    assert not better, min(better, key=lambda each: each[0])


def test_splits_are_all_that_there_are():
    assert sorted(splits(6, 3, 1)) == [
        split for split in product(range(1, 4), repeat=3) if sum(split) == 6 and max(split) <= 3
    ]
    assert len(list(splits(7, 2, 2))) == 6  # 1 + 6 to 6 + 1
