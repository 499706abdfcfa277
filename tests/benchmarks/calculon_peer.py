"""Calculon, from a checkout: its exhaustive search and its cost model."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

Json = dict[str, Any]
DTYPE = "float16"


class Case(NamedTuple):
    """Names of Calculon's own files, and the size of the job."""

    model: str
    system: str
    devices: int
    batch: int


@dataclass(frozen=True, slots=True)
class Optimum:
    """What the exhaustive search found."""

    rate: float  # samples a second
    execution: Json
    seconds: float
    points: int


class Peer:
    """Calculon, from a checkout."""

    def __init__(self, root: Path):
        sys.dont_write_bytecode = True  # the checkout stays as it is
        sys.path.insert(0, str(root))
        import calculon
        from calculon.llm import Llm, optimal_execution

        self._root, self._calculon, self._llm, self._search = root, calculon, Llm, optimal_execution
        self._log = logging.getLogger("calculon")
        self._log.setLevel(logging.CRITICAL)

    def file(self, folder: str, name: str) -> Json:
        """A model or a system; the latter without a second memory."""
        found: Json = json.loads((self._root / folder / f"{name}.json").read_text())
        return {**found, "mem2": {**found["mem2"], "GiB": 0}} if folder == "systems" else found

    def optimum(self, case: Case) -> Optimum:
        """By its published command, in this process."""
        points: list[int] = []
        self._search.mp = SimpleNamespace(Pool=lambda _: _Serial(points))
        parser = argparse.ArgumentParser()
        self._search.OptimalExecution.create_parser(parser.add_subparsers())
        with tempfile.TemporaryDirectory() as folder:
            system, out = Path(folder, "system.json"), Path(folder, "optimum.json")
            system.write_text(json.dumps(self.file("systems", case.system)))
            words = (self._root / "models" / f"{case.model}.json", case.devices, case.batch, DTYPE, system, out)
            args = parser.parse_args(["llm-optimal-execution", *map(str, words), "-m", "-c", "1"])
            started = time.process_time()
            self._search.OptimalExecution.run_command(self._log, args)
            seconds, best = time.process_time() - started, json.loads(out.read_text())["0"]
        return Optimum(best["stats"]["sample_rate"], best["execution"], seconds, sum(points))

    def rate(self, model: Json, system: Json, execution: Json) -> float | None:
        """Samples a second, None where its model refuses."""
        try:
            llm = self._llm(self._llm.Application(model), self._log)
            machine = self._calculon.System(system)
            llm.compile(machine, self._llm.Execution.from_json(execution))
            llm.run(machine)
        except (self._llm.Error, AssertionError):
            return None
        return float(llm.get_sample_rate())


class _Serial:
    """A pool of this process alone, so that its seconds are those of one core."""

    def __init__(self, points: list[int]):
        self._points = points

    def __enter__(self) -> _Serial:
        return self

    def __exit__(self, *_: object) -> None: ...

    def starmap(self, search: Callable[..., Any], params: Iterable[tuple[Any, ...]]) -> list[Any]:
        found = [search(*each) for each in params]
        self._points += [each[1] for each in found]
        return found
