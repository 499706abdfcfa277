"""Masks against loops over all pairs, blocks against masks, and FlexAttention's own against both."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from meshwright.kernels import masks
from meshwright.kernels.facts.sparse import Pattern, dense_flops
from meshwright.kernels.flexible import Masks, block_mask, runs_flexible
from meshwright.runtime.parallel.context.tiles import View
from meshwright.runtime.parallel.context.zigzag import order_on

FEW = settings(max_examples=30, deadline=None, derandomize=True)
PATTERNS = st.builds(
    Pattern,
    block=st.sampled_from([4, 8]),
    local=st.integers(1, 3),
    stride=st.integers(2, 4),
    dense_heads=st.integers(0, 2),
    first_head=st.integers(0, 3),
    heads_per_key=st.integers(1, 2),
)


def everywhere(rule: masks.Rule, batch: int, heads: int, seq_len: int) -> Tensor:
    each = torch.arange(seq_len)
    return masks.written_out(rule, batch, heads, each, each)


def numbers_of(lengths: list[int], seq_len: int) -> Tensor:
    """Ascending, [1, seq_len]."""
    ends = torch.tensor(lengths).cumsum(0)
    return torch.searchsorted(ends, torch.arange(seq_len), right=True)[None]


@FEW
@given(pattern=PATTERNS, seq_len=st.integers(1, 40), heads=st.integers(1, 4))
def test_shards_are_what_the_paper_says(pattern: Pattern, seq_len: int, heads: int) -> None:
    """Pair by pair, in Python's integers; the declaration counts the same pairs."""
    seen = everywhere(masks.both(masks.causal, masks.sharded(pattern)), 1, heads, seq_len)[0]
    for head in range(heads):
        group = (pattern.first_head + head) // pattern.heads_per_key
        for i, j in itertools.product(range(seq_len), repeat=2):
            row, column = i // pattern.block, j // pattern.block
            near = row - column < pattern.local
            shard = group >= pattern.dense_heads and (column - group + pattern.dense_heads) % pattern.stride != 0
            assert bool(seen[head, i, j]) == (i >= j and (near or not shard))
            assert pattern.sees_block(head, row, column) or not seen[head, i, j]
        assert pattern.pairs(head, seq_len) == int(seen[head].sum())
    assert pattern.forward_flops(heads, seq_len, 8, 6) == 2 * (8 + 6) * int(seen.sum())


@FEW
@given(pattern=PATTERNS.filter(lambda each: each.first_head == 0), groups=st.integers(1, 6))
def test_all_heads_together_see_everything_before(pattern: Pattern, groups: int) -> None:
    """Exactly where the declaration says that shards are complete; and a single sparse head does not."""
    seq_len = pattern.block * (pattern.local + 2 * pattern.stride)
    heads = groups * pattern.heads_per_key
    seen = everywhere(masks.both(masks.causal, masks.sharded(pattern)), 1, heads, seq_len)[0]
    before = torch.ones(seq_len, seq_len, dtype=torch.bool).tril()
    assert torch.equal(seen.any(0), before) == pattern.complete(groups)
    assert all(not torch.equal(seen[h], before) for h in range(heads) if pattern.group(h) >= pattern.dense_heads)


def test_dense_flops_are_those_of_all_pairs() -> None:
    assert dense_flops(3, 10, 8, 6) == 2 * 14 * 3 * 55


