"""Compile every Triton program for a GPU that need not be there, and say what came of it.

    python -m meshwright.kernels.compiled sm_80 sm_90 [--only rms_norm] [--dtype bf16]

prints one JSON object for each program: registers, bytes spilled, and how many loads and stores of which width.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .fast.launch import pinned
from .kernel import find
from .programs.program import Program
from .registry import KERNELS

_MEMORY = re.compile(r"\b(LDG|STG|LDL|STL)((?:\.[A-Z0-9_]+)*)")
_USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
_KNOWN: dict[str, tuple[tuple[int, ...], Counter[tuple[str, bool]]]] = {}


@dataclass(frozen=True, slots=True)
class Compiled:
    """A program for one architecture. `wide` of `loads` and `stores` move 128 bits a thread; `narrow`: the program
    asks for such and has none."""

    kernel: str
    program: str
    architecture: str
    sizes: dict[str, int]
    dtype: str
    registers: int
    warps: int
    stack_bytes: int
    shared_bytes: int
    local_bytes: int
    spills: int
    loads: int
    wide_loads: int
    stores: int
    wide_stores: int
    narrow: bool


def compile_program(program: Program, architecture: str) -> bytes:
    """Machine code for "sm_90"."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    order = {name: place for place, name in enumerate(program.signature)}
    constants = {(order[name],): value for name, value in program.constants.items()}
    attributes = {(order[name],): [["tt.divisibility", 16]] for name in program.aligned}
    source = ASTSource(program.function, dict(program.signature), constexprs=constants, attrs=attributes)
    target = GPUTarget("cuda", int(architecture.removeprefix("sm_")), 32)
    made = triton.compile(source, target=target, options={"num_warps": program.warps, **pinned(program.fusion)})
    code: bytes = made.asm["cubin"]
    return code


def examine(kernel: str, program: Program, architecture: str, sizes: dict[str, int], dtype: str) -> Compiled:
    """Compile a program and read its machine code with the tools that Triton brings."""
    usage, seen = _machine_code(program, architecture)
    registers, stack, shared, local = usage
    return Compiled(
        kernel, program.name, architecture, sizes, dtype, registers, program.warps, stack, shared, local,
        sum(count for (kind, _), count in seen.items() if kind in ("LDL", "STL")),
        seen["LDG", True] + seen["LDG", False], seen["LDG", True],
        seen["STG", True] + seen["STG", False], seen["STG", True],
        (program.loads and not seen["LDG", True]) or (program.stores and not seen["STG", True]),
    )  # fmt: skip


def _machine_code(program: Program, architecture: str) -> tuple[tuple[int, ...], Counter[tuple[str, bool]]]:
    """Registers, and bytes of stack, shared and local memory; loads and stores by kind and whether they are wide. Equal
    programs are compiled once."""
    asked = (program.signature, program.constants, program.aligned, program.warps, program.fusion)
    key = repr((program.function, *asked, architecture))
    if key not in _KNOWN:
        _KNOWN[key] = _examined(program, architecture)
    return _KNOWN[key]


def _examined(program: Program, architecture: str) -> tuple[tuple[int, ...], Counter[tuple[str, bool]]]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compile_program(program, architecture))
        file.flush()
        usage = _USAGE.search(_tool("cuobjdump", "-res-usage", file.name))
        code = _tool("nvdisasm", "-c", file.name)
    assert usage is not None
    seen = Counter((kind, ".128" in rest) for kind, rest in _MEMORY.findall(code))
    return tuple(int(number) for number in usage.groups()), seen


def _tool(name: str, *arguments: str) -> str:
    import triton.backends.nvidia

    folder = Path(next(iter(triton.backends.nvidia.__path__)))
    return subprocess.run([folder / "bin" / name, *arguments], check=True, capture_output=True, text=True).stdout


def everything(architectures: list[str], only: list[str], dtypes: list[str]) -> Iterator[Compiled]:
    """All programs of the kernels named (none: of all), for their typical sizes."""
    for name, kernel in KERNELS.items():
        if only and name not in only:
            continue
        for sizes in kernel.typical:
            for dtype in dtypes:
                programs: list[Any] = find(kernel.programs)(sizes, dtype)
                for program in programs:
                    for architecture in architectures:
                        yield examine(name, program, architecture, dict(sizes), dtype)


def main() -> None:
    """Print a line for each program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("architectures", nargs="+", help="sm_80, sm_90, ...")
    parser.add_argument("--only", nargs="*", default=[], choices=[*KERNELS])
    parser.add_argument("--dtype", nargs="*", default=["bf16"], choices=["bf16", "fp16", "fp32"])
    asked = parser.parse_args()
    for compiled in everything(asked.architectures, asked.only, asked.dtype):
        print(json.dumps(asdict(compiled)), flush=True)


if __name__ == "__main__":
    main()
