"""What a plan says of the routing that it was made for: measured on tokens that nothing was fitted to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ...schema import Frozen

if TYPE_CHECKING:
    from .metrics import Metrics


class Outcome(Frozen):
    """What one placement does with the tokens that were held out; means over layers."""

    load: float = Field(gt=0)  # rows of the busiest rank over the mean
    ranks: float = Field(gt=0)  # distinct ranks that a token visits
    remote_nodes: float = Field(ge=0)  # other nodes that it visits
    layer_time_s: float = Field(gt=0)  # of a microbatch through a layer's experts and dispatch, forward and backward

    @classmethod
    def of(cls, metrics: Metrics) -> Outcome:
        means = metrics.means()
        each_s = means["time_s"] / len(metrics.time_s)
        return cls(
            load=means["imbalance"],
            ranks=means["distinct_ranks"],
            remote_nodes=means["remote_nodes"],
            layer_time_s=each_s,
        )


class RoutingReport(Frozen):
    """A trace, the ep group that it was looked at for, and what contiguous and chosen placement do there.

    `load`, `rank_share` and `node_share` are what the plan is priced with: the rows of the busiest rank over the mean,
    and the shares of tokens that visit the busiest rank and node. `bound_s` is of the tokens that placement was fitted
    to: no placement of them takes less, which is `gap` of the chosen one's time. None where experts are contiguous.
    """

    source: str
    tokens: int = Field(ge=1)
    held_out: str  # how the tokens were chosen that this was measured on: "by prompt" or "by time"
    ep: int = Field(ge=1)
    per_node: int = Field(ge=1)  # ranks of the group in each node
    load: float = Field(ge=1)
    rank_share: float = Field(gt=0, le=1)
    node_share: float = Field(gt=0, le=1)
    contiguous: Outcome
    placed: Outcome
    bound_s: float | None = Field(default=None, ge=0)
    gap: float | None = Field(default=None, ge=0)

    @property
    def gain(self) -> float:
        """How much of the predicted layer time the placement saves over the contiguous one."""
        return 1 - self.placed.layer_time_s / self.contiguous.layer_time_s
