"""Router: which experts each token visits, and how much each of them counts."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import project
from .moe_shape import MoeShape

_TINY = 1e-20  # DeepSeek-V3's guard against a sum of weights of zero


class Routing(NamedTuple):
    """What a router decides for [tokens]: `weights` float32 and `experts` int64 [tokens, top_k], best first.

    `probabilities` [tokens, experts] float32 add up to one a token: what balancing looks at. `logits` likewise.
    """

    weights: Tensor
    experts: Tensor
    probabilities: Tensor
    logits: Tensor


class Router(nn.Module):
    """Tokens [tokens, hidden] to a Routing."""

    e_score_correction_bias: Tensor | None

    def __init__(self, hidden: int, shape: MoeShape):
        super().__init__()
        self.shape = shape
        self.weight = nn.Parameter(torch.empty(shape.experts, hidden))
        # A state, not a parameter: no gradient reaches it, balancing moves it, checkpoints hold it.
        self.register_buffer("e_score_correction_bias", torch.zeros(shape.experts) if shape.bias else None)

    def forward(self, tokens: Tensor) -> Routing:
        return route(router_logits(tokens, self.weight, self.shape), self.shape, self.e_score_correction_bias)


def router_logits(tokens: Tensor, weight: Tensor, shape: MoeShape) -> Tensor:
    """[tokens, experts], in float32 where the family takes the product so."""
    return project(tokens.float() if shape.exact_logits else tokens, weight, None)


def route(logits: Tensor, shape: MoeShape, bias: Tensor | None) -> Routing:
    """The choice from `logits` [tokens, experts]; equal scores go to the expert of the lower number.

    softmax: arXiv:2401.04088, equation 2 of section 2.1; sigmoid: arXiv:2412.19437, equations 12 to 16.
    `bias` [experts] moves the choice and not the weights.
    """
    wide = logits.float()
    scores = wide.softmax(-1) if shape.scoring == "softmax" else wide.sigmoid()
    experts = choose(scores.detach(), shape, bias)
    weights = scores.gather(-1, experts)
    if shape.normalised:
        weights = weights / (weights.sum(-1, keepdim=True) + (_TINY if shape.scoring == "sigmoid" else 0.0))
    probabilities = scores if shape.scoring == "softmax" else scores / scores.sum(-1, keepdim=True)
    return Routing(weights * shape.scaling, experts, probabilities, logits)


def choose(scores: Tensor, shape: MoeShape, bias: Tensor | None) -> Tensor:
    """Experts int64 [tokens, top_k] of the highest scores, within the groups that a token may use."""
    ranked = scores if bias is None else scores + bias
    if shape.groups > 1:
        ranked = ranked.masked_fill(~_allowed(ranked, shape), -torch.inf)
    return _best(ranked, shape.top_k)


def _allowed(scores: Tensor, shape: MoeShape) -> Tensor:
    """bool [tokens, experts]: in one of the token's best groups (arXiv:2405.04434, section 2.2.2)."""
    members = scores.view(-1, shape.groups, shape.experts // shape.groups)
    of_group = members.amax(-1) if shape.group_score == "best" else members.topk(2, -1).values.sum(-1)
    chosen = F.one_hot(_best(of_group, shape.top_groups), shape.groups).sum(1).bool()
    return chosen.repeat_interleave(shape.experts // shape.groups, dim=-1)


def _best(scores: Tensor, count: int) -> Tensor:
    """Indices of the highest scores. A stable sort: torch.topk breaks ties as it likes."""
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :count]
