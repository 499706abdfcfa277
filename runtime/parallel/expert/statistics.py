"""Statistics: which experts every token chose, for the planner that places experts.

RUN/routing/rank-00000.jsonl has one object a microbatch and layer in the columns of Megatron-LM's
`--moe-routing-trace-path`, that of the model's first layer with experts also the ids of the `tokens`;
RUN/routing/loads-00.jsonl, of a stage, has one a layer: how often each expert was chosen in the global batch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ... import compat
from ...blocks.router import Routing
from ...metrics import drop_after
from ...model import ParallelModel
from .control import expert_blocks


class RoutingRecorder:
    """Writes every `every`-th step's routing of this rank; does nothing with `every` 0 or without experts.

    What an earlier attempt wrote of steps after `resumed_step` is forgotten.
    """

    def __init__(self, model: ParallelModel, folder: Path, every: int, resumed_step: int = 0):
        self._model, self._every, self._listening = model, every, False
        self._kept: list[tuple[int, Tensor]] = []
        self._first = min(model.shape.moe.layers) if model.shape.moe is not None else -1
        rank, stage = model.meshes.rank, model.meshes.pp_rank
        self._choices, self._loads = folder / f"rank-{rank:05}.jsonl", folder / f"loads-{stage:02}.jsonl"
        self._counts = rank % model.meshes.stage_size == 0  # one rank of a stage: all know the same
        blocks = expert_blocks(model.parts)
        if every and blocks:
            folder.mkdir(parents=True, exist_ok=True)
            for file in (self._choices, *((self._loads,) if self._counts else ())):
                drop_after(file, resumed_step)
            for layer, moe in blocks.items():
                moe.regulators = (*moe.regulators, partial(self._listen, layer))

    def _listen(self, layer: int, routing: Routing) -> Routing:
        if self._listening and torch.is_grad_enabled() and not compat.in_backward():
            self._kept.append((layer, routing.experts.detach().to("cpu", torch.int32)))
        return routing

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Around the forward and backward passes of `step`."""
        self._listening = self._every > 0 and step % self._every == 0
        yield
        if self._listening and self._model.experts is not None:
            ids = self._model.tokens_by_forward(self._first)  # asked for only where rows are of that layer
            _append(self._choices, (self._choice(step, layer, experts, ids) for layer, experts in self._kept))
            if self._counts:
                _append(self._loads, self._load_rows(step))
        self._kept.clear()
        self._listening = False

    def _choice(self, step: int, layer: int, experts: Tensor, ids: Iterator[Tensor]) -> dict[str, Any]:
        row = {
            "step": step,
            "stage": "pre_dispatch",
            "block": "decoder",
            "layer": layer,
            "rank": self._model.meshes.rank,
            "num_tokens": experts.shape[0],
            "topk": experts.shape[1],
            "top_indices": experts.tolist(),
        }
        own = next(ids, None) if layer == self._first else None
        return row if own is None else row | {"tokens": own.tolist()}

    def _load_rows(self, step: int) -> Iterator[dict[str, Any]]:
        control = self._model.experts
        if control is not None and control.step_counts is not None:
            for layer, counts in zip(control.layers, control.step_counts.tolist(), strict=True):
                yield {"step": step, "layer": layer, "counts": counts}


def _append(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    lines = [json.dumps(row) + "\n" for row in rows]
    if lines:
        with path.open("a") as file:
            file.writelines(lines)
