"""Completion: what a published row leaves out, as its framework would have had it; every guess is said."""

from __future__ import annotations

from dataclasses import replace

from .generation import generation
from .row import Row

GPT2_CONTEXT = 1024
"""Positions of GPT-2 (Radford et al. 2019); Megatron-LM's tables of 2020 hold with it and full recomputation."""

LARGEST_TP = 8
"""Megatron-LM keeps tensor parallelism inside a node (arXiv:2104.04473, takeaway 1): of a model-parallel size alone, as
much as a node has devices is tensor parallel."""

LARGEST_MICROBATCH = 16
"""Of Megatron-LM's tables (`examples/sc21`), without a pipeline."""

VOCABULARIES = (("qwen", 151936),)
"""Padded vocabulary of a model family, where a row states none."""


def completed(row: Row, assumptions: list[str]) -> Row:
    """The row with its gaps filled, as far as something stands to reason; appends what was assumed."""
    for fill in (_width, _vocabulary, _context, _model_parallel, _microbatch):
        row = fill(row, assumptions)
    return row


def _width(row: Row, assumptions: list[str]) -> Row:
    if row.ffn_hidden or row.expert_ffn or not row.hidden or row.mlp == "swiglu":
        return row
    assumptions.append("feed-forward width of 4 x hidden")
    return replace(row, ffn_hidden=4 * row.hidden)


def _vocabulary(row: Row, assumptions: list[str]) -> Row:
    known = next((size for name, size in VOCABULARIES if name in row.model.lower()), None)
    if row.vocab or known is None:
        return row
    assumptions.append(f"vocabulary of {known}")
    return replace(row, vocab=known)


def _context(row: Row, assumptions: list[str]) -> Row:
    if row.seq_len or not row.model.startswith("gpt2"):
        return row
    assumptions.append(f"sequence length of {GPT2_CONTEXT}")
    return replace(row, seq_len=GPT2_CONTEXT)


def _model_parallel(row: Row, assumptions: list[str]) -> Row:
    """Of a table that gives replicas alone, and so the product of tp and pp."""
    if row.tp or row.pp or not row.dp or not row.gpus or generation(row) != "megatron-lm":
        return row
    size = row.gpus // row.dp
    tp = min(LARGEST_TP, size)
    if not size or size % tp:
        return row
    assumptions.append(f"tp {tp}, pp {size // tp} of a model-parallel size of {size}")
    return replace(row, tp=tp, pp=size // tp)


def _microbatch(row: Row, assumptions: list[str]) -> Row:
    """Megatron-LM without a pipeline: what a replica has, as far as its tables go."""
    if row.mbs or not row.gbs or not row.dp or row.pp != 1 or generation(row) != "megatron-lm":
        return row
    size = min(LARGEST_MICROBATCH, max(1, row.gbs // row.dp))
    assumptions.append(f"microbatch of {size}, without a pipeline")
    return replace(row, mbs=size)
