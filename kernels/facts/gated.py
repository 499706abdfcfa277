"""What gated activations ask of a device."""

from __future__ import annotations

from ..kernel import ITEM_BYTES, Kernel, Size, Sizes, Tolerance, Work

ACTIVATIONS = {"swiglu": "silu", "geglu": "gelu", "geglu_tanh": "gelu_tanh", "reglu": "relu"}
"""What the gate goes through, by the name of the kernel (arXiv:2002.05202)."""

_FLOPS = {"silu": 5, "gelu": 6, "gelu_tanh": 11, "relu": 2}  # an entry, forward; a function of the hardware counts one
_TYPICAL = ({"rows": 8192, "width": 14336}, {"rows": 8192, "width": 8192}, {"rows": 4096, "width": 28672})
_TOLERANCE = {
    "fp64": Tolerance(1e-12, 1e-12),
    "fp32": Tolerance(2e-6, 2e-6),
    "bf16": Tolerance(2e-2, 2e-2),
    "fp16": Tolerance(3e-3, 3e-3),
}


def _declare(name: str) -> Kernel:
    flops = _FLOPS[ACTIVATIONS[name]]

    def forward(sizes: Sizes, dtype: str) -> Work:
        one = sizes["rows"] * sizes["width"] * ITEM_BYTES[dtype]
        return Work(2 * one, one, sizes["rows"] * sizes["width"] * flops)

    def backward(sizes: Sizes, dtype: str) -> Work:
        """The activation is computed again, with its slope."""
        one = sizes["rows"] * sizes["width"] * ITEM_BYTES[dtype]
        return Work(3 * one, 2 * one, sizes["rows"] * sizes["width"] * (2 * flops + 2))

    def plain(sizes: Sizes, dtype: str) -> Work:
        """Activation and product; backward two products and the activation's slope."""
        one = sizes["rows"] * sizes["width"] * ITEM_BYTES[dtype]
        return Work((1 + 2 + 2 + 2 + 2) * one, (1 + 1 + 1 + 1 + 1) * one, sizes["rows"] * sizes["width"] * (3 * flops))

    def kept_bytes(sizes: Sizes, dtype: str) -> int:
        return 2 * sizes["rows"] * sizes["width"] * ITEM_BYTES[dtype]

    def plain_kept_bytes(sizes: Sizes, dtype: str) -> int:
        """Also the activation, where that is not all that its slope is found from."""
        return (2 if name == "reglu" else 3) * sizes["rows"] * sizes["width"] * ITEM_BYTES[dtype]

    return Kernel(
        name=name,
        summary=f"{ACTIVATIONS[name]}(gate) times up; the activation is computed again in the backward pass",
        reference=f"swiglu:{name}_reference",
        fast=f"fast.gated:{name}",
        example="examples.gated:gated",
        programs=f"fast.gated:{name}_programs",
        sizes={"rows": Size(drawn=13), "width": Size(drawn=150)},
        typical=_TYPICAL,
        forward=forward,
        backward=backward,
        plain=plain,
        kept_bytes=kept_bytes,
        plain_kept_bytes=plain_kept_bytes,
        tolerance=_TOLERANCE,
    )


KERNELS = tuple(_declare(name) for name in ACTIVATIONS)
