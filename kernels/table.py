"""Table: what each kernel saves in a training step, derived from the declarations; docs/kernels.md holds it.

python -m meshwright.kernels.table
"""

from __future__ import annotations

from .kernel import Kernel
from .registry import KERNELS

_DTYPE = "bf16"
_MIB = 2**20
_HEADER = (
    "| kernel | what it does | sizes | moved, MiB | plain | kept, MiB | plain |",
    "|---|---|---|---|---|---|---|",
)


def table() -> str:
    """Of all kernels, for the first of their typical sizes in bfloat16."""
    return "\n".join([*_HEADER, *(_row(kernel) for kernel in KERNELS.values())]) + "\n"


def _row(kernel: Kernel) -> str:
    sizes = kernel.typical[0]
    named = ", ".join(f"{name} {size}" for name, size in sizes.items())
    moved = (kernel.trained(sizes, _DTYPE).moved_bytes, kernel.plain(sizes, _DTYPE).moved_bytes)
    kept = (kernel.kept_bytes(sizes, _DTYPE), kernel.plain_kept_bytes(sizes, _DTYPE))
    cells = [f"{count / _MIB:.0f}" for count in (*moved, *(kept if kernel.differentiated else (0, 0)))]
    return f"| `{kernel.name}` | {kernel.summary} | {named} | {' | '.join(cells)} |"


if __name__ == "__main__":
    print(table(), end="")
