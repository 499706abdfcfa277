"""Generator: routing as of a trained model, for planning before any trace exists.

A token's score of expert e in a layer is b[e] + W[e] . z + V[e] . u + noise, and it takes the top_k largest: with
Gumbel noise that draws without replacement in proportion to exp(score) (Yellott 1977). z is the topic of its prompt
and u its own state, which drifts from token to token (u' = keep u + sqrt(1 - keep^2) fresh); both are the same in all
layers, so that a layer's choices tell of the next's, and tokens side by side choose alike. b is the popularity of
experts, of heavy tails (Student's t with 4 degrees of freedom): in real loads single experts stand out more than
normal ones would.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .trace import Ints, Trace, smallest

_MATCHED_TOKENS, _MATCHING_STEPS = 4096, 30


@dataclass(frozen=True, slots=True)
class Recipe:
    """Spreads of the parts of a score. The defaults were found by a random search for the statistics in `FITTED`."""

    popularity: float = 0.52  # standard deviation of b
    topic: float = 2.87  # of W . z
    state: float = 5.1  # of V . u
    topic_size: int = 17  # numbers in z
    state_size: int = 5  # numbers in u
    keep: float = 0.27  # of u from one token to the next
    prompt_tokens: int = 95  # mean length; lengths are geometric


FITTED: dict[str, tuple[float, float]] = {
    "load_variation": (0.230, 0.10),
    "load_peak": (1.783, 0.04),
    "entropy": (0.994, 0.01),
    "window_peak": (2.163, 0.09),
    "drift": (0.446, 0.20),
    "next_coverage": (0.513, 0.02),
    "adjacent_overlap": (0.267, 0.07),
    "lift_p1": (0.006, 1.05),
    "lift_p50": (0.633, 0.09),
    "lift_p99": (4.195, 0.19),
}
"""Statistics of DeepSeek-V2-Lite-Chat on 921 chat prompts (87,778 tokens, 26 layers, 64 experts, 6 a token; windows of
4,096 tokens), and the relative error that 24,576 tokens of 6 such layers (seed 0) stay within. Loads drift somewhat
more, and the strongest pairs are a sixth weaker, than in the real routing."""


def generate(
    tokens: int,
    layers: int,
    experts: int,
    top_k: int,
    *,
    seed: int = 0,
    recipe: Recipe | None = None,
    loads: Ints | None = None,
) -> Trace:
    """A trace with prompts. With `loads` [layers, experts], counts of a real run, b is such that experts are as
    popular as there. Equal arguments give an equal trace."""
    recipe, random = recipe or Recipe(), np.random.default_rng(seed)
    prompt = _prompts(tokens, recipe, random)
    topic = random.standard_normal((int(prompt[-1]) + 1, recipe.topic_size)).astype(np.float32)[prompt]
    state = _states(prompt, recipe, random)
    chosen = np.empty((tokens, layers, top_k), smallest(experts))
    for layer in range(layers):
        score = random.gumbel(size=(tokens, experts)).astype(np.float32)
        for inner, spread in ((topic, recipe.topic), (state, recipe.state)):
            weights = random.standard_normal((inner.shape[1], experts)).astype(np.float32)
            # of equal length for all experts: else the longer ones would be the popular ones
            score += inner @ (weights * (np.float32(spread) / np.linalg.norm(weights, axis=0)))
        # Student's t with 4 degrees of freedom has a variance of 2
        drawn = random.standard_t(4, experts) * recipe.popularity / np.sqrt(2)
        score += (drawn if loads is None else _matched(score, np.asarray(loads[layer]), top_k)).astype(np.float32)
        chosen[:, layer] = _largest(score, top_k)
    return Trace(chosen, experts, prompt)


def _prompts(tokens: int, recipe: Recipe, random: np.random.Generator) -> Ints:
    """Number of the prompt of each token."""
    begins = random.random(tokens) < 1 / recipe.prompt_tokens
    begins[0] = False
    return np.cumsum(begins)


def _states(prompt: Ints, recipe: Recipe, random: np.random.Generator) -> NDArray[np.float32]:
    """[tokens, state_size], each token's drifted from the one before it in its prompt."""
    fresh = random.standard_normal((len(prompt), recipe.state_size)).astype(np.float32)
    rest = np.float32(np.sqrt(1 - recipe.keep**2))
    state = fresh.copy()
    for token in range(1, len(prompt)):
        if prompt[token] == prompt[token - 1]:
            state[token] = recipe.keep * state[token - 1] + rest * fresh[token]
    return state


def _largest(score: NDArray[np.float32], top_k: int) -> Ints:
    return np.argpartition(-score, top_k - 1, axis=1)[:, :top_k]


def _matched(score: NDArray[np.float32], loads: Ints, top_k: int) -> NDArray[np.float64]:
    """[experts]: what to add to the scores so that experts are chosen as often as in `loads`, by a few steps on a part
    of the tokens: each expert's goes up by the logarithm of what it lacks."""
    part = score[:: -(-len(score) // _MATCHED_TOKENS)]
    wanted = np.maximum(loads, 0.5) / np.maximum(loads, 0.5).sum()
    added = np.zeros(len(loads))
    for _ in range(_MATCHING_STEPS):
        found = np.bincount(_largest(part + added.astype(np.float32), top_k).ravel(), minlength=len(loads)) + 0.5
        added += np.log(wanted * found.sum() / found)
    return added
