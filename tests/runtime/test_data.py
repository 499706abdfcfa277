"""The order of samples: a permutation an epoch, and a ledger in which no sample is missing or twice."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshwright.runtime.data import Samples, local_samples, shuffled


@settings(max_examples=60)
@given(size=st.integers(1, 3000), seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 5))
def test_shuffling_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    places = np.arange(size, dtype=np.uint64)
    assert sorted(shuffled(places, size, seed, epoch).tolist()) == list(range(size))


def test_epochs_and_seeds_differ_and_neighbours_part() -> None:
    places = np.arange(10_000, dtype=np.uint64)
    first = shuffled(places, 10_000, 0, 0).astype(np.int64)
    assert (first == shuffled(places, 10_000, 0, 1)).sum() < 10  # one is expected of two random orders
    assert (first == shuffled(places, 10_000, 1, 0)).sum() < 10
    assert abs(np.corrcoef(np.arange(10_000), first)[0, 1]) < 0.05  # standard error 0.01
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.05


def test_a_huge_range_needs_no_memory() -> None:
    size = 10**12 + 39
    result = shuffled(np.array([0, size - 1], dtype=np.uint64), size, 3, 0)
    assert len(set(result.tolist())) == 2
    assert (result < size).all()


@settings(max_examples=60)
@given(st.data())
def test_no_sample_is_missing_or_twice_across_changes_of_data_parallel_size(data: st.DataObject) -> None:
    """Union over ranks and steps is exactly the range of samples, wherever the run is split."""
    global_batch = data.draw(st.sampled_from([4, 6, 12, 24]))
    sizes = data.draw(st.lists(st.sampled_from([n for n in (1, 2, 3, 4, 6) if global_batch % n == 0]), min_size=1))
    position, seen = 0, []
    for dp_size in sizes:
        for _ in range(data.draw(st.integers(1, 5))):
            for rank in range(dp_size):
                seen += list(local_samples(position, (global_batch // dp_size,) * dp_size, rank))
            position += global_batch
    assert seen == list(range(position))


@settings(max_examples=20)
@given(per_epoch=st.integers(3, 40), seq_len=st.integers(1, 9), batch=st.integers(1, 7), seed=st.integers(0, 99))
def test_every_epoch_reads_every_window_once(per_epoch: int, seq_len: int, batch: int, seed: int) -> None:
    tokens = np.arange(per_epoch * seq_len + 1, dtype=np.uint32)
    samples = Samples(tokens, seq_len, seed)
    assert samples.per_epoch == per_epoch
    rows = [samples.batch(range(i, i + batch)) for i in range(0, 2 * per_epoch * batch, batch)]
    starts = Counter(int(row[0]) for row in np.concatenate(rows)[: 2 * per_epoch])
    assert starts == {window * seq_len: 2 for window in range(per_epoch)}
    assert all((np.diff(row) == 1).all() for row in np.concatenate(rows))


def test_a_batch_does_not_depend_on_how_it_is_asked_for() -> None:
    samples = Samples(np.arange(1000, dtype=np.uint16), 8, 7)
    whole = samples.batch(range(100, 140))  # crosses an epoch: 124 windows
    parts = np.concatenate([samples.batch(range(100, 117)), samples.batch(range(117, 140))])
    assert whole.dtype == np.int64
    assert whole.shape == (40, 9)
    assert np.array_equal(whole, parts)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17])
def test_small_ranges(size: int) -> None:
    assert sorted(shuffled(np.arange(size, dtype=np.uint64), size, 0, 0).tolist()) == list(range(size))
