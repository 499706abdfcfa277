"""What ranks do in the tests of dispatch: one block of experts, spread in every way over one set of processes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from workers import full

from meshwright.planner.configuration import Mesh
from meshwright.runtime.blocks.experts import Experts
from meshwright.runtime.blocks.moe import Moe
from meshwright.runtime.blocks.shape import read_shape
from meshwright.runtime.compat import in_backward
from meshwright.runtime.mesh import Meshes, build_meshes
from meshwright.runtime.parallel.expert.dispatch import Capacity, Dropless
from meshwright.runtime.parallel.expert.exchange import Groups
from meshwright.runtime.parallel.expert.sharding import shard_moe
from meshwright.runtime.parallel.expert.transfer import Parts, _Flight

CPU = torch.device("cpu")
NODES, PER_NODE = 2, 4
"""Of the benchmark."""
WEIGHTS = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Case:
    """One way to send tokens. `factor`: of a capacity; 0: none. `away`: all tokens choose the first experts. `narrow`:
    tokens are bfloat16, and so are products."""

    sent: str = "copies"
    chunks: int = 1
    factor: float = 0.0
    away: bool = False
    narrow: bool = False


def shape_of(experts: int, top_k: int, hidden: int = 16, width: int = 24) -> dict[str, Any]:
    """A config with so many experts."""
    return {
        "model_type": "qwen3_moe", "hidden_size": hidden, "intermediate_size": 32, "moe_intermediate_size": width,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64,
        "num_experts": experts, "num_experts_per_tok": top_k, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
        "max_position_embeddings": 64, "tie_word_embeddings": False, "hidden_act": "silu",
    }  # fmt: skip


def inputs(
    ranks: int, tokens: int, experts: int, top_k: int, away: bool, hidden: int = 16
) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Of each rank: tokens, weights, choices, and what the gradient of the output is."""
    generator = torch.Generator().manual_seed(3)
    made = []
    for _ in range(ranks):
        scores = torch.rand(tokens, experts, generator=generator)
        if away:
            scores[:, :top_k] += 2.0
        chosen = scores.argsort(-1, descending=True)[:, :top_k].contiguous()
        x, upstream = torch.randn(2, tokens, hidden, generator=generator)
        made.append((x, torch.rand(tokens, top_k, generator=generator), chosen, upstream))
    return made


def block(experts: int, top_k: int, hidden: int = 16, width: int = 24) -> Moe:
    """The same on every rank."""
    made, generator = Moe(read_shape(shape_of(experts, top_k, hidden, width))), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    return made


Gradients = dict[str, Tensor]


def run(experts: Experts, given: tuple[Tensor, Tensor, Tensor, Tensor]) -> Gradients:
    """Output, and gradients of tokens and weights."""
    x, weights, chosen, upstream = given
    x, weights = x.clone().requires_grad_(), weights.clone().requires_grad_()
    output = experts(x, weights, chosen)
    output.backward(upstream)
    assert x.grad is not None
    assert weights.grad is not None
    return {"output": output.detach(), "x": x.grad, "weights": weights.grad}


def errors(
    cases: Iterable[Case], degrees: dict[str, int], per_node: int, tokens: int, experts: int, top_k: int
) -> dict[Case, dict[str, float]]:
    """By case and tensor, the largest difference of an element from what one process computes."""
    meshes = build_meshes(Mesh(**degrees), CPU, ep_per_node=per_node)
    return {case: _errors(case, meshes, tokens, experts, top_k) for case in cases}


def _errors(case: Case, meshes: Meshes, tokens: int, experts: int, top_k: int) -> dict[str, float]:
    dtype = torch.bfloat16 if case.narrow else torch.float32
    drawn = inputs(meshes.world_size, tokens, experts, top_k, case.away)
    given = [(x.to(dtype), weights, chosen, upstream.to(dtype)) for x, weights, chosen, upstream in drawn]
    plain, spread = block(experts, top_k), block(experts, top_k)
    shard_moe(spread, meshes, None, sent=case.sent, chunks=case.chunks)  # type: ignore[arg-type]
    if case.factor:
        for moe in (plain, spread):
            moe.experts.dispatch = _limited(moe.experts, case.factor)
    expected = [run(plain.experts, each) for each in given]
    found = run(spread.experts, given[meshes.rank])
    again = run(spread.experts, given[meshes.rank])
    assert all(torch.equal(found[name], again[name]) for name in found)
    wanted = expected[meshes.rank]
    return {
        **{name: _difference(found[name], wanted[name]) for name in found},
        **{name: _of_weight(getattr(spread.experts, name), getattr(plain.experts, name)) for name in WEIGHTS},
    }


def _limited(experts: Experts, factor: float) -> Capacity:
    dispatch = experts.dispatch
    dropless = dispatch if isinstance(dispatch, Dropless) else Dropless(experts.count, Groups(None, None))
    return Capacity(dropless, factor, "probability")


def _difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def _of_weight(found: Tensor, expected: Tensor) -> float:
    """Experts without replicas: every rank of the group has the whole sum of its part, twice for two runs."""
    assert found.grad is not None
    assert expected.grad is not None
    return _difference(full(found.grad) / 2, expected.grad)


@dataclass(slots=True)
class Watched:
    """What one rank does: rows sent, by the size of the group, and messages under way whenever products begin."""

    forward: list[int] = field(default_factory=list)
    backward: list[int] = field(default_factory=list)
    sent: dict[int, list[list[int]]] = field(default_factory=dict)
    asked: int = 0  # how often the host waited for numbers
    under_way: int = 0


