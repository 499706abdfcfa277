"""Context parallelism: every algorithm finds what one device finds, output and gradients, in double precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from context_ranks import Case, all_sent_bytes, attention_runs, attentions
from harness import run_ranks
from plans import LLAMA, make_plan
from torch import Tensor

from meshwright.planner.cost.context import Sent, blocks_of, sent
from meshwright.planner.cost.sharding import Sharding
from meshwright.planner.model import Attention
from meshwright.runtime.parallel.context.zigzag import Zigzag

ALGORITHMS: dict[str, dict[str, Any]] = {
    "ring": {"algorithm": "ring"},
    "ulysses": {"algorithm": "ulysses"},
    "usp": {"algorithm": "usp", "ulysses": 2},
    "token-ring": {"algorithm": "token-ring"},
    "allgather": {"algorithm": "allgather"},
}
PACKED = ((0,) * 5 + (1,) * 20 + (2,) * 7, (0,) * 17 + (1,) * 15)
LONE = (tuple(i // 4 for i in range(32)),) * 2  # no document is longer than a chunk
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "one key head": {"kv_heads": 1},
    "scale": {"options": (("scale", 0.7),)},
    "window within a chunk": {"options": (("window", 3),)},
    "window over chunks": {"options": (("window", 11),)},
    "softcap": {"options": (("softcap", 0.5),)},
    "documents": {"documents": PACKED},
    "documents within chunks": {"documents": LONE},
    "padding": {"seq_len": 27},
    "narrow values": {"kv_heads": 4, "width": 12, "value_width": 8},
    "wide values": {"width": 4, "value_width": 8},
    "all": {
        "seq_len": 27,
        "documents": tuple(d[:27] for d in PACKED),
        "options": (("window", 9), ("softcap", 0.8), ("scale", 0.3)),
        "kv_heads": 1,
        "value_width": 4,
    },
}


def reference(case: Case) -> tuple[Tensor, ...]:
    """Output and gradients by PyTorch's own softmax over whole matrices of scores."""
    options = dict(case.options)
    query, key, value, gradient = case.tensors()
    leaves = [x.requires_grad_() for x in (query, key, value)]
    key, value = (x.repeat_interleave(case.heads // case.kv_heads, dim=1) for x in (key, value))
    scores = query @ key.mT * options.get("scale", case.width**-0.5)
    if "softcap" in options:
        scores = options["softcap"] * torch.tanh(scores / options["softcap"])
    places = torch.arange(case.seq_len)
    distance = places[:, None] - places[None]
    seen = (distance >= 0) & (distance < options.get("window", case.seq_len))
    if case.documents is not None:
        documents = torch.tensor(case.documents)
        seen = (seen & (documents[:, :, None] == documents[:, None])).unsqueeze(1)
    output = F.softmax(scores.masked_fill(~seen, -torch.inf), dim=-1) @ value
    output.backward(gradient)
    return output.detach(), *(x.grad for x in leaves if x.grad is not None)


def whole(ranks: list[tuple[Any, ...]], case: Case) -> list[Tensor]:
    """What the ranks have, as one sequence without its padding."""
    layout = Zigzag(seq_len=case.seq_len, size=len(ranks))
    found = []
    for parts in zip(*ranks, strict=True):
        together = torch.cat([torch.from_numpy(part) for part in parts], dim=2)
        joined = torch.empty_like(together)
        joined[:, :, layout.order()] = together
        found.append(joined[:, :, : case.seq_len])
    return found


@pytest.mark.parametrize("name", ALGORITHMS)
def test_four_ranks_find_what_one_finds(name: str) -> None:
    cases = {variant: Case(**{**ALGORITHMS[name], **options}) for variant, options in VARIANTS.items()}
    ranks = run_ranks(4, attentions, list(cases.values()))
    for (variant, case), found in zip(cases.items(), zip(*ranks, strict=True), strict=True):
        for one, other in zip(whole(list(found), case), reference(case), strict=True):
            torch.testing.assert_close(one, other, msg=lambda text, variant=variant: f"{variant}: {text}")


def test_the_planner_knows_what_is_sent() -> None:
    """Bytes counted on their way out of four ranks, beside the planner's formulas."""
    variants = ("plain", "one key head", "narrow values", "window over chunks", "window within a chunk", "padding")
    cases = [
        Case(**{**ALGORITHMS[name], **VARIANTS[variant], "dtype": dtype})
        for name in ALGORITHMS
        for variant in variants
        for dtype in (torch.float32, torch.bfloat16)
    ]
    ranks = run_ranks(4, all_sent_bytes, cases)
    for case, found in zip(cases, zip(*ranks, strict=True), strict=True):
        planned = predicted(case)
        assert [sum(each) for each in zip(*found, strict=True)] == [4 * planned.forward, 4 * planned.backward], case


def predicted(case: Case) -> Sent:
    """By the planner, of one of four ranks."""
    layer = Attention(
        heads=case.heads,
        kv_heads=case.kv_heads,
        head_dim=case.width,
        value_dim=case.value_width,
        window=dict(case.options).get("window"),
    )
    sharding = Sharding(cp=4, cp_algorithm=case.algorithm, cp_ulysses=case.ulysses, microbatch=case.batch)
    return sent(case.algorithm, blocks_of(layer, sharding, case.seq_len, case.dtype.itemsize))


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_recomputation_does_not_read_again(recompute: str) -> None:
    plan = make_plan(LLAMA, cp=2, recompute=recompute)
    layers, microbatches = LLAMA["num_hidden_layers"], plan.schedule.microbatches
    assert run_ranks(2, attention_runs, plan) == [layers * microbatches] * 2
