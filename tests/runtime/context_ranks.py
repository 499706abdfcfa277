"""What ranks do in the tests of context parallelism."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from meshwright.planner.configuration import CpAlgorithm
from meshwright.runtime.blocks.core import Core
from meshwright.runtime.parallel.context.algorithms import CORES, Groups
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
    layout = Zigzag(seq_len=case.seq_len, size=group.size())
    core = CORES[case.algorithm](Core(**dict(case.options)), groups(group, case.ulysses))
    own = [_share(x, layout, group.rank()).to(case.dtype) for x in case.tensors()]
    query, key, value = (x.requires_grad_() for x in own[:3])
    documents = None if case.documents is None else layout.spread(torch.tensor(case.documents), 0)
    output = core(query, key, value, documents)
    output.backward(own[3])
    return output.detach(), *(x.grad for x in (query, key, value) if x.grad is not None)


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
