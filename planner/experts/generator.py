"""Generator: routing as of a trained model, for planning before any trace exists.

A token's score of expert e in a layer is b[e] + W[e] . z + V[e] . u + noise, and it takes the top_k largest: with Gumbel
noise that draws without replacement in proportion to exp(score) (Yellott 1977). z is the topic of its prompt and u its own
state, which drifts from token to token (u' = keep u + sqrt(1 - keep^2) fresh); both are the same in all layers, so that a
layer's choices tell of the next's, and tokens side by side choose alike. b is the popularity of experts, of heavy tails
(Student's t with 4 degrees of freedom): in real loads single experts stand out more than normal ones would.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .trace import Ints, Trace, smallest


@dataclass(frozen=True, slots=True)
class Recipe:
    """Spreads of the parts of a score. The defaults meet the statistics of `FITTED`."""

    popularity: float = 0.2  # standard deviation of b
    topic: float = 0.6  # of W . z
    state: float = 1.6  # of V . u
    topic_size: int = 6  # numbers in z
    state_size: int = 12  # numbers in u
    keep: float = 0.45  # of u from one token to the next
    prompt_tokens: int = 100  # mean length; lengths are geometric


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
    """A trace with prompts. With `loads` [layers, experts], counts of a real run, experts are as popular as there: b is
    then the logarithm of the loads. Equal arguments give an equal trace."""
    recipe, random = recipe or Recipe(), np.random.default_rng(seed)
    prompt = _prompts(tokens, recipe, random)
    topic = random.standard_normal((int(prompt[-1]) + 1, recipe.topic_size)).astype(np.float32)[prompt]
    state = _states(prompt, recipe, random)
    chosen = np.empty((tokens, layers, top_k), smallest(experts))
    for layer in range(layers):
        score = _popularity(layer, experts, recipe, loads, random)[None, :]
        for inner, spread in ((topic, recipe.topic), (state, recipe.state)):
            weights = random.standard_normal((inner.shape[1], experts)).astype(np.float32)
            # of equal length for all experts: else the longer ones would be the popular ones
            score = score + inner @ (weights * (np.float32(spread) / np.linalg.norm(weights, axis=0)))
        score = score + random.gumbel(size=score.shape).astype(np.float32)
        chosen[:, layer] = np.argpartition(-score, top_k - 1, axis=1)[:, :top_k]
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


def _popularity(
    layer: int, experts: int, recipe: Recipe, loads: Ints | None, random: np.random.Generator
) -> NDArray[np.float32]:
    drawn = random.standard_t(4, experts) * recipe.popularity / np.sqrt(2)  # of standard deviation `popularity`
    if loads is None:
        return np.asarray(drawn, np.float32)
    share = np.maximum(np.asarray(loads[layer], float), 0.5)
    return np.asarray(np.log(share / share.mean()), np.float32)
