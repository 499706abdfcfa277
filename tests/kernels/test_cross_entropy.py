"""Losses of logits and their gradients with every term, beside PyTorch's, transformers' and closed forms."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Gemma2Config, Gemma2ForCausalLM

from meshwright.kernels import switch
from meshwright.kernels.cross_entropy import cross_entropy, cross_entropy_slopes, vocabulary_cross_entropy
from meshwright.kernels.facts import cross_entropy as facts
from meshwright.kernels.linear_cross_entropy import linear_cross_entropy
from meshwright.kernels.terms import Share, Terms
from meshwright.kernels.vocabulary import slopes, summarise

VOCAB, WIDTH = 37, 6
EVERY = {
    "plain": Terms(),
    "softcap": Terms(softcap=2.0),
    "smoothing": Terms(label_smoothing=0.3),
    "z-loss": Terms(z_loss=0.2),
    "all": Terms(softcap=3.0, label_smoothing=0.1, z_loss=0.05),
}
TERMS = pytest.mark.parametrize("terms", EVERY.values(), ids=[*EVERY])


def inputs(tokens: int = 11) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, WIDTH, generator=generator, dtype=torch.float64)
    weight = torch.randn(VOCAB, WIDTH, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, VOCAB, (tokens,), generator=generator)
    targets[1:3] = torch.tensor([-100, -1])
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def oracle(logits: Tensor, targets: Tensor, terms: Terms) -> Tensor:
    """In PyTorch's own words; the z-loss by its definition."""
    if terms.softcap is not None:
        logits = terms.softcap * torch.tanh(logits / terms.softcap)
    real = targets >= 0
    smoothing = {"label_smoothing": terms.label_smoothing, "reduction": "sum"}
    loss = F.cross_entropy(logits[real], targets[real], **smoothing)  # type: ignore[arg-type]
    return loss + terms.z_loss * logits[real].exp().sum(-1).log().square().sum()


@TERMS
@pytest.mark.parametrize("chunks", [1, 3])
def test_projection_and_loss_equal_pytorchs(terms: Terms, chunks: int) -> None:
    hidden, weight, targets = inputs()
    expected = oracle(hidden @ weight.t(), targets, terms)
    found = linear_cross_entropy(hidden, weight, targets, chunks=chunks, **terms._asdict())
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    slopes_found = torch.autograd.grad(found * 3, (hidden, weight))
    torch.testing.assert_close(
        slopes_found, torch.autograd.grad(expected * 3, (hidden, weight)), rtol=1e-11, atol=1e-12
    )


@TERMS
def test_gradients_are_slopes(terms: Terms) -> None:
    hidden, weight, targets = inputs(5)

    def loss(first: Tensor, second: Tensor) -> Tensor:
        return linear_cross_entropy(first, second, targets, chunks=2, **terms._asdict())

    assert torch.autograd.gradcheck(loss, (hidden, weight))


@TERMS
def test_whole_logits_equal_pytorchs(terms: Terms) -> None:
    hidden, weight, targets = inputs()
    logits = (hidden @ weight.t()).detach().requires_grad_()
    expected = oracle(logits, targets, terms)
    torch.testing.assert_close(cross_entropy(logits, targets, terms), expected)
    losses, found = cross_entropy_slopes(logits.detach(), targets, **terms._asdict())
    torch.testing.assert_close(losses.sum(), expected.detach())
    torch.testing.assert_close(found, torch.autograd.grad(expected, logits)[0])
    assert not losses[1:3].any()
    assert not found[1:3].any()


