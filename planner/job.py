"""Job: what is to be trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from ..errors import InputError, gather
from ..schema import Frozen, parse
from .lengths.distribution import Lengths
from .lengths.reading import read_lengths

Precision = Literal["bf16", "fp16", "fp32", "fp8"]
Optimizer = Literal["adamw"]


class Job(Frozen):
    """One step trains `global_batch` sequences of `seq_len` tokens, or with `lengths` of as many as these say, at most
    `seq_len`."""

    seq_len: int = Field(ge=1)
    global_batch: int = Field(ge=1, description="sequences per optimizer step")
    precision: Precision = "bf16"
    optimizer: Optimizer = "adamw"
    lengths: Lengths | None = None  # all have seq_len tokens

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
    lengths, plain = gather(lambda: read_lengths(given) if isinstance(given, str) else given, lambda: _job(options))
    job: Job = plain.model_copy(update={"lengths": lengths})
    return job


def _job(options: Mapping[str, Any]) -> Job:
    try:
        return parse(Job, {**options, "lengths": None}, "command line")
    except InputError as error:
        named = [replace(problem, field=f"--{problem.field.replace('_', '-')}") for problem in error.problems]
        raise InputError(error.source, named) from None
