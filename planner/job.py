"""Job: what is to be trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, model_validator

from ..errors import InputError, gather
from ..schema import Frozen, parse
from .attention import S2, Kind, read_attention
from .compression import Compress
from .lengths.distribution import Lengths
from .lengths.reading import read_lengths
from .optimizer import GaLore, Kernels, Optimizer, States, read_optimizer

Precision = Literal["bf16", "fp16", "fp32", "fp8"]


class Job(Frozen):
    """One step trains `global_batch` sequences of `seq_len` tokens, or with `lengths` of as many as these say, at most
    `seq_len`."""

    seq_len: int = Field(ge=1)
    global_batch: int = Field(ge=1, description="sequences per optimizer step")
    precision: Precision = "bf16"
    optimizer: Optimizer = "adamw"
    galore: GaLore | None = None  # where that is the optimizer
    optimizer_states: States = "fp32"
    kernels: Kernels = "auto"
    compress: Compress = "none"
    attention: Kind = "dense"
    s2: S2 | None = None  # shards of attention s2, where they are not the defaults
    lengths: Lengths | None = None  # all have seq_len tokens

    @model_validator(mode="after")
    def _one_optimizer(self) -> Job:
        if (self.optimizer == "galore") is not (self.galore is not None):
            told = "needs galore: {rank: ...}" if self.galore is None else "has nothing to do with galore"
            raise ValueError(f"optimizer {self.optimizer} {told}")
        return self

    @model_validator(mode="after")
    def _shards_of_s2(self) -> Job:
        if self.s2 is not None and self.attention != "s2":
            raise ValueError("s2 is of attention: s2, and attention is dense")
        return self

    @property
    def sharded(self) -> S2 | None:
        """How heads share a sequence out; None: each sees all of it."""
        return None if self.attention == "dense" else self.s2 or S2.model_validate({})

    @property
    def stepped(self) -> str:
        """What steps the weights, and kernels and gradients where they are not the default, for people."""
        rank = "" if self.galore is None else f" of rank {self.galore.rank}"
        states = "" if self.optimizer_states == "fp32" else f" with states in {self.optimizer_states}"
        kernels = "" if self.kernels == "auto" else ", reference kernels"
        compress = "" if self.compress == "none" else f", gradients in {self.compress}"
        attention = "" if self.attention == "dense" else f", attention {self.attention}"
        return f"{self.optimizer}{rank}{states}{kernels}{compress}{attention}"

    @property
    def tokens_per_step(self) -> int:
        """With a distribution of lengths: the expected number."""
        if self.lengths is None:
            return self.seq_len * self.global_batch
        return round(self.lengths.mean(self.seq_len) * self.global_batch)


def job_of_options(options: Mapping[str, Any]) -> Job:
    """The job that a command line describes; `lengths` may be text as `read_lengths` takes it. Raises InputError that
    names the options: `--seq-len`."""
    given = options.get("lengths")
    optimizer, attention = options.get("optimizer", "adamw"), options.get("attention", "dense")
    lengths, stepped, attends, plain = gather(
        lambda: read_lengths(given) if isinstance(given, str) else given,
        lambda: read_optimizer(optimizer),
        lambda: read_attention(attention),
        lambda: _job({**options, "optimizer": "adamw", "attention": "dense"}),
    )
    job: Job = plain.model_copy(update={"lengths": lengths, **stepped, **attends})
    return job


def _job(options: Mapping[str, Any]) -> Job:
    try:
        return parse(Job, {**options, "lengths": None}, "command line")
    except InputError as error:
        named = [replace(problem, field=f"--{problem.field.replace('_', '-')}") for problem in error.problems]
        raise InputError(error.source, named) from None