@TERMS
def test_triton_equals_pytorchs_float64(terms: Terms, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of several blocks and a rest, with a target in the last column."""
    monkeypatch.setattr(switch, "INTERPRETED", True)
    generator = torch.Generator().manual_seed(1)
    logits = 3 * torch.randn(4, 1233, generator=generator)
    targets = torch.tensor([1232, 0, -100, 700])
    exact = logits.double().requires_grad_()
    expected = oracle(exact, targets, terms)
    losses, found = cross_entropy_slopes(logits.to(device), targets.to(device), **terms._asdict())
    assert losses.sum().item() == pytest.approx(expected.item(), rel=2e-6)
    wanted = torch.autograd.grad(expected, exact)[0]
    torch.testing.assert_close(found.double().cpu(), wanted, rtol=1e-4, atol=2e-7)


@pytest.mark.parametrize("fast", [False, True])
@TERMS
def test_shares_of_any_size_give_the_whole(
    terms: Terms, fast: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ranks do it, without the ranks: what each sums up is enough for all; one share has nothing."""
    monkeypatch.setattr(switch, "INTERPRETED", fast)
    hidden, weight, targets = inputs()
    exact = (hidden @ weight.t()).detach().requires_grad_()
    expected = oracle(exact, targets, terms)
    capped = exact.detach() if terms.softcap is None else terms.softcap * torch.tanh(exact.detach() / terms.softcap)
    logits, ids = capped.float().to(device), targets.to(device)
    added, bounds = terms._replace(softcap=None), [0, 5, 6, 37, 37]
    parts = [(logits[:, a:b], Share(None, a, VOCAB)) for a, b in itertools.pairwise(bounds)]
    every = torch.stack([summarise(part, ids, share, added) for part, share in parts])
    assert every.shape == (4, 4 if terms.label_smoothing else 3, 11)
    found = [slopes(part, ids, every, share, added, 0.5) for part, share in parts]
    for losses, _ in found:
        assert losses.sum().item() == pytest.approx(expected.item() / 2, rel=1e-5)
    plain = oracle(wide := capped.clone().requires_grad_(), targets, added)
    gradient = torch.cat([slope for _, slope in found], dim=-1).double().cpu()
    torch.testing.assert_close(gradient, torch.autograd.grad(plain, wide)[0] / 2, rtol=1e-4, atol=1e-6)


def test_smoothing_and_z_loss_of_equal_logits() -> None:
    """Of V equal logits z each token's loss is log V + c (z + log V)^2, whatever is smoothed."""
    loss = cross_entropy(torch.full((3, 8), 2.0), torch.tensor([1, -100, 5]), Terms(None, 0.4, 0.1))
    log = torch.tensor(8.0).log()
    torch.testing.assert_close(loss, 2 * (log + 0.1 * (2 + log) ** 2))


def test_softcap_is_that_of_gemma2() -> None:
    config = Gemma2Config(
        vocab_size=VOCAB, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, head_dim=4, final_logit_softcapping=1.5,
    )  # fmt: skip
    model = Gemma2ForCausalLM(config).double().eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(100)
    ids = torch.randint(1, VOCAB, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(ids).logits
        hidden = model.model(ids).last_hidden_state
        found = linear_cross_entropy(hidden, model.lm_head.weight, ids.roll(-1, 1), chunks=4, softcap=1.5)
    expected = F.cross_entropy(logits.flatten(0, 1), ids.roll(-1, 1).flatten(), reduction="sum")
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("fast", [False, True])
def test_huge_logits_and_half_of_nothing(fast: bool, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No exponential overflows; a logit of minus infinity has no probability; no tokens cost nothing."""
    monkeypatch.setattr(switch, "INTERPRETED", fast)
    logits = torch.tensor([[1e30, -1e30, 0.0], [-torch.inf, 3.0, 3.0], [-1e30, -1e30, -1e30]], device=device)
    losses, found = cross_entropy_slopes(logits, torch.tensor([0, 1, 2], device=device))
    expected = torch.tensor([0.0, 2.0, 3.0]).clamp(min=1).log()
    torch.testing.assert_close(losses.cpu(), expected)
    assert found.isfinite().all()
    assert found[1, 0] == 0.0
    weight = torch.zeros(5, WIDTH, device=device, requires_grad=True)
    none = torch.zeros(2, 0, WIDTH, device=device, requires_grad=True)
    nothing = linear_cross_entropy(none, weight, torch.zeros(2, 0, dtype=torch.int64, device=device), chunks=4)
    nothing.backward()
    assert nothing.item() == 0.0
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.mark.parametrize("fast", [False, True])
def test_rows_that_do_not_count_are_not_looked_at(fast: bool, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "INTERPRETED", fast)
    logits = torch.full((2, 5), torch.nan, device=device)
    losses, found = cross_entropy_slopes(logits, torch.full((2,), -100, device=device))
    assert losses.tolist() == [0.0, 0.0]
    assert not found.any()


def test_a_token_that_is_not_there_is_nan_on_a_device(device: str) -> None:
    """Where the host does not look: the run stops at a loss that is no number."""
    from meshwright.kernels.fast.cross_entropy import cross_entropy_slopes as fast

    losses, _ = fast(torch.zeros(2, 5, device=device), torch.tensor([4, 5], device=device))
    assert losses.isnan().tolist() == [False, True]


def test_what_is_refused() -> None:
    hidden, weight, targets = inputs()
    with pytest.raises(ValueError, match="targets hold 37, expected ids below the vocabulary of 37"):
        linear_cross_entropy(hidden, weight, targets.clone().fill_(VOCAB))
    with pytest.raises(ValueError, match=r"targets has shape \[10\], expected \[11\]"):
        linear_cross_entropy(hidden, weight, targets[1:])
    with pytest.raises(ValueError, match=r"weight has shape \[37, 5\], expected \[37, 6\]"):
        linear_cross_entropy(hidden, weight[:, 1:], targets)
    with pytest.raises(TypeError, match=r"targets is torch\.float32"):
        linear_cross_entropy(hidden, weight, targets.float())
    for terms, words in (
        ({"label_smoothing": 1.5}, "label_smoothing is 1.5, expected from 0 to 1"),
        ({"z_loss": -1.0}, "z_loss is -1.0, expected 0 or more"),
        ({"softcap": 0.0}, "softcap is 0.0, expected a number above 0"),
        ({"chunks": 0}, "chunks is 0, expected 1 or more"),
    ):
        with pytest.raises(ValueError, match=words):
            linear_cross_entropy(hidden, weight, targets, **terms)  # type: ignore[arg-type]


class _Moved(TorchDispatchMode):
    """Bytes of operators that go through logits, but for views and for what looks at one logit of a token."""

    def __init__(self, least: int) -> None:
        super().__init__()
        self.bytes, self._least = 0, least

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view and func.name() not in ("aten::gather", "aten::scatter_add_"):
            leaves = [x for x in tree_leaves((args, kwargs, result)) if isinstance(x, Tensor)]
            self.bytes += sum(x.nbytes for x in leaves if x.numel() >= self._least)
        return result


@pytest.mark.parametrize(("dtype", "name"), [(torch.float32, "fp32"), (torch.bfloat16, "bf16")])
def test_a_share_moves_what_is_declared_in_plain_pytorch(dtype: torch.dtype, name: str) -> None:
    tokens, share = 24, 400
    logits = torch.randn(tokens, share, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, share, (tokens,))
    with _Moved(tokens * share) as moved:
        vocabulary_cross_entropy(logits, targets, None, 0, share).backward()
    sizes = {"tokens": tokens, "vocab": share}
    declared = sum(work(sizes, name).moved_bytes for work in (facts.summarised_plain, facts.sloped_plain))
    assert moved.bytes == declared


def test_a_share_moves_what_is_declared_by_triton(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensors that its two programs are given."""
    from meshwright.kernels.fast import cross_entropy as fast

    given: list[int] = []

    def counted(function: Any, programs: int, arguments: tuple[Any, ...], *others: Any) -> None:
        given.append(sum(x.nbytes for x in arguments if isinstance(x, Tensor)))

    monkeypatch.setattr(fast, "launch", counted)
    tokens, share = 24, 400
    logits, targets = torch.randn(tokens, share, device=device), torch.zeros(tokens, dtype=torch.int64, device=device)
    own = fast.summarise(logits, targets, 0, Terms())
    fast.slopes_into(logits, logits, targets, own.unsqueeze(0), Share(None, 0, share), Terms(), 1.0, share)
    sizes = {"tokens": tokens, "vocab": share}
    exchanged = own.nbytes  # others' numbers are read, as many as this rank's from each
    assert given == [facts.summarised(sizes, "fp32").moved_bytes, facts.sloped(sizes, "fp32").moved_bytes + exchanged]
