"""Put on PYTHONPATH of a launcher: makes one of its workers fail as CHAOS says, "RANK:STEP:WHAT".

Python imports a module of this name at its start. The worker is otherwise the real one.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

TARGET = "meshwright.runtime.train"
RANK, STEP, WHAT = os.environ.get("CHAOS", "-1:0:").split(":")


def strike() -> None:
    """What happens to this process."""
    if WHAT == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if WHAT == "hang":
        time.sleep(1000)
    if WHAT == "raise":
        raise ValueError("chaos as asked")


def patch(train: ModuleType) -> None:
    """Strike in the forward pass of the first layer that runs in that step."""
    from meshwright.runtime.blocks.transformer import Layer

    step, forward = train.Loop.step, Layer.forward
    at = {"step": 0}

    def counted(loop: Any) -> Any:
        at["step"] = loop.position.step + 1
        return step(loop)

    def struck(layer: Any, *args: Any, **options: Any) -> Any:
        if at["step"] == int(STEP):
            strike()
        return forward(layer, *args, **options)

    train.Loop.step = counted
    Layer.forward = struck


class Hook(importlib.abc.MetaPathFinder):
    """Finds the one module as everybody does, and patches it when it has been loaded."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if name != TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module = _then_patch(spec.loader.exec_module)  # type: ignore[method-assign]
        return spec


def _then_patch(execute: Callable[[ModuleType], None]) -> Callable[[ModuleType], None]:
    def execute_and_patch(module: ModuleType) -> None:
        execute(module)
        patch(module)

    return execute_and_patch


if os.environ.get("RANK") == RANK:
    sys.meta_path.insert(0, Hook())
