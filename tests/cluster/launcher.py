"""Launcher: torch is imported once, and every rank is a fork of this process, in the namespace of its host."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_LEAST_PRIORITY = 1


class RankError(Exception):
    """A rank failed, or was not done in time."""


def run_ranks(
    function: Callable[[int], Any], namespaces: Sequence[str | None], limit_s: float, allow: Sequence[int] = ()
) -> list[Any]:
    """What `function(rank)` returns on every rank (as JSON), each in the namespace given for it.

    Nothing outlives this call, nor the process that made it, whatever ends it. Raises RankError with the ranks that
    failed, but for those in `allow`, of which the result is None. Call it before torch has started threads.
    """
    ranks: list[tuple[int, int]] = []
    texts = dict.fromkeys(range(len(namespaces)), b"")
    try:
        for rank, name in enumerate(namespaces):
            ranks.append(_fork(function, rank, name))
        _read([pipe for _, pipe in ranks], texts, time.monotonic() + limit_s)
    finally:
        for pid, pipe in ranks:
            os.close(pipe)
            os.kill(pid, signal.SIGKILL)
        codes = [os.waitpid(pid, 0)[1] for pid, _ in ranks]
    wrong = [rank for rank in texts if not texts[rank] and rank not in allow]
    if wrong:
        raise RankError(f"ranks {wrong} failed or were not done in {limit_s:g} s; exit codes {codes}")
    return [json.loads(texts[rank]) if texts[rank] else None for rank in range(len(ranks))]


def _fork(function: Callable[[int], Any], rank: int, namespace: str | None) -> tuple[int, int]:
    sys.stdout.flush()
    reading, writing = os.pipe()
    parent, pid = os.getpid(), os.fork()
    if pid:
        os.close(writing)
        return pid, reading
    try:
        os.close(reading)
        _end_with(parent)
        _prepare(namespace)
        text = json.dumps(function(rank)).encode()
        while text:
            text = text[os.write(writing, text) :]
        os.close(writing)
        time.sleep(3600)  # whoever started us ends us: sockets stay open until all are done
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    os._exit(1)


def _end_with(parent: int) -> None:
    """Be killed when the process that started us is gone: a test that took too long is killed without a word."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before
        os._exit(1)


def _prepare(namespace: str | None) -> None:
    if namespace is not None:
        enter_namespace(namespace)
    os.environ["GLOO_SOCKET_IFNAME"] = "veth0" if namespace is not None else "lo"
    be_prompt()


def enter_namespace(name: str) -> None:
    """os.setns came with Python 3.12. Raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    place = os.open(Path("/var/run/netns") / name, os.O_RDONLY)
    try:
        if library.setns(place, _NEW_NETWORK):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), name)
    finally:
        os.close(place)


def be_prompt() -> bool:
    """Run as soon as there is something to do, whatever else this machine does; whether that is allowed here."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(_LEAST_PRIORITY))
    except (OSError, AttributeError):
        return False
    return True


def _read(pipes: list[int], texts: dict[int, bytes], until_s: float) -> None:
    """Until every pipe has ended, or the time is over."""
    open_pipes = dict(zip(pipes, texts, strict=True))
    while open_pipes and (left_s := until_s - time.monotonic()) > 0:
        ready, _, _ = select.select(list(open_pipes), [], [], left_s)
        for pipe in ready:
            data = os.read(pipe, 1 << 20)
            if data:
                texts[open_pipes[pipe]] += data
            else:
                del open_pipes[pipe]
