"""What a step does beside its microbatches: norm and clipping of gradients, the optimizer, and what is fixed."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter

import torch
import torch.distributed as dist

from ..planner.configuration import Configuration, Mesh
from ..runtime.build import build_model
from ..runtime.model import ParallelModel
from ..runtime.optimizer import build_optimizer
from .layer_parts import as_plan
from .layers import Clock, Legs, Subject, all_agree
from .memory import state_bytes
from .timing import typical

FEWEST, MOST = 4, 20
DEPTH = 4


@dataclass(frozen=True, slots=True)
class Tail:
    """Seconds of clipping and optimizer of a rank that owns so many parameters, as tensors (zero 0 without tensor
    parallelism) or as shards; `step_s` of what every step takes beside these and its microbatches; bytes of the optimizer's states."""

    sharded: bool
    parameters: int
    seconds: float
    step_s: float
    state_bytes: int


def measure(subject: Subject, budget_s: float) -> list[Tail]:
    """With plain and with sharded parameters, of models of two depths."""
    most = min(DEPTH, len(subject.architecture.layers))
    cases = [
        (zero, depth) for zero in ((0, 1) if dist.get_world_size() > 1 else (0,)) for depth in (max(1, most // 2), most)
    ]
    return [_tail(subject, zero, depth, budget_s / len(cases)) for zero, depth in dict.fromkeys(cases)]


def _tail(subject: Subject, zero: int, depth: int, budget_s: float) -> Tail:
    world = dist.get_world_size()
    config = {**subject.model.config, _depth_name(subject.model.config): depth}
    configuration = Configuration(mesh=Mesh(dp=world), stage_layers=(depth,), microbatch=1, microbatches=1, zero=zero)
    plan = as_plan(subject.model.model_copy(update={"config": config}), subject.job, configuration)
    model = build_model(plan, subject.device)
    optimizer = build_optimizer(model, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, eps=1e-8)
    tokens = torch.zeros(1, subject.job.seq_len + 1, dtype=torch.int64, device=subject.device)
    samples = list[Legs]()
    _step(model, optimizer, tokens)
    begin = perf_counter()
    while len(samples) < FEWEST or all_agree(len(samples) < MOST and perf_counter() - begin < budget_s):
        dist.barrier()
        samples.append(_step(model, optimizer, tokens))
    owned = sum(_own(each) for _, each in model.named_parameters())
    medians = {name: typical([each[name] for each in samples]) for name in samples[0]}
    return Tail(zero > 0, owned, medians["tail"], medians["begin"] + medians["mean"], state_bytes(optimizer))


def _depth_name(config: dict[str, object]) -> str:
    return "n_layer" if "n_layer" in config else "num_hidden_layers"


def _own(parameter: torch.nn.Parameter) -> int:
    local = getattr(parameter, "to_local", None)
    return int((local() if local else parameter).numel())


def _step(model: ParallelModel, optimizer: torch.optim.Optimizer, tokens: torch.Tensor) -> Legs:
    """A step in which the microbatch is not timed."""
    clock = Clock(tokens.device)
    optimizer.zero_grad()
    clock("begin")
    loss = model.forward_backward(tokens)
    dist.barrier()
    clock("microbatch")
    model._global_mean(loss.detach())
    clock("mean")
    norm = model.clip_grad_norm(1.0)
    torch.stack([loss.detach().float(), norm.detach().float()]).tolist()
    optimizer.step()
    clock("tail")
    return clock.found
