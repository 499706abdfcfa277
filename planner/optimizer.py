"""Optimizer: what steps the weights of a job, and what its states are held in."""

from __future__ import annotations

from typing import Any, Literal, get_args

from pydantic import Field

from ..errors import InputError, did_you_mean
from ..schema import Frozen, parse

Optimizer = Literal["adamw", "galore"]
NAMES: tuple[Optimizer, ...] = ("adamw", "galore")

States = Literal["fp32", "bf16"]
"""What AdamW's two moments are held in; the master weight stays in fp32."""

Kernels = Literal["auto", "reference"]
"""As `kernels/switch.py`: what the built-in runtime runs on a CUDA device, and is priced with."""


class GaLore(Frozen):
    """AdamW in the space of the largest singular vectors of a matrix's gradient (arXiv:2403.03507, algorithm 2)."""

    rank: int = Field(ge=1, description="of the space; the paper's: a quarter of the hidden size, or an eighth")
    every: int = Field(200, ge=1, description="steps after which the space is looked for anew")
    scale: float = Field(0.25, gt=0, description="of what comes back from the space")


def read_optimizer(text: str) -> dict[str, Any]:
    """Fields of a job that `adamw`, `adamw:states=bf16` or `galore:rank=1024,every=200,scale=0.25` name. Raises
    InputError."""
    name, _, parameters = text.partition(":")
    if name not in NAMES:
        rule = f"must be {' or '.join(NAMES)}"
        raise InputError.single("command line", "--optimizer", name, rule, did_you_mean(name, NAMES))
    given: dict[str, str] = {}
    for part in filter(None, parameters.split(",")):
        key, _, value = (each.strip() for each in part.partition("="))
        if not key or key in given:
            rule = "parameters are written rank=1024,states=bf16, each once"
            raise InputError.single("--optimizer", part, None, rule, "galore:rank=1024")
        given[key] = value
    states = given.pop("states", "fp32")
    if states not in get_args(States):
        raise InputError.single("--optimizer", "states", states, "must be fp32 or bf16", f"{name}:states=bf16")
    if name == "adamw" and given:
        rule = "adamw takes states here; a recipe has the rest"
        raise InputError.single("--optimizer", next(iter(given)), None, rule, "adamw:states=bf16")
    galore = parse(GaLore, given, "--optimizer") if name == "galore" else None
    return {"optimizer": name, "galore": galore, "optimizer_states": states}
