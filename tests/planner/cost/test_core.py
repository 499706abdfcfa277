"""The core of attention that is not fused: its products as PyTorch counts them, its bytes by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from meshwright.planner.cost.core import FUSED_BACKWARD, core_s
from meshwright.planner.cost.rates import Rates
from meshwright.planner.cost.sharding import Sharding
from meshwright.planner.model import Attention

HEADS, HEAD_DIM, SEQ_LEN = 16, 64, 512
ATTENTION = Attention(heads=HEADS, kv_heads=HEADS, head_dim=HEAD_DIM, value_dim=HEAD_DIM)
FUSED = Rates(
    peak_flops=1e12,
    attention_flops=2e12,
    matmul=((math.log(1.0), 1.0),),
    bandwidth_bytes_per_s=math.inf,
    elementwise_bytes_per_s=math.inf,
    launch_s=0.0,
    element_bytes=2,
)
SEPARATE = replace(FUSED, scores=True)


def counted_flops(microbatch: int) -> tuple[float, float]:
    """Of the same core in PyTorch, forward and backward."""
    shape = microbatch * HEADS, SEQ_LEN, HEAD_DIM
    query, key, value = (torch.empty(shape, device="meta", requires_grad=True) for _ in range(3))
    with FlopCounterMode(display=False) as forward:
        output = torch.bmm(torch.bmm(query, key.transpose(1, 2)).softmax(-1), value)
    with FlopCounterMode(display=False) as backward:
        output.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("microbatch", [1, 3])
def test_products_are_those_that_pytorch_counts(microbatch: int) -> None:
    forward_s, backward_s = core_s(ATTENTION, Sharding(microbatch=microbatch), SEQ_LEN, SEPARATE)
    forward, backward = counted_flops(microbatch)
    assert forward_s * 1e12 == pytest.approx(forward)
    assert backward_s * 1e12 == pytest.approx(backward)


def test_products_stay_in_16_bits_where_the_layers_are_in_8() -> None:
    narrow = replace(SEPARATE, peak_flops=2e12, sixteen_bit=SEPARATE)
    assert core_s(ATTENTION, Sharding(), SEQ_LEN, narrow) == core_s(ATTENTION, Sharding(), SEQ_LEN, SEPARATE)


def test_scores_are_read_and_written_in_softmax_and_dropout() -> None:
    """16-bit scores: 4 bytes forward and 6 backward, with dropout 5 more in each direction."""
    scores = HEADS * SEQ_LEN**2
    for dropout, forward, backward in ((False, 4, 6), (True, 9, 11)):
        memory = replace(SEPARATE, peak_flops=math.inf, elementwise_bytes_per_s=1e9, dropout=dropout)
        found = core_s(ATTENTION, Sharding(), SEQ_LEN, memory)
        assert found == pytest.approx((forward * scores / 1e9, backward * scores / 1e9))


@pytest.mark.parametrize("rates", [FUSED, SEPARATE])
def test_tensor_and_context_parallelism_split_it(rates: Rates) -> None:
    whole = core_s(ATTENTION, Sharding(), SEQ_LEN, rates)
    for sharding in (Sharding(tp=4), Sharding(cp=4), Sharding(tp=2, cp=2)):
        assert core_s(ATTENTION, sharding, SEQ_LEN, rates) == pytest.approx([each / 4 for each in whole])


def test_fused_attention_is_priced_at_its_own_rate() -> None:
    forward_s, backward_s = core_s(ATTENTION, Sharding(), SEQ_LEN, FUSED)
    assert forward_s == pytest.approx(ATTENTION.score_flops(SEQ_LEN) / 2e12)
    assert backward_s == pytest.approx(FUSED_BACKWARD * forward_s)
