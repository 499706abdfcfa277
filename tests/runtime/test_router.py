"""The choice of experts: ties, groups, the bias."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.runtime.blocks.moe_shape import MoeShape
from meshwright.runtime.blocks.router import choose, route


def shape(**options: object) -> MoeShape:
    defaults: dict[str, object] = {"experts": 8, "top_k": 2, "width": 4, "layers": frozenset({0})}
    return MoeShape(**{**defaults, **options})  # type: ignore[arg-type]


def test_equal_scores_go_to_the_lower_number() -> None:
    scores = torch.tensor([[0.1, 0.3, 0.3, 0.3], [0.25, 0.25, 0.25, 0.25]])
    assert choose(scores, shape(experts=4), None).tolist() == [[1, 2], [0, 1]]


def test_a_token_stays_in_its_groups() -> None:
    scores = torch.tensor([[0.9, 0.0, 0.5, 0.5, 0.8, 0.1, 0.0, 0.0]])
    best = shape(groups=4, top_groups=2)
    assert choose(scores, best, None).tolist() == [[0, 4]]
    two = shape(groups=4, top_groups=1, group_score="best two")
    assert choose(scores, two, None).tolist() == [[2, 3]]


def test_the_bias_moves_the_choice_and_not_the_weights() -> None:
    sigmoid = shape(experts=3, top_k=1, scoring="sigmoid", bias=True)
    logits = torch.tensor([[2.0, 1.0, 0.0]])
    plain, moved = (route(logits, sigmoid, bias) for bias in (torch.zeros(3), torch.tensor([0.0, 0.0, 5.0])))
    assert (plain.experts.item(), moved.experts.item()) == (0, 2)
    assert moved.weights.item() == pytest.approx(0.5)


def test_normalised_weights_add_up_to_the_scaling() -> None:
    logits = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    for scoring in ("softmax", "sigmoid"):
        found = route(logits, shape(normalised=True, scaling=2.5, scoring=scoring), None)
        torch.testing.assert_close(found.weights.sum(-1), torch.full((5,), 2.5))
        torch.testing.assert_close(found.probabilities.sum(-1), torch.ones(5))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(2, 4), st.integers(0, 1000), st.booleans())
def test_choices_are_distinct_and_within_the_best_groups(
    top_groups: int, more: int, members: int, seed: int, two: bool
) -> None:
    groups = top_groups + more
    limited = shape(
        experts=groups * members, top_k=min(3, top_groups * members), groups=groups, top_groups=top_groups,
        group_score="best two" if two else "best",
    )  # fmt: skip
    scores = torch.rand(7, limited.experts, generator=torch.Generator().manual_seed(seed))
    for token, chosen in zip(scores.tolist(), choose(scores, limited, None).tolist(), strict=True):
        value = {
            group: sum(sorted(token[group * members : (group + 1) * members])[-2 if two else -1 :])
            for group in range(groups)
        }
        allowed = sorted(value, key=lambda group: -value[group])[:top_groups]
        inside = [expert for expert in range(limited.experts) if expert // members in allowed]
        assert chosen == sorted(inside, key=lambda expert: -token[expert])[: limited.top_k]
