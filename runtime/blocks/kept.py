"""Kept: results that recomputation finds again instead of computing them (LightSeq, arXiv:2310.03294, section 3.3).

A layer that is recomputed in its backward normally runs attention twice, and under context parallelism communicates
twice. Attention's output and log-sum-exp are all that its backward needs beside queries, keys and values. Whoever
recomputes passes `contexts` to `torch.utils.checkpoint.checkpoint` as `context_fn`; whoever wants to be spared calls
`recall`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

from torch import Tensor

Result = tuple[Tensor, Tensor]


class _Store:
    """Results of one forward pass through one recomputed block, in the order in which they were made."""

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.next: int | None = None  # of the results, while recomputing


_store: ContextVar[_Store | None] = ContextVar("kept", default=None)


def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """For the forward pass of a block, and for each time that it is recomputed."""
    store = _Store()
    return _entered(store, None), _Again(store)


def recall(compute: Callable[[], Result]) -> Result:
    """What `compute` returns; inside of a recomputation, what it returned the first time."""
    store = _store.get()
    if store is None:
        return compute()
    if store.next is not None:
        store.next += 1
        output, lse = store.results[store.next - 1]
        return output.detach(), lse
    output, lse = compute()
    store.results.append((output.detach(), lse))  # not what autograd is to attach the graph to: a circle never freed
    return output, lse


def is_kept() -> bool:
    """Whether results are kept here: then those must go through `recall` that cost more to compute than to keep."""
    return _store.get() is not None


@contextmanager
def _entered(store: _Store, start: int | None) -> Iterator[None]:
    store.next = start
    token = _store.set(store)
    try:
        yield
    finally:
        _store.reset(token)


class _Again(AbstractContextManager[None]):
    """Entered once for every recomputation: a split backward needs several."""

    def __init__(self, store: _Store):
        self._store = store

    def __enter__(self) -> None:
        self._inner = _entered(self._store, 0)
        self._inner.__enter__()

    def __exit__(self, *error: object) -> None:
        self._inner.__exit__(*error)  # type: ignore[arg-type]
