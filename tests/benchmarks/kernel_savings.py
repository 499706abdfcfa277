"""What each kernel saves in a training step: bytes kept from the forward to the backward pass, and on a GPU time.

    scripts/kernel-savings                 on any machine with Triton: what autograd saves, of typical sizes
    scripts/kernel-savings --gpu           on a GPU: also the allocator's bytes, and seconds of both passes

Without a GPU tensors are fake: autograd saves what it would, and nothing is computed. Parameters and tables do not
count. The first table is of kernels by themselves, beside what they declare; the second of whole layers of the runtime,
beside what the planner counts for them. On a GPU the medians are of a forward and a backward pass together.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch
from kernel_clock import median_s
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks

from meshwright.kernels import switch
from meshwright.kernels.examples.example import example
from meshwright.kernels.kernel import Kernel, Sizes, find
from meshwright.kernels.registry import KERNELS
from meshwright.planner.cost.activations import Shape as Kept
from meshwright.planner.cost.activations import layer_kept
from meshwright.planner.cost.declared import Declared
from meshwright.planner.cost.sharding import Sharding
from meshwright.planner.families import architecture, load_model
from meshwright.planner.frameworks.framework import framework
from meshwright.runtime.blocks.positions import Positions
from meshwright.runtime.blocks.rotary import Rotary
from meshwright.runtime.blocks.shape import read_shape
from meshwright.runtime.blocks.transformer import Layer

DTYPE, MIB = "bf16", 2**20
PARAMETERS = ("weight", "bias", "cos", "sin", "matrices")
MODELS = ("llama-3.1-8b", "gemma-2-9b", "qwen3-8b")
SEQ_LEN = 4096
CHOICES: tuple[switch.Choice, ...] = ("auto", "reference")


class Saved(saved_tensors_hooks):
    """Storages that autograd saves, each once, but for some."""

    def __init__(self, without: list[Tensor]):
        self._without = {_storage(x) for x in without}
        self._found: dict[int, int] = {}
        super().__init__(self._pack, lambda x: x)

    def _pack(self, x: Tensor) -> Tensor:
        if _storage(x) not in self._without:
            self._found[_storage(x)] = x.untyped_storage().nbytes()
        return x

    @property
    def bytes(self) -> int:
        return sum(self._found.values())


def _storage(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)


def leaves(kernel: Kernel, sizes: Sizes, device: str) -> tuple[dict[str, Any], list[Tensor]]:
    """Arguments, and those that have gradients."""
    made = example(kernel, sizes, DTYPE, device=device)
    given = dict(made.arguments)
    for name in made.differentiable:
        given[name] = given[name].detach().requires_grad_()
    return given, [given[name] for name in made.differentiable]


def kept_bytes(kernel: Kernel, call: Callable[..., Any], sizes: Sizes, device: str) -> int | None:
    """What autograd saves of one call; None where shapes follow from numbers, which fake tensors do not have."""
    try:
        return _kept_bytes(kernel, call, sizes, device)
    except (DynamicOutputShapeException, DataDependentOutputException):
        return None


def _kept_bytes(kernel: Kernel, call: Callable[..., Any], sizes: Sizes, device: str) -> int:
    with FakeTensorMode() if device == "cpu" else nullcontext():
        given, _ = leaves(kernel, sizes, device)
        saved = Saved([given[name] for name in PARAMETERS if name in given])
        with saved:
            result = call(**given)
        del result
    return saved.bytes


def seconds(kernel: Kernel, call: Callable[..., Any], sizes: Sizes, repeats: int) -> float:
    """Of a forward and a backward pass on a GPU."""
    given, wanted = leaves(kernel, sizes, "cuda")

    def both() -> None:
        result = call(**given)
        outputs = [x for x in ([result] if isinstance(result, Tensor) else result) if x.requires_grad]
        if outputs:
            torch.autograd.grad(outputs, wanted, [torch.ones_like(x) for x in outputs], allow_unused=True)

    return median_s([both], repeats, torch.device("cuda"))


def kernel_rows(device: str, only: list[str], repeats: int) -> Iterator[str]:
    """Of kernels through which gradients go."""
    timed = device == "cuda"
    yield "| kernel | sizes | kept, MiB | declared | plain, kept | declared |" + " ms | plain |" * timed
    yield "|---|---|---|---|---|---|" + "---|---|" * timed
    for name, kernel in KERNELS.items():
        if kernel.backward is None or not kernel.differentiated or (only and name not in only):
            continue
        sizes, cells = kernel.typical[0], []
        calls = (find(kernel.fast), find(kernel.reference))
        for call, declared in zip(calls, (kernel.kept_bytes, kernel.plain_kept_bytes), strict=True):
            cells += [_mib(kept_bytes(kernel, call, sizes, device)), _mib(declared(sizes, DTYPE))]
        if timed:
            cells += [f"{1e3 * seconds(kernel, call, sizes, repeats):.3f}" for call in calls]
        named = ", ".join(f"{name} {size}" for name, size in sizes.items())
        yield f"| `{name}` | {named} | {' | '.join(cells)} |"


def _mib(count: int | None) -> str:
    return "-" if count is None else f"{count / MIB:.1f}"


def layer_bytes(name: str, choice: switch.Choice, device: str) -> int:
    """What autograd saves of a layer of the runtime, one sequence."""
    shape = read_shape(dict(load_model(name).config))
    with FakeTensorMode() if device == "cpu" else nullcontext(), switch.kernels(choice), torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        positions = Positions()
        rotary = None if shape.rope is None else Rotary(shape.rope, positions)
        layer, x = Layer(shape, 0, rotary, positions), torch.empty(1, SEQ_LEN, shape.hidden, requires_grad=True)
        tables = [] if rotary is None else list(rotary.tables(SEQ_LEN, x.device, x.dtype))
        saved = Saved([*layer.parameters(), *tables])
        with saved:
            result = layer(x)
        del result
        torch.set_default_dtype(torch.float32)
    return saved.bytes


def layer_rows(device: str) -> Iterator[str]:
    """Of whole layers, beside what the planner counts for them."""
    yield "| layer of, 4096 tokens | kernels | kept, MiB | planned |"
    yield "|---|---|---|---|"
    keeps = framework("meshwright").keeps
    for name in MODELS:
        layer = architecture(load_model(name)).layers[0]
        for choice in CHOICES:
            kept = Kept(sharding=Sharding(), seq_len=SEQ_LEN, element=2, keeps=keeps)
            planned = layer_kept(layer, replace(kept, declared=Declared(choice, DTYPE))).total
            found = layer_bytes(name, choice, device)
            yield f"| {name} | {choice} | {found / MIB:.1f} | {planned / MIB:.1f} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], choices=[*KERNELS])
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--gpu", action="store_true")
    asked = parser.parse_args()
    if asked.gpu and not torch.cuda.is_available():
        print("torch finds no CUDA device; without --gpu no device is needed", file=sys.stderr)
        return 2
    if find_spec("triton") is None:
        print("triton is not installed: pip install triton (Linux), or the extra `test`", file=sys.stderr)
        return 2
    device = "cuda" if asked.gpu else "cpu"
    for row in kernel_rows(device, asked.only, asked.repeats):
        print(row, flush=True)
    if not asked.only:
        print()
        for row in layer_rows(device):
            print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
