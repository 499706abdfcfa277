"""What ranks do in the tests of data parallelism: found by import, run by harness.run_ranks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from workers import batches, own_sequences

from meshwright.planner.plan import Plan
from meshwright.runtime.build import build_model

KINDS = {
    "c10d._allgather_base_.default": "gather",
    "c10d._reduce_scatter_base_.default": "scatter",
    "c10d.allreduce_.default": "sum",
    "c10d.alltoall_base_.default": "exchange",
}
TRANSFERS = ("c10d.send.default", "c10d.recv_.default")  # of the pipeline


class Collectives(TorchDispatchMode):
    """Counts collectives, and remembers in which precision data are gathered and reduced."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counter(dict.fromkeys(("gather", "scatter", "sum"), 0))
        self.dtypes: dict[str, set[str]] = {kind: set() for kind in KINDS.values()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func).startswith("c10d") and str(func) not in TRANSFERS:
            kind = KINDS[str(func)]  # a collective that nobody expects fails here
            tensor = args[0][0] if isinstance(args[0], list) else args[0]
            self.counts[kind] += 1
            self.dtypes[kind].add(str(tensor.dtype))
        return func(*args, **(kwargs or {}))


def _step(plan: Plan) -> Collectives:
    """One step of training, after one that warms up."""
    model = build_model(plan, torch.device("cpu"))
    vocab, job = plan.model.config["vocab_size"], plan.job
    first, second = batches(vocab, job.seq_len, job.global_batch, 2)
    model.forward_backward(own_sequences(model, first))
    with Collectives() as seen:
        model.forward_backward(own_sequences(model, second))
    return seen


def communication(plan: Plan) -> dict[str, int]:
    """How many collectives of each kind a step has."""
    return dict(_step(plan).counts)


def precisions(plan: Plan) -> tuple[set[str], set[str]]:
    """In which precisions weights are gathered, and gradients reduced."""
    dtypes = _step(plan).dtypes
    return dtypes["gather"], dtypes["scatter"] | dtypes["sum"]
