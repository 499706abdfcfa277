"""Layers of a given model, timed in the runtime's own blocks at the shapes that plans for these workers would run.

All workers run the same at once, tensor- and context-parallel ones with their collectives: on a CPU these take the
cores that compute, so that no time of one alone can be added to the time of the other. What a sharding costs is
measured of a few layers one after another, whose weights are then as cold as in a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter

import torch
import torch.distributed as dist
from torch import Tensor

from ..planner.configuration import Configuration, Recompute
from ..planner.job import Job
from ..planner.model import Architecture
from ..planner.plan import ModelSpec
from ..runtime.parallel.weight_gradient import PutOff
from . import memory
from .layer_parts import Parts, as_plan, build_parts
from .timing import typical

REPETITIONS = 3  # in one pass
CHOICES: tuple[Recompute, Recompute] = ("none", "full")
OF_LAYERS = frozenset({"forward", "backward", "input", "weight", "again_forward", "again_backward"})
CHAIN = 4  # layers one after another, where they are small
CHAIN_PARAMETERS = 2**25

Legs = dict[str, float]


@dataclass(frozen=True, slots=True)
class Subject:
    """Of what the layers are, and where they run."""

    model: ModelSpec
    architecture: Architecture
    job: Job
    device: torch.device


def chain(subject: Subject) -> list[list[int]]:
    """For every kind of layer the numbers of a few that follow each other and are of that kind."""
    layers, found = subject.architecture.layers, dict[object, list[int]]()
    for number, layer in enumerate(layers):
        own = found.setdefault(layer, [])
        most = CHAIN if layer.parameters < CHAIN_PARAMETERS else 1
        if len(own) < most and (not own or own[-1] == number - 1):
            own.append(number)
    return list(found.values())


def measure(subject: Subject, configuration: Configuration, held: bool = True) -> list[Legs]:
    """For every kind of layer seconds of one layer (`forward`, `backward`, `input`, `weight`, `again_forward`,
    `again_backward`: recomputed) and of embedding and head, one microbatch; with `held`, bytes too (`kept`,
    `again_kept`, `fragments`). All ranks call this together.

    Backwards add to gradients that are there, every second time to none: as in a step of two microbatches.
    """
    plan = as_plan(subject.model, subject.job, configuration)
    found = []
    for numbers in chain(subject):
        plain, again = (build_parts(plan, numbers, subject.device, choice) for choice in CHOICES)
        legs = _of_kind(plain, again, len(numbers))
        found.append(legs | _bytes(plain, again, len(numbers)) if held else legs)
    return found


def _of_kind(plain: Parts, again: Parts, count: int) -> Legs:
    put_off, samples = PutOff(), list[Legs]()
    for _ in range(1 + REPETITIONS):
        repeated = together(partial(microbatch, again))
        halves = together(partial(_split, plain, put_off))
        samples.append(
            together(partial(_legs, plain), times=2)
            | {"again_forward": repeated["forward"], "again_backward": repeated["backward"]}
            | {name: halves[name] for name in ("input", "weight")}
        )
    del samples[0]  # warms up
    typicals = {name: typical([each[name] for each in samples]) for name in samples[0]}
    return {name: value / (count if name in OF_LAYERS else 1) for name, value in typicals.items()}


def together(run: Callable[[], Legs], times: int = 1) -> Legs:
    """Legs, the mean of so many times, of what all workers run at once. Where they share cores, stretched to what the
    last of them took: in a step none goes on before it."""
    dist.barrier()
    begin = perf_counter()
    legs = run()
    if "nccl" in dist.get_backend():
        return legs
    last_s = torch.tensor(perf_counter() - begin, dtype=torch.float64)
    dist.all_reduce(last_s, dist.ReduceOp.MAX)
    stretched = float(last_s) / (times * sum(legs.values()))
    return {name: seconds * stretched for name, seconds in legs.items()}


def all_agree(more: bool) -> bool:
    """Whether every rank wants to go on: they must stop together."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return more
    wish = torch.tensor(int(more), device="cuda" if "nccl" in dist.get_backend() else "cpu")
    dist.all_reduce(wish, dist.ReduceOp.MIN)
    return bool(wish)


def _bytes(plain: Parts, again: Parts, count: int) -> Legs:
    held = {"kept": _kept(plain), "again_kept": _kept(again)}
    fragments = max(each.fragments for each in held.values())
    return {name: each.kept_bytes / count for name, each in held.items()} | {"fragments": fragments}


def _kept(parts: Parts) -> memory.Held:
    """Of all layers of the chain."""
    with torch.no_grad():
        embedded: Tensor = parts.embedding(parts.batch.tokens)
    x = embedded.detach().requires_grad_()
    return memory.measure(lambda: parts.layers(x), [parts.layers], x.device)


def _legs(parts: Parts) -> Legs:
    """The mean of two microbatches, the second of which adds to the gradients of the first."""
    for part in (parts.embedding, parts.layers, parts.head):
        for parameter in part.parameters():
            parameter.grad = None
    both = [microbatch(parts), microbatch(parts)]
    return {name: sum(each[name] for each in both) / 2 for name in both[0]}


def microbatch(parts: Parts) -> Legs:
    """Seconds of every part, forward and backward."""
    clock = Clock(parts.batch.tokens.device)
    embedded: Tensor = parts.embedding(parts.batch.tokens)
    clock("embedding_forward")
    x = embedded.detach().requires_grad_()
    out: Tensor = parts.layers(x)
    clock("forward")
    y = out.detach().requires_grad_()
    loss: Tensor = parts.head(y, parts.batch.targets) / parts.batch.weight
    clock("head_forward")
    torch.autograd.backward(loss)
    clock("head_backward")
    torch.autograd.backward(out, y.grad)
    clock("backward")
    torch.autograd.backward(embedded, x.grad)
    clock("embedding_backward")
    return clock.found


def _split(parts: Parts, put_off: PutOff) -> Legs:
    """The halves of a backward, as schedules without bubbles run them."""
    clock = Clock(parts.batch.tokens.device)
    with put_off.used():
        x = parts.embedding(parts.batch.tokens).detach().requires_grad_()
        out: Tensor = parts.layers(x)
        gradient = torch.ones_like(out)
        clock("made")
        torch.autograd.backward(out, gradient)
        clock("input")
        put_off.take(parts.layers)()
        clock("weight")
    return clock.found


class Clock:
    """Seconds since the last call, by name."""

    def __init__(self, device: torch.device):
        self.found: Legs = {}
        self._device, self._last = device, perf_counter()

    def __call__(self, name: str) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = perf_counter()
        self.found[name] = now - self._last
        self._last = now
