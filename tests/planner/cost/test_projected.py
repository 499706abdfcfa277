"""What GaLore costs in a step: bytes as PyTorch counts them, a search by a published one, what replicas send."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from meshwright.clusters import load_cluster
from meshwright.kernels.galore import GaLore as Optimizer
from meshwright.planner.configuration import Configuration, Mesh
from meshwright.planner.cost.communication import broadcast_s
from meshwright.planner.cost.declared import GRADIENT_BYTES, Declared, adamw_bytes
from meshwright.planner.cost.galore import galore_s
from meshwright.planner.cost.projected import SEARCH_SHARE, Pace, Projected, projected
from meshwright.planner.cost.setting import Setting
from meshwright.planner.cost.step import price
from meshwright.planner.families import architecture, load_model
from meshwright.planner.job import Job
from meshwright.planner.legality import problems
from meshwright.planner.optimizer import GaLore

LLAMA = architecture(load_model("llama-3.1-8b"))
RANK_512 = GaLore(rank=512)
BYTES_ALONE = Pace(bytes_per_s=1.0, flops_per_s=float("inf"), launch_s=0.0, search_share=1.0)


class Moved(TorchDispatchMode):
    """Bytes of all operators' inputs and outputs, but for views, and for what is only written to or asked for its
    size."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        read = args[1:] if func.name() in ("aten::copy_", "aten::zeros_like") else args
        if not func.is_view:
            self.bytes += sum(x.nbytes for x in tree_leaves((read, kwargs, result)) if isinstance(x, Tensor))
        return result


@pytest.mark.parametrize("shape", [(96, 160), (160, 96)])
def test_a_step_moves_what_is_priced(shape: tuple[int, int]) -> None:
    """Of one matrix, in plain PyTorch: all but the norm, which others take."""
    parameter, rank = nn.Parameter(torch.randn(shape)), 24
    optimizer = Optimizer([parameter], rank=rank, every=5)
    scale = torch.ones(())
    for _ in range(2):
        parameter.grad = torch.randn(shape)
        with Moved() as moved:
            optimizer.step(scale=scale)
    size = shape[0] * shape[1]
    small = Projected(size, rank * max(shape), rank * min(shape), 0.0, 0.0, 1.0)
    adamw = adamw_bytes(Declared("reference", "fp32"), "fp32", galore=True) - GRADIENT_BYTES
    priced = small.step_s(BYTES_ALONE, owners=1, adamw_bytes=adamw) - GRADIENT_BYTES * size
    assert moved.bytes == pytest.approx(priced, rel=0.01)


def test_owners_share_out_what_they_change() -> None:
    """The gradient is read and what comes back written by all; norm, shrinking and adding are of a rank's own part."""
    found = projected(LLAMA.layers[0], RANK_512)
    alone, eight = (found.step_s(BYTES_ALONE, owners, adamw_bytes=28) for owners in (1, 8))
    assert alone - eight == pytest.approx(24 * 7 / 8 * found.parameters)


def test_a_search_takes_as_long_as_the_published_one() -> None:
    """70 s of an A100 (19.5 TFLOP/s) for all matrices of 24 layers, to the two digits that the share has."""
    shapes = [(2048, 2048)] * 4 + [(5461, 2048)] * 3
    flops = 24 * sum(6 * long * short**2 + 11 * short**3 for long, short in shapes)
    a100 = Pace(bytes_per_s=1.0, flops_per_s=19.5e12, launch_s=0.0, search_share=SEARCH_SHARE["cuda"])
    searches = Projected(search_flops=flops, matrices=24 * 7)
    assert searches.search_s(a100, replicas=1) == pytest.approx(70, rel=0.03)
    assert searches.search_s(a100, replicas=8) == pytest.approx(70 / 8, rel=0.03)
    assert searches.search_s(a100, replicas=1000) == searches.search_s(a100, replicas=24 * 7)


def setting(cluster: str = "dgx-h100:1", every: int = 200, kernels: str = "auto") -> Setting:
    galore = GaLore(rank=512, every=every)
    job = Job(seq_len=4096, global_batch=32, optimizer="galore", galore=galore, kernels=kernels)
    return Setting(LLAMA, load_cluster(cluster), job)


def test_spaces_are_sent_once_a_search() -> None:
    """A message for each matrix, in fp32, along a chain of all replicas; every so many steps."""
    asked = setting(every=10)
    found = sum((projected(layer, RANK_512) for layer in LLAMA.layers), Projected())
    eight, nothing_to_search = (galore_s(asked, each, 1, 8, 0.0) for each in (found, replace(found, search_flops=0.0)))
    seven = replace(found, search_flops=found.search_flops / 7)
    search_s = seven.search_flops / (SEARCH_SHARE["cuda"] * asked.device.peak_flops["fp32"])
    assert eight - nothing_to_search == pytest.approx(search_s * 7 / 8 / 10)
    alone = galore_s(asked, replace(found, search_flops=0.0), 1, 1, 0.0)
    each_s = broadcast_s(asked.group(1, 8), 4 * found.spaces / found.matrices) * asked.execution.network
    assert nothing_to_search - alone == pytest.approx(found.matrices * each_s / 10)
    assert found.matrices == 7 * 32


def test_rarer_searches_and_kernels_take_less_of_a_step() -> None:
    one = Configuration(mesh=Mesh(dp=8), stage_layers=(32,), microbatch=1, microbatches=4, zero=0, recompute=("full",))
    often, seldom, plain = (
        price(each, one).breakdown_s.optimizer
        for each in (setting(every=50), setting(every=200), setting(every=200, kernels="reference"))
    )
    assert seldom < often
    assert seldom < plain


def test_replicas_on_unlike_devices_are_refused() -> None:
    """Their products with the space round differently, and a checkpoint would refuse replicas that differ."""
    asked = setting("a100-h100")
    over_both = Configuration(mesh=Mesh(dp=64), stage_layers=(32,), microbatch=1, microbatches=1, zero=0)
    asked = replace(asked, job=asked.job.model_copy(update={"global_batch": 64}))
    found = [problem for problem in problems(asked, over_both) if problem.field == "--optimizer"]
    assert [(problem.value, problem.fix) for problem in found] == [("galore", "adamw, or devices of one kind")]
    apart = replace(over_both, mesh=Mesh(pp=2, dp=32), stage_layers=(16, 16), microbatches=2, recompute=("none",) * 2)
    assert [problem for problem in problems(asked, apart) if problem.field == "--optimizer"] == []
