"""Part: one thing that a profile measures, in time of its own, and how what was found gets into the cluster file.

The profile is the list PARTS. To add to it: a module with `measure(setting) -> dict` (runs in every worker, may import
torch) and, where the file has a place for it, `assemble(cluster, found)` (runs once, in the process that writes); one
line in the list. Nothing here imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from .records import Kept

if TYPE_CHECKING:
    import torch

Result = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """What the profile is to be good for; the model as `plan` takes it. Without a model: for any."""

    model: str | None = None
    seq_len: int = 4096
    global_batch: int = 256


def _nobody(_: str) -> None:
    """Listens."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Where, with whom and how long a part is measured. All workers run the same part at once."""

    device: torch.device
    rank: int
    world: int
    budget_s: float  # of this part
    folder: Path  # for files of its own; the result is written by whoever called
    asked: Asked
    announce: Callable[[str], None]  # what of the part begins, for people
    kept: Kept = field(default_factory=Kept)
    local_rank: int = 0
    threads: int = 1
    note: Callable[[str], None] = _nobody  # what of the part could not be measured, and why

    def once(self, key: str, measure: Callable[[], Any]) -> Any:
        """What `measure` finds (anything JSON can hold), at once on disk: an interrupted part goes on behind it.

        In a part that `talks`, a key is kept only where every worker has it, so that all call what they call together.
        """
        return self.kept.once(key, measure)


@dataclass(frozen=True, slots=True)
class Part:
    """`measures` and `assembles` are `module:function` of this package, imported when they are called."""

    name: str
    share: float  # of the budget, over the sum of all parts that are measured; 0 for what takes no time
    measures: str
    assembles: str = ""
    least_s: float = 0.0  # with less it is left out: a note, or refused where it was asked for
    talks: bool = False  # workers call collectives of one another in it; noted as not measured once they cannot
    regroups: bool = False  # its `assemble` may divide node groups: it comes last, the others find those of `Found`
    of_model: bool = False  # only where a model was given; what it finds holds for that model, length and batch

    def measure(self, setting: Setting) -> Result:
        """What this worker finds, as JSON can hold it. May raise anything: it becomes a note."""
        found: Result = _function(self.measures)(setting)
        return found

    def assemble(self, cluster: dict[str, Any], found: Found) -> None:
        """Write what was found into a cluster as its file has it. May raise ValueError or InputError: a note."""
        if self.assembles:
            _function(self.assembles)(cluster, found)


@dataclass(frozen=True, slots=True)
class Found:
    """Results by rank, and the ranks of every node group of the cluster that is written."""

    results: Sequence[Mapping[str, Result]]  # of each rank: part -> result; a part that failed there is missing
    groups: Sequence[Sequence[int]]

    def of(self, part: str, group: int | None = None) -> list[Result]:
        """Of all ranks (or those of a node group) that have it, in order of rank."""
        ranks = range(len(self.results)) if group is None else self.groups[group]
        return [self.results[rank][part] for rank in ranks if part in self.results[rank]]


def _function(path: str) -> Callable[..., Any]:
    module, _, name = path.partition(":")
    function: Callable[..., Any] = getattr(import_module(f".{module}", __package__), name)
    return function


PARTS: tuple[Part, ...] = (
    Part("machine", 0, "facts:measure"),
    Part("detect", 0, "detect.machine:measure", "detect.machine:assemble"),
    Part("compute", 0.65, "facts:compute"),
    Part("links", 0.35, "links:measure", "links_file:assemble", talks=True, regroups=True),
    Part("overlap", 0.1, "overlap:measure", "overlap:assemble", least_s=0.3, talks=True),
    Part("kernels", 1.0, "kernels:measure", "learned:assemble", least_s=2),
    Part("model layers", 4.0, "model_layers:measure", "model_layers:assemble", least_s=1, talks=True, of_model=True),
)
ESSENTIAL = frozenset({"machine", "compute"})
"""Without these of at least one worker there is no cluster file."""


@dataclass(frozen=True, slots=True)
class Allotted:
    """Seconds of each part that is measured, in order, and the parts for which the budget is too small."""

    seconds: dict[str, float]
    left_out: dict[str, str]  # part -> why


MEASURING = 0.7
"""Of the budget; the rest is for starting Python and torch."""


def allot(budget_s: float, asked: Asked, parts: Sequence[Part] = PARTS) -> Allotted:
    """Share the budget of a profile out; the last part that would get too little goes first.

    Raises InputError where that part is about the model that was asked for.
    """
    wanted = [part for part in parts if asked.model is not None or not part.of_model]
    left_out: dict[str, str] = {}
    while True:
        seconds = dict(_shares(MEASURING * budget_s, wanted))
        short = [part for part in wanted if seconds[part.name] < part.least_s]
        if not short:
            return Allotted(seconds, left_out)
        last = short[-1]
        needed = _enough_s(last, parts, asked)
        if last.of_model:
            rule = f"is too little to measure {last.name} of {asked.model}"
            raise InputError.single("command line", "--budget", f"{budget_s:g}s", rule, f"{needed}s")
        left_out[last.name] = f"a budget of {budget_s:g} s is too little, {needed} s are enough"
        wanted.remove(last)


def _enough_s(part: Part, parts: Sequence[Part], asked: Asked) -> int:
    """Of a whole budget, for a part beside all others."""
    wanted = [each for each in parts if asked.model is not None or not each.of_model]
    total = sum(each.share for each in wanted)
    enough = math.ceil(part.least_s * total / (MEASURING * part.share))
    return enough + (dict(_shares(MEASURING * enough, wanted))[part.name] < part.least_s)  # by a rounding


def _shares(budget_s: float, parts: Sequence[Part]) -> Iterator[tuple[str, float]]:
    total = sum(part.share for part in parts)
    for part in parts:
        yield part.name, budget_s * part.share / total
