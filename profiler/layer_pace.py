"""How fast a worker is while fewer than all compute, as in a pipeline: workers of one machine share its cores, caches
and memory, and who waited for a message is not awake at once. Turns of one layer and of several tell these apart."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch
import torch.distributed as dist
from torch import Tensor

from ..planner.configuration import Configuration, Mesh
from .layer_parts import as_plan, build_parts
from .layers import Clock, Subject, all_agree, chain
from .timing import typical

FEWEST, MOST = 3, 24
TURNS = 8  # forwards and backwards in turn: long beside a slice of the scheduler
LONG_S = 0.1  # of a forward and a backward that need no more turns for that
OVERTIME = 4.0  # times the budget, which the fewest samples may take
TOGETHER = "together"

Turn = Callable[[int], None]
Seconds = dict[str, float]


def measure(subject: Subject, budget_s: float) -> dict[str, Seconds]:
    """Seconds of a turn (a forward or a backward, the mean), by its layers: of all workers at once that wait for nobody
    (`together`), and, by number of workers that compute at once, where each waits for the one before it."""
    world = dist.get_world_size()
    configuration = Configuration(
        mesh=Mesh(dp=world), stage_layers=(len(subject.architecture.layers),), microbatch=1, microbatches=1, zero=0
    )
    plan = as_plan(subject.model, subject.job, configuration)
    parts = [build_parts(plan, range(count), subject.device) for count in sorted({1, len(chain(subject)[0])})]
    with torch.no_grad():
        x: Tensor = parts[0].embedding(parts[0].batch.tokens)
    turns = {str(len(each.layers.model.layers)): turns_of(each.layers, x.requires_grad_()) for each in parts}
    names = (TOGETHER, *(str(busy) for busy in range(1, world + 1)))
    samples: dict[str, dict[str, list[float]]] = {count: {name: [] for name in names} for count in turns}
    begin, done = perf_counter(), 0
    often = {count: _often(turn) for count, turn in turns.items()}
    while all_agree(_goes_on(done, (perf_counter() - begin) / budget_s)):
        for name in names:
            for count, turn in turns.items():
                samples[count][name].append(_sample(turn, x.detach(), name, subject.device, often[count]))
        done += 1
    return {count: {name: typical(each) for name, each in own.items()} for count, own in samples.items()}


def _goes_on(done: int, spent: float) -> bool:
    """After so many samples and so much of the budget."""
    return done == 0 or (spent < (OVERTIME if done < FEWEST else 1.0) and done < MOST)


def _often(turn: Turn) -> int:
    """How many turns make a sample, by the slowest worker's forward and backward behind others that warm up."""
    together(turn, 2)
    begin = perf_counter()
    together(turn, 2)
    slowest_s = torch.tensor(perf_counter() - begin, dtype=torch.float64)
    dist.all_reduce(slowest_s, dist.ReduceOp.MAX)
    return 2 if float(slowest_s) > LONG_S else TURNS


def turns_of(layers: torch.nn.Module, x: Tensor) -> Turn:
    """A forward at every even turn, its backward at the next; gradients are added to those before."""
    kept: list[Tensor] = []

    def turn(number: int) -> None:
        if number % 2 == 0:
            kept.append(layers(x))
        else:
            out = kept.pop()
            torch.autograd.backward(out, torch.ones_like(out))

    return turn


def _sample(turn: Turn, message: Tensor, name: str, device: torch.device, often: int) -> float:
    """Seconds of a turn."""
    dist.barrier()
    clock = Clock(device)
    in_a_row = relay(turn, message, int(name), often) if name != TOGETHER else together(turn, often)
    dist.barrier()
    clock("all")
    return clock.found["all"] / in_a_row


def together(turn: Turn, often: int = TURNS) -> int:
    """All workers for themselves; how many turns follow each other."""
    for number in range(often):
        turn(number)
    return often


def relay(turn: Turn, message: Tensor, busy: int, often: int = TURNS) -> float:
    """Each worker takes its turn when the one before it has sent it a message, as large as activations; so many of them
    are on their way around all workers. How many turns of one message follow each other."""
    rank, world = dist.get_rank(), dist.get_world_size()
    first = {each * world // busy for each in range(busy)}  # begin with a message in hand
    before, after = (rank - 1) % world, (rank + 1) % world
    arrived, sent = torch.empty_like(message), list[dist.Work | None]()
    for number in range(often):
        if number > 0 or rank not in first:
            dist.recv(arrived, before)
        turn(number)
        if number < often - (after in first):
            sent.append(dist.isend(message, after))
    for each in sent:
        if each is not None:
            each.wait()
    return often * world / busy


def shared_cores(turns: dict[str, Seconds]) -> dict[str, dict[int, float]]:
    """`pace` and `wake_s` by number of workers that compute: of the line through turns of one layer and of several the
    slope and what is left without a layer, as far as that makes no worker faster than all of the machine would. Turns
    of one size tell no `wake_s`: the pace has it in it then."""
    few, many = min(turns, key=int), max(turns, key=int)
    if few == many:
        return {"pace": paces(turns[few])}
    less, more, workers = int(few), int(many), len(turns[many]) - 1
    fastest_s = turns[many][TOGETHER] / workers
    wake_s = {
        name: max(0.0, min((more * turns[few][name] - less * seconds) / (more - less), seconds - fastest_s))
        for name, seconds in turns[many].items()
        if name != TOGETHER
    }
    of_layer = {name: (seconds - wake_s.get(name, 0.0)) / more for name, seconds in turns[many].items()}
    return {"pace": paces(of_layer), "wake_s": {int(name): seconds for name, seconds in wake_s.items()}}


def paces(seconds: Seconds) -> dict[int, float]:
    """By number of workers that compute: seconds of a turn of all together over those with handing over. Samples that
    say that more are faster than fewer, or that all are faster for waiting, are noise."""
    found = dict[int, float]()
    for busy in sorted((int(name) for name in seconds if name != TOGETHER), reverse=True):
        pace = seconds[TOGETHER] / seconds[str(busy)]
        found[busy] = max([pace, *found.values()]) if found else min(1.0, pace)
    return dict(sorted(found.items()))