def watch(case: Case, degrees: dict[str, int], per_node: int, tokens: int, experts: int, top_k: int) -> Watched:
    """One forward and backward pass of a case."""
    meshes = build_meshes(Mesh(**degrees), CPU, ep_per_node=per_node)
    moe = block(experts, top_k)
    shard_moe(moe, meshes, None, sent=case.sent, chunks=case.chunks)  # type: ignore[arg-type]
    seen = Watched()
    _watch_transfers(seen)
    _watch_products(seen, moe.experts)
    ask = Tensor.tolist

    def counted(tensor: Tensor) -> Any:
        seen.asked += 1
        return ask(tensor)  # type: ignore[no-untyped-call]

    Tensor.tolist = counted  # type: ignore[method-assign]
    run(moe.experts, inputs(meshes.world_size, tokens, experts, top_k, case.away)[meshes.rank])
    assert seen.under_way == 0
    return seen


def _watch_transfers(seen: Watched) -> None:
    begin, end = _Flight.start, _Flight.wait

    def start(flight: _Flight, rows: Tensor, parts: Parts) -> Tensor:
        seen.under_way += 1
        seen.sent.setdefault(parts.group.size(), []).append(parts.sent)
        return begin(flight, rows, parts)

    def wait(flight: _Flight) -> Tensor:
        seen.under_way -= 1
        return end(flight)

    _Flight.start, _Flight.wait = start, wait  # type: ignore[method-assign]


def _watch_products(seen: Watched, experts: Experts) -> None:
    compute = experts.compute

    def watched(matrices: Any, rows: Tensor, counts: Tensor) -> Tensor:
        seen.forward.append(seen.under_way)
        done = compute(matrices, rows, counts)
        done.register_hook(lambda _: seen.backward.append(seen.under_way))  # type: ignore[no-untyped-call]
        return done

    experts.compute = watched  # type: ignore[method-assign]


def limited_visits(config: dict[str, Any], degrees: dict[str, int], per_node: int) -> tuple[int, list[int]]:
    """Tokens of a rank, and how many of them its router sends to each node, with weights that spread them."""
    meshes = build_meshes(Mesh(**degrees), CPU, ep_per_node=per_node)
    moe, generator = Moe(read_shape(config)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in moe.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    shard_moe(moe, meshes, None, sent="nodes")
    seen = Watched()
    _watch_transfers(seen)
    x = torch.randn(4, 16, config["hidden_size"], generator=torch.Generator().manual_seed(meshes.rank))
    moe(x)
    nodes = degrees["ep"] // per_node
    return 64, seen.sent[nodes][0]


def crossing(case: Case, slots: Any, experts: int) -> tuple[int, int, int]:
    """Bytes that this rank sends in one layer: to other nodes and to other ranks of its own in the forward pass, and to
    other nodes in the backward one. `slots` [ranks, tokens, choices]; nodes of PER_NODE ranks."""
    hidden, rank = 256, dist.get_rank()
    meshes = build_meshes(Mesh(dp=len(slots), ep=len(slots)), CPU, ep_per_node=PER_NODE)
    moe = block(experts, slots.shape[-1], hidden)
    shard_moe(moe, meshes, None, sent=case.sent, chunks=case.chunks)  # type: ignore[arg-type]
    sent, begin = {True: [0, 0], False: [0, 0]}, _Flight.start

    def start(flight: _Flight, rows: Tensor, parts: Parts) -> Tensor:
        for peer, count in zip(dist.get_process_group_ranks(parts.group), parts.sent, strict=True):
            if peer != rank:
                each = rows[0].numel() * rows.element_size() if count else 0
                sent[in_backward()][peer // PER_NODE == rank // PER_NODE] += count * each
        return begin(flight, rows, parts)

    _Flight.start = start  # type: ignore[method-assign]
    chosen = torch.from_numpy(slots[rank])
    x, weights = torch.randn(len(chosen), hidden, requires_grad=True), torch.rand(chosen.shape, requires_grad=True)
    moe.experts(x, weights, chosen).sum().backward()
    return sent[False][0], sent[False][1], sent[True][0]


def timed(cases: list[Case], rounds: int) -> list[list[tuple[float, float]]]:
    """Seconds of one layer on this rank, forward and backward, by the clock and of CPU, by case and round; cases take
    turns."""
    world, hidden, width, tokens, experts, top_k = dist.get_world_size(), 256, 512, 1024, 16, 4
    meshes = build_meshes(Mesh(dp=world, ep=world), CPU, ep_per_node=world // 2)
    blocks = []
    for case in cases:
        moe = block(experts, top_k, hidden, width)
        shard_moe(moe, meshes, None, sent=case.sent, chunks=case.chunks)  # type: ignore[arg-type]
        blocks.append(moe)
    given = inputs(world, tokens, experts, top_k, False, hidden)[meshes.rank]
    seconds: list[list[tuple[float, float]]] = [[] for _ in cases]
    for number in range(rounds + 1):  # the first one warms up
        for moe, found in zip(blocks, seconds, strict=True):
            dist.barrier()
            begun, used = time.perf_counter(), time.process_time()
            run(moe.experts, given)
            if number:
                found.append((time.perf_counter() - begun, time.process_time() - used))
    return seconds


def node_groups(degrees: dict[str, int], per_node: int) -> tuple[int, list[int], list[int]]:
    """Process groups of this rank that nodes add, its group over nodes, and that inside its own."""
    plain, meshes = (build_meshes(Mesh(**degrees), CPU, ep_per_node=each) for each in (1, per_node))
    groups = [mesh.get_group() for mesh in (meshes.ep_nodes, meshes.ep_inside) if mesh is not None]
    over, inside = (dist.get_process_group_ranks(group) for group in groups)
    return len(meshes.all_groups) - len(plain.all_groups), over, inside
