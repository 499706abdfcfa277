"""Which rank failed first: its own words, before those of the peers that it took with it."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import MeshwrightError, RunError

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

# How the loss of a peer reads on those that remain: gloo's file names, c10d's exceptions, NCCL's reports.
_SECOND_HAND = ("third_party/gloo", "gloo::", "DistNetworkError", "DistBackendError", "DistStoreError", "NCCL")
_HOPELESS = ("UnrecoverableError: ", "InputError: ")
_OURS = ("RunError: ", *_HOPELESS)


def run_error(
    failures: Mapping[int, ProcessFailure], error_files: Mapping[int, str], world: int, *, nnodes: int = 1
) -> RunError:
    """The error of the rank that failed first.

    `failures` is keyed by global rank, `error_files` by local rank: where each worker would report. With several
    nodes it may have failed on another one, whose agent shows it.
    """
    rank, failure = min(failures.items(), key=lambda item: _order(item[1]))
    log = Path(error_files[failure.local_rank]).with_name("stderr.log")
    elsewhere = "\n  it lost a peer: see what the other nodes say" if nnodes > 1 and _order(failure)[0] > 1 else ""
    return RunError(f"{_words(failure, log)}\n  on rank {rank} of {world}; its log: {log}{elsewhere}")


def held_up(error: RunError, stalls: Sequence[str]) -> RunError:
    """The error of a rank that waited in vain, after the ranks that it waited for, which raise nothing themselves."""
    if not stalls or not any(sign in str(error) for sign in _SECOND_HAND):
        return error
    return RunError("\n".join([*stalls, f"  so that a peer failed: {error}"]))


def first_cause(error: BaseException) -> BaseException:
    """What a wrapped error began with: the pipeline of PyTorch says only which stage failed. Ours are kept: they say
    more than their cause."""
    while error.__cause__ is not None and not isinstance(error, MeshwrightError):
        error = error.__cause__
    return error


def own_error(error_files: Mapping[int, str]) -> str:
    """What the first worker of an attempt to fail for a reason of its own reported; empty where none did."""
    reports = [
        json.loads(path.read_text()).get("message") for path in map(Path, error_files.values()) if path.is_file()
    ]
    own = [report for report in reports if not any(sign in _text(report) for sign in _SECOND_HAND)]
    return _text(min(own, key=_time)) if own else ""


def _time(message: Any) -> int:
    return int(message["extraInfo"]["timestamp"]) if isinstance(message, dict) else 0


def unrecoverable(error_files: Mapping[int, str]) -> RunError | None:
    """What a worker of the last attempt reported that the next attempt would meet again."""
    for path in map(Path, error_files.values()):
        if path.is_file():
            words = _text(json.loads(path.read_text()).get("message"))
            if words.startswith(_HOPELESS):
                return RunError(f"{_plain(words)}\n  its log: {path.with_name('stderr.log')}")
    return None


def _order(failure: ProcessFailure) -> tuple[int, int, int]:
    """Own errors first, then sudden deaths, then complaints about a peer, then those the agent ended."""
    reported = _reported(failure)
    if reported is not None:
        kind = 2 if any(sign in reported for sign in _SECOND_HAND) else 0
    else:
        kind = 3 if failure.exitcode == -signal.SIGTERM else 1
    return kind, failure.timestamp, failure.local_rank


def _reported(failure: ProcessFailure) -> str | None:
    """What torch's `record` wrote for the worker: `TypeName: text`, kept as text or inside a mapping."""
    message: Any = failure.error_file_data.get("message") if Path(failure.error_file).is_file() else None
    return None if message is None else _text(message)


def _text(message: Any) -> str:
    return str(message["message"] if isinstance(message, dict) else message)


def _plain(words: str) -> str:
    return next((words.removeprefix(name) for name in _OURS if words.startswith(name)), words)


def _words(failure: ProcessFailure, log: Path) -> str:
    reported = _reported(failure)
    if reported is not None:
        return _plain(reported)
    if failure.exitcode < 0:
        name = signal.Signals(-failure.exitcode).name
        hint = ": by hand, or by the kernel because memory ran out" if name == "SIGKILL" else ""
        return f"the worker process was killed by {name}{hint}"
    lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    return lines[-1] if lines else f"the worker process exited with code {failure.exitcode}"
