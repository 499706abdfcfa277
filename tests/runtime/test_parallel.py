"""Parts of the parallel model on their own: sharded loss, initial weights, clipping, precision, time limits."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
import workers
from harness import RankError, run_ranks
from plans import LLAMA, make_plan

from meshwright.errors import InputError
from meshwright.kernels.cross_entropy import IGNORED
from meshwright.runtime.build import build_model

TIED = {**LLAMA, "tie_word_embeddings": True, "vocab_size": 251}


def test_ranks_are_forked_with_what_they_import() -> None:
    """A fork server says nothing of what it cannot import."""
    (frozen,) = run_ranks(1, gc.get_freeze_count)
    assert frozen > 100_000


@pytest.mark.parametrize("vocab", [24, 23, 5])
def test_vocabulary_cross_entropy_equals_the_whole(vocab: int) -> None:
    """Also where the last rank has fewer tokens than the others, or none."""
    logits = torch.randn(3, 7, vocab, generator=torch.Generator().manual_seed(0)).mul_(30).requires_grad_()
    targets = torch.randint(0, vocab, (3, 7), generator=torch.Generator().manual_seed(1))
    targets[1, 2:5], targets[2, 0] = IGNORED, -1
    real = targets.flatten() >= 0
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1)[real], targets.flatten()[real], reduction="sum")
    loss.backward()
    assert logits.grad is not None
    ranks = run_ranks(4, workers.vocabulary_loss, logits.detach(), targets)
    for found, _ in ranks:
        assert found == pytest.approx(loss.item(), rel=1e-6)
    gradient = torch.cat([torch.tensor(gradient).view(3, 7, -1) for _, gradient in ranks], dim=-1)
    torch.testing.assert_close(gradient, logits.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("options", [{"tp": 2, "dp": 2, "zero": 3}, {"pp": 2, "tp": 2}], ids=str)
def test_initial_weights_do_not_depend_on_the_plan(options: dict[str, int]) -> None:
    alone = dict(build_model(make_plan(TIED), torch.device("cpu"), seed=7).named_parameters())
    ranks = run_ranks(4, workers.weights, make_plan(TIED, **options), 7)
    assert {name for rank in ranks for name, _ in rank} == alone.keys()
    for name, value in (pair for rank in ranks for pair in rank):
        assert torch.equal(torch.tensor(value), alone[name]), name


def test_initial_weights_depend_on_seed_and_name() -> None:
    first, second = (build_model(make_plan(LLAMA), torch.device("cpu"), seed=seed) for seed in (0, 1))
    weights, others = dict(first.named_parameters()), dict(second.named_parameters())
    one, another = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight"
    assert not torch.equal(weights[one], others[one])
    assert not torch.equal(weights[one], weights[another])
    assert weights[one].std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("options", [{}, {"dp": 2, "zero": 3}, {"pp": 2, "tp": 2, "sp": True}], ids=str)
def test_bf16_trains_with_float32_weights(options: dict[str, int]) -> None:
    plan = make_plan(LLAMA, precision="bf16", **options)
    exact = run_ranks(1, workers.short_run, make_plan(LLAMA))[0][0]
    for losses, dtypes in run_ranks(plan.configuration.mesh.world, workers.short_run, plan):
        assert dtypes == {"torch.float32"}
        assert losses == pytest.approx(exact, rel=2e-2)
        assert losses != exact


def test_checkpoint_moves_between_meshes(tmp_path: Path) -> None:
    """Parameters are known to torch.distributed.checkpoint by their global names, whatever the mesh."""
    run_ranks(4, workers.save, make_plan(TIED, pp=2, tp=2, sp=True), 3, tmp_path)
    for options in ({"dp": 2, "zero": 3}, {"pp": 3}):
        plan = make_plan(TIED, **options)
        found = run_ranks(plan.configuration.mesh.world, workers.load, plan, tmp_path)
        alone = dict(build_model(make_plan(TIED), torch.device("cpu"), seed=3).named_parameters())
        for name, value in (pair for rank in found for pair in rank):
            assert torch.equal(torch.tensor(value), alone[name]), name


def test_every_group_has_the_time_limit() -> None:
    with pytest.raises(RankError, match=r"[Tt]imed out"):
        run_ranks(4, workers.wait_for_nobody, make_plan(LLAMA, dp=2, pp=2), 1.0, timeout_s=30.0)


def test_harness_shows_the_failing_rank() -> None:
    with pytest.raises(RankError, match=r"rank 1:[\s\S]*ValueError: as asked"):
        run_ranks(2, workers.fail_on, 1)


def test_tokens_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(8, 32\), not \(8, 33\)"):
        build_model(make_plan(LLAMA), torch.device("cpu")).forward_backward(torch.zeros(8, 32, dtype=torch.int64))


def test_plan_for_more_processes_is_refused() -> None:
    with pytest.raises(InputError, match="WORLD_SIZE"):
        build_model(make_plan(LLAMA, dp=2), torch.device("cpu"))
