"""How each operation of the grid is run: as the runtime runs it, on operands that change from call to call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from ..kernels.cross_entropy import cross_entropy
from ..kernels.grouped import grouped_linear
from ..kernels.norm import rms_norm
from ..kernels.swiglu import swiglu
from .grid import Point, Sizes
from .timing import timed

Run = Callable[[int], object]
Runs = list[Run]  # one for each part of the operation, in the order of clusters/shapes.py

ROTATED_BYTES = 32 * 2**20  # operands change from call to call, so that caches hold no more than in training
_MOST_COPIES = 16
_EPS = 1e-5


class Operands:
    """Makes tensors for one operation: as many copies of each as fill `ROTATED_BYTES`."""

    def __init__(self, device: torch.device, dtype: torch.dtype, elements: int):
        self.device, self.dtype = device, dtype
        self.copies = max(1, min(_MOST_COPIES, ROTATED_BYTES // max(1, elements * dtype.itemsize)))
        self._pool = torch.randn(2**16, device=device, dtype=dtype)  # to draw all would take longer than to use them

    def random(self, *shape: int, learns: bool = False) -> list[Tensor]:
        """Copies of a tensor of this shape; of those that learn autograd keeps what the backward needs."""
        return [self._one(shape).requires_grad_(learns) for _ in range(self.copies)]

    def _one(self, shape: tuple[int, ...]) -> Tensor:
        size = torch.Size(shape).numel()
        return self._pool.repeat(-(-size // self._pool.numel()))[:size].view(shape)

    def ids(self, count: int, below: int) -> list[Tensor]:
        """Copies of `count` token ids."""
        return [torch.randint(below, (count,), device=self.device) for _ in range(self.copies)]

    def both(self, forward: Callable[[int], Tensor], learned: Callable[[int], tuple[Tensor, ...]]) -> Runs:
        """Forward, and the backward of outputs that were made before."""
        outputs = [forward(place) for place in range(self.copies)]
        gradients = [torch.ones_like(output) for output in outputs]

        def backward(index: int) -> object:
            place = index % self.copies
            return torch.autograd.grad(outputs[place], learned(place), gradients[place], retain_graph=True)

        return [lambda index: forward(index % self.copies), backward]


def measure_point(
    name: str, device: torch.device, dtype: torch.dtype, finish: Callable[[], object]
) -> Callable[[Sizes, float], Point]:
    """Times every part of an operation at given sizes, sharing out a limit in seconds."""

    def measure(sizes: Sizes, limit_s: float) -> Point:
        runs = OPERATIONS[name](device, dtype, *sizes)
        timings = [timed(run, finish, limit_s / len(runs)) for run in runs]
        return Point(sizes, tuple(each.seconds for each in timings), max(each.spread for each in timings))

    return measure


def _matmul(device: torch.device, dtype: torch.dtype, m: int, n: int, k: int) -> Runs:
    make = Operands(device, dtype, m * k + k * n + m * n)
    xs, ws, gs = make.random(m, k, learns=True), make.random(n, k, learns=True), make.random(m, n)
    count = make.copies
    inputs, weights = [x.detach() for x in xs], [w.detach() for w in ws]
    return [
        lambda index: F.linear(xs[index % count], ws[index % count]),
        lambda index: gs[index % count] @ weights[index % count],
        lambda index: gs[index % count].t() @ inputs[index % count],
    ]


def _grouped(device: torch.device, dtype: torch.dtype, groups: int, m: int, n: int, k: int) -> Runs:
    """Experts with equal loads; both gradients are asked for apart."""
    make = Operands(device, dtype, groups * (m * k + k * n + m * n))
    xs, ws = make.random(groups * m, k, learns=True), make.random(groups, n, k, learns=True)
    counts = torch.full((groups,), m, dtype=torch.int64, device=device)

    def forward(place: int) -> Tensor:
        return grouped_linear(xs[place], ws[place], counts)

    run, of_inputs = make.both(forward, lambda place: (xs[place],))
    _, of_weights = make.both(forward, lambda place: (ws[place],))
    return [run, of_inputs, of_weights]


def _attention(device: torch.device, dtype: torch.dtype, heads: int, tokens: int, width: int) -> Runs:
    """Causal; heads beside each other in memory for each token, as projections write them."""
    make = Operands(device, dtype, 4 * heads * tokens * width)
    q, k, v = (
        [x.transpose(1, 2).detach().requires_grad_() for x in make.random(1, tokens, heads, width)] for _ in range(3)
    )
    return make.both(
        lambda place: F.scaled_dot_product_attention(q[place], k[place], v[place], is_causal=True),
        lambda place: (q[place], k[place], v[place]),
    )


def _norm(device: torch.device, dtype: torch.dtype, tokens: int, width: int) -> Runs:
    make = Operands(device, dtype, 2 * tokens * width)
    xs, ws = make.random(tokens, width, learns=True), make.random(width, learns=True)
    return make.both(lambda place: rms_norm(xs[place], ws[place], _EPS), lambda place: (xs[place], ws[place]))


def _activation(device: torch.device, dtype: torch.dtype, tokens: int, width: int) -> Runs:
    make = Operands(device, dtype, 3 * tokens * width)
    gates, ups = make.random(tokens, width, learns=True), make.random(tokens, width, learns=True)
    return make.both(lambda place: swiglu(gates[place], ups[place]), lambda place: (gates[place], ups[place]))


def _residual(device: torch.device, dtype: torch.dtype, elements: int) -> Runs:
    make = Operands(device, dtype, 3 * elements)
    xs, ys = make.random(elements), make.random(elements)
    return [lambda index: xs[index % make.copies] + ys[index % make.copies]]


def _loss(device: torch.device, dtype: torch.dtype, tokens: int, vocabulary: int) -> Runs:
    make = Operands(device, dtype, 2 * tokens * vocabulary)
    logits, targets = make.random(tokens, vocabulary, learns=True), make.ids(tokens, vocabulary)
    return make.both(lambda place: cross_entropy(logits[place], targets[place]), lambda place: (logits[place],))


def _embedding(device: torch.device, dtype: torch.dtype, tokens: int, width: int, vocabulary: int) -> Runs:
    make = Operands(device, dtype, (tokens + vocabulary) * width)
    ws, ids = make.random(vocabulary, width, learns=True), make.ids(tokens, vocabulary)
    return make.both(lambda place: F.embedding(ids[place], ws[place]), lambda place: (ws[place],))


def _optimizer(device: torch.device, _: torch.dtype, parameters: int) -> Runs:
    """AdamW as the runtime runs it, with the norm of the gradients that is taken before; states in fp32."""
    weights = [torch.ones(parameters, device=device, requires_grad=True)]
    for weight in weights:
        weight.grad = torch.full_like(weight, 1e-3)
    adamw = torch.optim.AdamW(weights, lr=1e-6, fused=True)

    def step(_: int) -> None:
        torch.nn.utils.get_total_norm(_gradients(weights))
        adamw.step()

    return [step]


def _gradients(weights: Iterable[Tensor]) -> list[Tensor]:
    return [weight.grad for weight in weights if weight.grad is not None]


def _copy(device: torch.device, _: torch.dtype, size: int) -> Runs:
    """Between pinned host memory and the device."""
    host = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    there = torch.empty_like(host, device=device)
    return [lambda _: there.copy_(host, non_blocking=True), lambda _: host.copy_(there, non_blocking=True)]


OPERATIONS: Mapping[str, Callable[..., Runs]] = {
    "matmul": _matmul,
    "grouped": _grouped,
    "attention": _attention,
    "norm": _norm,
    "activation": _activation,
    "residual": _residual,
    "loss": _loss,
    "embedding": _embedding,
    "optimizer": _optimizer,
    "copy": _copy,
}
