"""What ranks do in the tests of sampled steps: found by import, run by harness.run_ranks."""

from __future__ import annotations

import time
from typing import Any

import torch
from workers import MAX_NORM, OPTIMIZER, batches, own_sequences

from meshwright.planner.plan import Plan
from meshwright.runtime import collectives, compat
from meshwright.runtime.build import build_model
from meshwright.runtime.components import span
from meshwright.runtime.model import ParallelModel
from meshwright.runtime.optimizer import build_optimizer
from meshwright.runtime.sampling import Sampler, Table
from meshwright.runtime.shards import held

CPU = torch.device("cpu")


def both_ways(plan: Plan) -> tuple[list[str], dict[str, float], float]:
    """The same step sampled and not: parameters whose gradients differ in any bit; of the sampled step seconds of each
    kind, and of the whole."""
    model = build_model(plan, CPU, seed=0)
    batch = batches(plan.model.config["vocab_size"], plan.job.seq_len, plan.job.global_batch, 1)[0]
    sequences = own_sequences(model, batch)
    plain = model.forward_backward(sequences)
    before = {name: held(parameter.grad).clone() for name, parameter in _with_gradients(model)}
    sampler = Sampler(1, CPU)
    started = time.perf_counter()
    with sampler.step(1), span("compute"):
        sampled = model.forward_backward(sequences)
    took_s = time.perf_counter() - started
    own = _own(sampler)
    differ = [name for name, parameter in _with_gradients(model) if not torch.equal(before[name], held(parameter.grad))]
    return differ + ([] if torch.equal(plain, sampled) else ["loss"]), own, took_s


def _own(sampler: Sampler) -> dict[str, float]:
    table = sampler.table()
    assert table is not None
    return table[torch.distributed.get_rank()]


def _with_gradients(model: ParallelModel) -> list[tuple[str, Any]]:
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.grad is not None]


def sampled_step(plan: Plan, slow_rank: int | None, slow_kind: str | None, sleep_s: float) -> Table:
    """A second step's table; with a rank whose every layer sleeps, or a class of collectives that does on all ranks."""
    model = build_model(plan, CPU, seed=0)
    optimizer = build_optimizer(model, **OPTIMIZER, weight_decay=0.1)
    batch = batches(plan.model.config["vocab_size"], plan.job.seq_len, plan.job.global_batch, 1)[0]
    if torch.distributed.get_rank() == slow_rank:
        model.parts[0].register_forward_pre_hook(lambda *_: time.sleep(sleep_s))
    if slow_kind is not None:
        _slow_down(slow_kind, sleep_s)
    sampler = Sampler(2, CPU)
    for step in (1, 2):
        with sampler.step(step):
            with span("compute"):
                model.forward_backward(own_sequences(model, batch))
            with span("optimizer"):
                model.clip_grad_norm(MAX_NORM)
                optimizer.step()
        table = sampler.table()
    assert table is not None
    return table


def _slow_down(kind: str, sleep_s: float) -> None:
    """Let collectives of a class take longer, as a slow link would."""

    def slowed(call: Any) -> Any:
        def late(*given: Any) -> Any:
            time.sleep(sleep_s)
            return call(*given)

        return late

    if kind == "tp":
        for name in ("all_gather", "reduce_scatter", "all_reduce"):
            setattr(compat, name, slowed(getattr(compat, name)))
    else:
        compat.FSDPParamGroup.unshard = slowed(compat.FSDPParamGroup.unshard)  # type: ignore[attr-defined]
    assert collectives.compat is compat
