"""Lengths as users give them, and what is drawn from them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshwright.errors import InputError
from meshwright.planner.job import Job, job_of_options
from meshwright.planner.lengths.distribution import Histogram, Lognormal, sample
from meshwright.planner.lengths.reading import MOST_LENGTHS, read_lengths


def test_a_lognormal_has_its_median_and_its_percentile():
    drawn = sample(Lognormal(median=800, p99=16000), 200_000, 10**9, seed=3)
    assert np.percentile(drawn, 50) == pytest.approx(800, rel=0.02)
    assert np.percentile(drawn, 99) == pytest.approx(16000, rel=0.03)


@given(st.floats(10, 1e4), st.floats(1, 50), st.sampled_from([64, 1024, 65536]))
def test_means_are_those_of_many_draws(median, ratio, seq_len):
    """The mean of quantiles in the middle of 20,000 equal parts of the probability."""
    lengths = Lognormal(median=median, p99=median * ratio)
    middles = (np.arange(20_000) + 0.5) / 20_000
    assert lengths.mean(seq_len) == pytest.approx(np.minimum(lengths.at(middles), seq_len).mean(), rel=0.01, abs=0.6)


def test_shares_that_are_cut():
    assert Lognormal(median=100, p99=1000).share_cut(1000) == pytest.approx(0.01)
    assert Histogram(lengths=(5, 9), counts=(3, 1)).share_cut(8) == 0.25
    assert Lognormal(median=7, p99=7).share_cut(7) == 0
    assert set(sample(Lognormal(median=7, p99=7), 9, 5, seed=0).tolist()) == {5}


@given(st.dictionaries(st.integers(1, 500), st.integers(1, 9), min_size=1, max_size=20), st.integers(1, 600))
def test_histograms_draw_as_they_count(counted, seq_len):
    lengths = Histogram(lengths=tuple(sorted(counted)), counts=tuple(counted[n] for n in sorted(counted)))
    total = sum(counted.values())
    drawn = lengths.at((np.arange(total) + 0.5) / total)
    assert sorted(drawn.tolist()) == sorted(n for n, count in counted.items() for _ in range(count))
    assert lengths.mean(seq_len) == pytest.approx(np.minimum(drawn, seq_len).mean())


def test_steps_are_drawn_by_seed_and_number():
    lengths = Lognormal(median=500, p99=9000)
    first = sample(lengths, 64, 4096, 1, 0)
    assert first.tolist() == sample(lengths, 64, 4096, 1, 0).tolist()
    assert first.tolist() != sample(lengths, 64, 4096, 1, 1).tolist()
    assert first.tolist() != sample(lengths, 64, 4096, 2, 0).tolist()
    assert first.max() <= 4096


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "512\n7\n\n512\n"),
        ("b.csv", "length\n512\n512\n7\n"),
        ("c.csv", "length,count\n512, 2\n7,1\n"),
        ("d.csv", "512,1\n7,1\n512,1\n"),
        ("e.jsonl", '512\n{"length": 512}\n{"length": 7, "count": 1}\n'),
    ],
)
def test_files_of_lengths(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    assert read_lengths(str(path)) == Histogram(lengths=(7, 512), counts=(1, 2))


@pytest.mark.parametrize(
    ("name", "text", "fields"),
    [
        ("a.csv", "512\nx\n-3\n1,2\n0\n", ["line 2", "line 3", "line 4", "line 5"]),
        ("b.csv", "length,count\n5\n5,0\n5,1.5\n", ["line 2", "line 3", "line 4"]),
        ("c.jsonl", '{"length": true}\n{"len": 5}\n[5]\nnope\n5.0\n', [f"line {n}" for n in range(1, 6)]),
        ("d.csv", "\n", ["file"]),
        ("f.csv", "1" * 5000 + "\n5\n" + "1" * 30 + "\n", ["line 1", "line 3"]),
        ("g.jsonl", "[" * 100_000 + "\n" + "1" * 30 + "\n5\n", ["line 1", "line 2"]),
        ("e.csv", "x\n" * 30, [*(f"line {n}" for n in range(1, 21)), "further lines"]),
    ],
)
def test_every_problem_of_a_file_has_its_line(tmp_path, name, text, fields):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_lengths(str(path))
    assert [problem.field for problem in caught.value.problems] == fields


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lognormal", "needs its parameters"),
        ("lognormal:median=5", "p99: is required"),
        ("lognormal:median=5,p99=4", "must not be below"),
        ("lognormal:median=5,p99=9,mode=2", "unknown field"),
        ("lognormal:median=5,median=5", "each once"),
        ("lognormal:median=5,p99=1e300", "less than or equal to"),
        ("lognorml:median=5,p99=9", "did you mean 'lognormal'"),
        ("missing.csv", "cannot be read"),
    ],
)
def test_names_that_are_wrong(text, words):
    with pytest.raises(InputError, match=words):
        read_lengths(text)


def test_the_longest_that_can_be_drawn_is_a_number():
    """Of a tail that goes beyond 64 bits."""
    drawn = sample(Lognormal(median=1, p99=1e12), 20_000, 10**9, seed=0)
    assert (drawn.min(), drawn.max()) == (1, 10**9)


def test_many_lengths_become_classes(tmp_path):
    path = tmp_path / "many.csv"
    path.write_text("\n".join(map(str, range(1, 5001))))
    found = read_lengths(str(path))
    assert len(found.lengths) <= MOST_LENGTHS + 1
    assert sum(found.counts) == 5000
    assert found.lengths[-1] == 5000
    assert found.mean(5000) == pytest.approx(2500.5, rel=0.005)


def test_a_job_counts_the_tokens_that_are_expected():
    lengths = Histogram(lengths=(100, 5000), counts=(3, 1))
    job = Job(seq_len=1000, global_batch=8, lengths=lengths)
    assert job.tokens_per_step == 8 * (300 + 1000) / 4
    assert Job.model_validate(job.model_dump(mode="json")) == job
    assert Job(seq_len=1000, global_batch=8).tokens_per_step == 8000


def test_problems_of_options_are_told_together():
    with pytest.raises(InputError) as caught:
        job_of_options({"seq_len": 0, "global_batch": 4, "lengths": "lognormal:median=0,p99=1"})
    assert len(caught.value.problems) == 2
