"""What ranks do in the tests of context parallelism."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from workers import batches, gradient_errors, own_sequences

from meshwright.planner.configuration import CpAlgorithm
from meshwright.planner.plan import Plan
from meshwright.runtime import compat
from meshwright.runtime.blocks.core import Core
from meshwright.runtime.build import build_model
from meshwright.runtime.documents import documents_of
from meshwright.runtime.parallel.context import transfer
from meshwright.runtime.parallel.context.algorithms import CORES, Groups
from meshwright.runtime.parallel.context.ring import RingCore
from meshwright.runtime.parallel.context.tiles import View, Views
from meshwright.runtime.parallel.context.zigzag import Zigzag


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One attention: its sizes, what its core is told, and who computes it."""

    algorithm: CpAlgorithm
    ulysses: int = 1
    batch: int = 2
    heads: int = 4
    kv_heads: int = 2
    seq_len: int = 32
    width: int = 8
    value_width: int = 8
    options: tuple[tuple[str, Any], ...] = ()
    documents: tuple[tuple[int, ...], ...] | None = None
    dtype: torch.dtype = torch.float64

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Whole queries, keys, values, and the gradient of the output."""
        generator = torch.Generator().manual_seed(0)
        shapes = [(self.heads, self.width), (self.kv_heads, self.width), (self.kv_heads, self.value_width)]
        shapes.append((self.heads, self.value_width))
        sizes = [(self.batch, heads, self.seq_len, width) for heads, width in shapes]
        made = [torch.randn(size, generator=generator, dtype=torch.float64) for size in sizes]
        return made[0], made[1], made[2], made[3]


def attentions(cases: list[Case]) -> list[tuple[Any, ...]]:
    """What this rank finds in each case, as arrays: they outlive the process."""
    return [tuple(x.numpy() for x in attention(case)) for case in cases]


def attention(case: Case) -> tuple[Tensor, ...]:
    """This rank's rows of the output and of the gradients of queries, keys and values."""
    group = dist.group.WORLD
    assert group is not None
    core, (query, key, value, gradient), documents = _prepared(case, group)
    output = core(query, key, value, documents)
    output.backward(gradient)
    return output.detach(), *(x.grad for x in (query, key, value) if x.grad is not None)


def _prepared(case: Case, group: dist.ProcessGroup) -> tuple[nn.Module, list[Tensor], Tensor | None]:
    """The core, this rank's part of the tensors, and the documents of all ranks."""
    layout = Zigzag(seq_len=case.seq_len, size=group.size())
    shared = groups(group, case.ulysses)
    core = CORES[case.algorithm](Core(**dict(case.options)), shared, Views())
    own = [_share(x, layout, group.rank()).to(case.dtype) for x in case.tensors()]
    parts = shared.readers(case.algorithm)
    documents = None if case.documents is None else layout.spread(torch.tensor(case.documents), 0, parts)
    return core, [*(x.requires_grad_() for x in own[:3]), own[3]], documents


