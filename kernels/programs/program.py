"""Program: a Triton function as it is launched, so that a compiler can be asked about it without a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Program:
    """`signature`: Triton's type of every argument, in order, of constants "constexpr"; `constants` their values.

    All pointers and those integers of `aligned` are multiples of 16, as they are in a training step; else no load is
    wide. `loads` and `stores`: these are what its time goes to, and 128 bits a thread are expected of them. `fusion`:
    products and sums may be rounded once.
    """

    name: str
    function: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    warps: int
    aligned: tuple[str, ...] = ()
    loads: bool = True
    stores: bool = True
    fusion: bool = True


POINTERS = {"bf16": "*bf16", "fp16": "*fp16", "fp32": "*fp32", "int64": "*i64", "uint8": "*u8"}


def program(
    name: str,
    function: Any,
    constants: Mapping[str, Any],
    warps: int,
    types: Mapping[str, str],
    *,
    loads: bool = True,
    stores: bool = True,
    fusion: bool = True,
) -> Program:
    """`types` of the arguments that are no constants: "bf16" a pointer to such numbers, "i32" an integer that may be
    anything, "i32:16" one that is a multiple of 16, "fp32 value" a number."""
    signature, aligned = {}, []
    for argument in function.arg_names:
        given = "constexpr" if argument in constants else types[argument]
        base, _, multiple = given.partition(":")
        signature[argument] = base.removesuffix(" value") if base.endswith(" value") else POINTERS.get(base, base)
        if multiple or base in POINTERS:
            aligned.append(argument)
    return Program(name, function, signature, dict(constants), warps, tuple(aligned), loads, stores, fusion)
