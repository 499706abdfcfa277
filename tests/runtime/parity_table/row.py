"""A row of the table: a model and the options of its plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from plans import make_plan

from meshwright.planner.plan import Plan
from parity_table.models import MODELS, widened

Options = Mapping[str, Any]
_OF_ROWS = ("model", "config", "tied", "compiler")
"""Options that plans.make_plan does not have."""


@dataclass(frozen=True, slots=True)
class Row:
    """`options` are those of plans.make_plan, and `model` (a name of models.MODELS) or `config`, `tied`, and
    `compiler` (of torch.compile)."""

    name: str
    options: Options = field(default_factory=dict)
    slow: bool = False  # only in the whole table

    @property
    def config(self) -> dict[str, Any]:
        config = self.options.get("config") or MODELS[self.options.get("model", "llama")]
        return {**config, "tie_word_embeddings": True} if self.options.get("tied") else config

    @property
    def plan(self) -> Plan:
        """The plan whose training is compared."""
        return make_plan(self.config, **self._plan_options)

    @property
    def wide_plan(self) -> Plan | None:
        """The plan whose memory is compared: the same with a model and a sequence that fill some MiB,
        in as many microbatches, of one sequence each. None where the plan moves things to the host (on a CPU that is
        the very memory that they come from), and for compilers, which are proven beside the plan."""
        if self.options.get("offload") or self.options.get("swap_layers") or self.options.get("compiler"):
            return None
        size, batch = self.options.get("microbatch", 2), self.options.get("global_batch", 8)
        return make_plan(
            widened(self.config),
            **{**self._plan_options, "seq_len": 256, "microbatch": 1, "global_batch": batch // size},
        )

    @property
    def world(self) -> int:
        return self.plan.configuration.mesh.world

    @property
    def _plan_options(self) -> dict[str, Any]:
        return {
            name: value for name, value in self.options.items() if name not in ("model", "config", "tied", "compiler")
        }


@dataclass(frozen=True, slots=True)
class Dimension:
    """One choice that a plan makes. `values` enter products with every other dimension, the first one being not to use
    it; `rows` are run for themselves."""

    name: str
    values: Mapping[str, Options]
    rows: Mapping[str, Options] = field(default_factory=dict)