def groups(whole: dist.ProcessGroup, heads: int) -> Groups:
    """The whole, and with `heads` above one its neighbours and rings."""
    if heads == 1:
        return Groups(whole=whole)
    mesh = init_device_mesh("cpu", (whole.size() // heads, heads), mesh_dim_names=("ring", "heads"))
    return Groups(whole=whole, heads=mesh.get_group("heads"), ring=mesh.get_group("ring"))


def _share(x: Tensor, layout: Zigzag, rank: int) -> Tensor:
    """[batch, heads, seq_len, width] as one rank has it."""
    padded = torch.nn.functional.pad(x, (0, 0, 0, layout.padded - layout.seq_len))
    return padded[:, :, layout.order().view(layout.size, -1)[rank]].contiguous()


def train_on_documents(plan: Plan, batch: Tensor, separator: int, expected: Path) -> tuple[float, dict[str, float]]:
    """Loss of a global batch whose documents are separated, and errors of its gradients as `workers.train` has them."""
    model = build_model(plan, torch.device("cpu"))
    own = own_sequences(model, batch)
    loss = model.forward_backward(own, documents_of(own[:, :-1], separator))
    return loss.item(), gradient_errors(model, torch.load(expected))


def views_found(plan: Plan, batch: Tensor, separator: int) -> int:
    """How often a step finds out who sees whom."""
    found: list[View] = []
    of = View.of

    def counted(*given: Any) -> View:
        found.append(of(*given))
        return found[-1]

    with mock.patch.object(View, "of", counted):
        model = build_model(plan, torch.device("cpu"))
        own = own_sequences(model, batch)
        model.forward_backward(own, documents_of(own[:, :-1], separator))
    return len(found)


def all_sent_bytes(cases: list[Case]) -> list[tuple[int, int]]:
    """What this rank sends in each case."""
    return [sent_bytes(case) for case in cases]


def sent_bytes(case: Case) -> tuple[int, int]:
    """What this rank sends to others in the forward and in the backward pass of one attention."""
    group, counted = dist.group.WORLD, [0]
    assert group is not None
    with counting(counted):
        core, own, documents = _prepared(case, group)
        output = core(*own[:3], documents)
        forward = counted[0]
        output.backward(own[3])
    return forward, counted[0] - forward


def attention_runs(plan: Plan) -> int:
    """How often a context core reads in one step."""
    runs: list[int] = []
    read = RingCore.read

    def counted(core: RingCore, *given: Any) -> tuple[Tensor, Tensor]:
        runs.append(1)
        return read(core, *given)

    with mock.patch.object(RingCore, "read", counted):
        model = build_model(plan, torch.device("cpu"))
        batch = batches(plan.model.config["vocab_size"], plan.job.seq_len, plan.job.global_batch, 1)[0]
        model.forward_backward(own_sequences(model, batch))
    return len(runs)


@contextmanager
def counting(counted: list[int]) -> Iterator[None]:
    """Add up the bytes that context parallelism sends from this rank to others."""
    p2p, to_all, gather, scatter = (
        dist.batch_isend_irecv, dist.all_to_all_single, compat.all_gather, compat.reduce_scatter,
    )  # fmt: skip

    def passed(ops: list[dist.P2POp]) -> Any:
        counted[0] += sum(op.tensor.nbytes for op in ops if op.op is dist.isend)
        return p2p(ops)

    def exchanged(received: Tensor, sent: Tensor, group: dist.ProcessGroup) -> None:
        counted[0] += sent.nbytes * (group.size() - 1) // group.size()
        to_all(received, sent, group=group)

    def gathered(x: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
        counted[0] += x.nbytes * (group.size() - 1)
        return gather(x, dim, group)

    def scattered(x: Tensor, dim: int, group: dist.ProcessGroup) -> Tensor:
        counted[0] += x.nbytes * (group.size() - 1) // group.size()
        return scatter(x, dim, group)

    with (
        mock.patch.object(transfer.dist, "batch_isend_irecv", passed),
        mock.patch.object(transfer.dist, "all_to_all_single", exchanged),
        mock.patch.object(compat, "all_gather", gathered),
        mock.patch.object(compat, "reduce_scatter", scattered),
    ):
        yield


def timed(case: Case, repeats: int = 5) -> tuple[float, float, int, int]:
    """Seconds of forward and backward, the best of several, and the bytes that this rank sends in them. One rank alone
    reads as one device does."""
    group = dist.group.WORLD
    assert group is not None
    core, own, documents = _prepared(case, group) if group.size() > 1 else _alone(case)
    forwards, backwards = [], []
    for _ in range(repeats):
        dist.barrier()
        started = time.perf_counter()
        output = core(*own[:3], documents)
        between = time.perf_counter()
        output.backward(own[3])
        forwards.append(between - started)
        backwards.append(time.perf_counter() - between)
    return min(forwards), min(backwards), *(sent_bytes(case) if group.size() > 1 else (0, 0))


def _alone(case: Case) -> tuple[nn.Module, list[Tensor], Tensor | None]:
    own = [x.to(case.dtype) for x in case.tensors()]
    return Core(**dict(case.options)), [*(x.requires_grad_() for x in own[:3]), own[3]], None