@FEW
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=5),
    seq_len=st.integers(1, 40),
    window=st.integers(1, 20),
    size=st.sampled_from([4, 8]),
)
def test_blocks_say_what_masks_say(lengths: list[int], seq_len: int, window: int, size: int) -> None:
    numbers, device = numbers_of(lengths, seq_len), torch.device("cpu")
    each = {
        "causal": (masks.causal, masks.causal_blocks(seq_len, size, device)),
        "documents": (masks.documents(numbers), masks.document_blocks(numbers, size)),
        "window": (masks.window(window), masks.window_blocks(seq_len, size, window, device)),
    }
    whole = seq_len // size * size  # what is beyond the sequence is causal's to leave out
    for rule, blocks in each.values():
        some, every = cut(everywhere(rule, 1, 1, seq_len), size)
        assert torch.equal(blocks.some, some)
        assert torch.equal(
            blocks.every[..., : whole // size, : whole // size], every[..., : whole // size, : whole // size]
        )
    rule = masks.both(*(rule for rule, _ in each.values()))
    blocks = each["causal"][1] & each["documents"][1] & each["window"][1]
    some, every = cut(everywhere(rule, 1, 1, seq_len), size)
    assert torch.equal(blocks.every, every)
    assert not (some & ~blocks.some).any()


def cut(seen: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Whether some and every pair of each block is seen; beyond the sequence none is."""
    missing = -seen.shape[-1] % size
    padded = torch.nn.functional.pad(seen, (0, missing, 0, missing))
    each = padded.unflatten(3, (-1, size)).unflatten(2, (-1, size)).transpose(3, 4)
    return each.flatten(4).any(-1), each.flatten(4).all(-1)


@FEW
@given(pattern=PATTERNS, seq_len=st.integers(1, 40))
def test_blocks_of_shards_are_those_of_their_masks(pattern: Pattern, seq_len: int) -> None:
    blocks = masks.sharded_blocks(pattern, 3, seq_len, 4, torch.device("cpu"))
    some, _ = cut(everywhere(masks.sharded(pattern), 1, 3, seq_len), 4)
    assert torch.equal(blocks.some, some)
    assert torch.equal(blocks.every, some)
    with pytest.raises(ValueError, match=f"blocks of {pattern.block}, expected a multiple of 16"):
        masks.sharded_blocks(pattern, 3, seq_len, 16, torch.device("cpu"))


def test_unordered_documents_lose_nothing() -> None:
    """Padding at the end of a sequence is document 0 again."""
    numbers = torch.tensor([[0, 0, 1, 1, 2, 2, 2, 3, 3, 0, 0, 0]])
    some, every = cut(everywhere(masks.documents(numbers), 1, 1, 12), 4)
    blocks = masks.document_blocks(numbers, 4)
    assert not (some & ~blocks.some).any()
    assert torch.equal(blocks.every, every)


@pytest.mark.parametrize("window", [None, 5])
def test_placed_rules_are_those_of_a_rank_of_context_parallelism(window: int | None) -> None:
    """Beside the masks that tiles have of two ranks in zigzag order."""
    size, local = 2, 12
    numbers = numbers_of([7, 3, 9, 5], size * local)
    order = order_on(local, size, torch.device("cpu"))
    view = View.of(size, local, window, numbers[:, order])
    rules = [masks.causal, masks.documents(numbers), *([] if window is None else [masks.window(window)])]
    places = order.view(size, -1)
    for row, column in itertools.product(range(size), repeat=2):
        here = torch.arange(local)
        rule = masks.placed(masks.both(*rules), places[row], places[column])
        seen = masks.written_out(rule, 1, 1, here, here)
        tile = view.tiles[row][column]
        expected = torch.zeros(1, 1, local, local, dtype=torch.bool)
        if tile is not None:
            inside = view.mask(tile, torch.device("cpu"))
            assert inside is not None
            expected[:, :, tile.rows, tile.columns] = inside
        assert torch.equal(seen, expected)


def test_flexattention_is_given_the_blocks_that_it_would_find() -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    seq_len, device = 300, torch.device("cpu")
    numbers = numbers_of([50, 128, 90, 7, 25], seq_len)
    pattern = Pattern(block=128, local=1, stride=2)
    rule = masks.both(masks.causal, masks.documents(numbers), masks.sharded(pattern))
    blocks = masks.causal_blocks(seq_len, 128, device) & masks.document_blocks(numbers, 128)
    blocks = blocks & masks.sharded_blocks(pattern, 2, seq_len, 128, device)
    found = block_mask(rule, blocks, seq_len)
    expected = create_block_mask(rule, 1, 2, seq_len, seq_len, device="cpu")
    assert torch.equal(found.to_dense(), expected.to_dense())
    assert found.full_kv_num_blocks is not None
    assert expected.full_kv_num_blocks is not None
    assert torch.equal(found.full_kv_num_blocks, expected.full_kv_num_blocks)
    assert found.shape == expected.shape


def test_a_mask_is_made_once_a_batch() -> None:
    numbers, made = torch.zeros(1, 8, dtype=torch.int64), []
    blocks = masks.causal_blocks(8, 4, torch.device("cpu"))

    def make() -> object:
        made.append(1)
        return block_mask(masks.causal, blocks, 8)

    known = Masks()
    first = known.of("key", numbers, make)  # type: ignore[arg-type]
    assert known.of("key", numbers, make) is first  # type: ignore[arg-type]
    assert len(made) == 1
    known.of("key", numbers.clone(), make)  # type: ignore[arg-type]
    known.of("other", numbers, make)  # type: ignore[arg-type]
    assert len(made) == 3


def test_a_cpu_reads_written_out_masks() -> None:
    assert not runs_flexible(torch.zeros(1, 1, 8, 64))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flexattention_reads_what_the_mask_says() -> None:
    """Forward alone, and without a compiler: what PyTorch has for a CPU."""
    from torch.nn.attention.flex_attention import flex_attention

    seq_len, device = 300, torch.device("cpu")
    query, key, value = (torch.randn(1, heads, seq_len, 16) for heads in (4, 2, 2))
    numbers = numbers_of([50, 128, 90, 7, 25], seq_len)
    pattern = Pattern(block=128, local=1, stride=2, heads_per_key=2)
    rule = masks.both(masks.causal, masks.documents(numbers), masks.sharded(pattern))
    blocks = masks.causal_blocks(seq_len, 128, device) & masks.document_blocks(numbers, 128)
    blocks = blocks & masks.sharded_blocks(pattern, 4, seq_len, 128, device)
    found = flex_attention(query, key, value, block_mask=block_mask(rule, blocks, seq_len), enable_gqa=True)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=everywhere(rule, 1, 4, seq_len), enable_gqa=True
    )
    torch.testing.assert_close(found, expected)
