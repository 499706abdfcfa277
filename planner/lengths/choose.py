"""Choose: the plan of a job whose sequences have different lengths.

Configurations without a pipeline are looked at in the order of their bounds: the mean over drawn steps of what no
assignment takes less than. The best fixed degree is sought among all of them as well, each with its own best
assignment, so that what the mix gains is what mixing gains.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from statistics import fmean

import numpy as np

from ...errors import InfeasibleError, InputError, Problem
from ..configuration import Configuration
from ..cost.setting import Setting
from ..plan import Plan, Proof
from ..search.answer import plan_of
from ..search.feasible import legal, survey
from ..search.objective import Priced, ValueOf
from ..search.request import Progress, Request, check
from ..search.space import BINDING, CHUNK_TOKENS
from .bound import lower_bound_s
from .expected import Judge, drawn
from .mix import Expected, Mix
from .predict import STEPS, Outcome, outcome
from .prices import MOST_TOKENS, Prices, Table, capacity_of, degrees_of, prices_of, table_of

TRIED = 4
"""Drawn steps that configurations are compared by."""
FINALISTS = 2
"""How many of the best are solved again, thoroughly."""


@dataclass(frozen=True, slots=True, eq=False)
class Tried:
    """A configuration with its groups, and what the objective says of the mean of its drawn steps."""

    judge: Judge
    value: float


def find_mix(request: Request, progress: Progress | None = None) -> Plan:
    """The best plan for a job with lengths.

    Raises InputError where no configuration is legal or what is pinned cannot be, InfeasibleError where none holds the
    longest sequence.
    """
    started = time.perf_counter()
    check(request)
    _check(request)
    setting = request.setting()
    chooser = Chooser(request, setting, request.measure(setting))
    chooser.look(progress)
    best, others = chooser.ranked()
    return chooser.plan(best, others, time.perf_counter() - started)


def _check(request: Request) -> None:
    """Raises InputError with everything asked for that a job with lengths has no room for."""
    found, pins = [], request.pins
    if request.objective == "energy":
        rule = "energy is not known of groups that change"
        found.append(Problem("--objective", "energy", rule, "--objective time"))
    if request.risk is not None:
        rule = "the interval of a step whose lengths are drawn is not judged by risk"
        found.append(Problem("--risk", request.risk, rule, "without --risk"))
    if pins.pp not in (None, 1):
        found.append(Problem("--pin pp", pins.pp, "sequences of different lengths go through no pipeline here", "pp=1"))
    if pins.microbatch is not None:
        rule = "with --lengths a round holds what its assignment puts there"
        found.append(Problem("--pin microbatch", pins.microbatch, rule, "no such pin"))
    if pins.cp_algorithm == "usp":
        rule = "has one product of heads and rings, and groups have several sizes"
        found.append(Problem("--pin cp_algorithm", "usp", rule, "cp_algorithm=ring"))
    if found:
        raise InputError("command line", found)


@dataclass(frozen=True, slots=True, order=True)
class Wanted:
    """Something to look at, in the order of what the objective says of its bound. Without a judge memory was no matter
    for the bound; `degree` 0 is the mix of all."""

    bound: float
    order: int
    configuration: Configuration = field(compare=False)
    judge: Judge | None = field(default=None, compare=False)
    degree: int = field(default=0, compare=False)


class Chooser:
    """What was looked at for one request."""

    def __init__(self, request: Request, setting: Setting, value_of: ValueOf):
        self.request, self.setting, self.value_of = request, setting, value_of
        self.tables: dict[Configuration, Table] = {}
        self.mixes: list[Tried] = []
        self.fixed: Tried | None = None
        self.bound, self.candidates = float("inf"), 0
        self._queue: list[Wanted] = []

    def look(self, progress: Progress | None) -> None:
        """Best bound first, until nothing that is left can be better by more than the gap."""
        self._queue = [Wanted(self._optimistic(each), order, each) for order, each in enumerate(self._legal())]
        self.candidates = len(self._queue)
        heapq.heapify(self._queue)
        while self._queue:
            wanted = heapq.heappop(self._queue)
            if not self._may_be_better(wanted):
                continue
            if wanted.judge is None:
                self._refine(wanted)
            else:
                self._solve(wanted, wanted.judge)
            if progress:
                progress(self.candidates - sum(each.judge is None for each in self._queue), self.candidates)

    def _may_be_better(self, wanted: Wanted) -> bool:
        """Than the best mix, or the best fixed degree, whichever it is about."""
        close = 1 - self.request.gap
        mix, fixed = wanted.bound < self._best * close, wanted.bound < self._best_fixed * close
        if not mix and (wanted.judge is None or not wanted.degree):
            self.bound = min(self.bound, wanted.bound)
        return (mix or fixed) if wanted.judge is None else fixed if wanted.degree else mix

    def _refine(self, wanted: Wanted) -> None:
        """With the tokens that the devices hold: the mix of all degrees, and each of them alone."""
        configuration = self._with_chunks(wanted.configuration)
        prices = prices_of(self.setting, configuration, self._table(configuration))
        if self.request.pins.cp or self.request.pins.dp:
            prices = prices.among([configuration.mesh.cp])
        sets = [prices.degrees, *((degree,) for degree in prices.degrees if len(prices.degrees) > 1)]
        for place, degrees in enumerate(sets):
            part = prices.among(degrees)
            if degrees and part.holds(self.setting.job.seq_len):
                judge = self._judge(configuration, part)
                bound = self.value_of(configuration, judge.bound_s(TRIED))
                degree = degrees[0] if place else 0
                heapq.heappush(self._queue, Wanted(bound, wanted.order, configuration, judge, degree))

    def _solve(self, wanted: Wanted, judge: Judge) -> None:
        tried = self._tried(judge, quick=True)
        if not wanted.degree:
            self.mixes.append(tried)
            self.bound = min(self.bound, wanted.bound)
        if (wanted.degree or len(judge.prices.degrees) == 1) and tried.value < self._best_fixed:
            self.fixed = tried

    def _with_chunks(self, configuration: Configuration) -> Configuration:
        """With as few chunks of the loss as keep its logits below an eighth of the device: of a full rank, or of the
        tokens that a rank has where one round of even shares is enough."""
        setting, job = self.setting, self.setting.job
        if self.request.pins.logits_chunks or not setting.framework.chunks_loss:
            return configuration
        share = job.tokens_per_step // (configuration.mesh.dp * configuration.mesh.cp)
        tokens = min(capacity_of(setting, configuration, 1), max(share, CHUNK_TOKENS))
        logits = setting.framework.keeps.logit_bytes * tokens * setting.architecture.vocab / configuration.mesh.tp
        wanted = logits / (BINDING * setting.memory_limit_bytes)
        chunks = 1 << max(0, math.ceil(math.log2(max(1.0, wanted))))
        return replace(configuration, logits_chunks=max(1, min(chunks, tokens // CHUNK_TOKENS)))

    @property
    def _best(self) -> float:
        return min((tried.value for tried in self.mixes), default=float("inf"))

    @property
    def _best_fixed(self) -> float:
        return float("inf") if self.fixed is None else self.fixed.value

    def _tried(self, judge: Judge, *, quick: bool) -> Tried:
        step_s = fmean(step.time.total_s for step in judge.steps(TRIED, quick=quick))
        return Tried(judge, self.value_of(judge.configuration, step_s))

    def ranked(self) -> tuple[Tried, list[Tried]]:
        """The best, and the best of other tensor-parallel degrees. Raises InfeasibleError where nothing fits."""
        if not self.mixes:
            raise InfeasibleError(
                f"no configuration without a pipeline holds a sequence of {self.setting.job.seq_len} tokens",
                f"--seq-len {self.setting.job.seq_len // 2}",
            )
        quick = sorted(self.mixes, key=lambda tried: tried.value)
        self.fixed = None if self.fixed is None else self._tried(self.fixed.judge, quick=False)
        thorough = [self._tried(tried.judge, quick=False) for tried in quick[:FINALISTS]]
        found = [*thorough, *quick[FINALISTS:], *([] if self.fixed is None else [self.fixed])]
        found.sort(key=lambda tried: tried.value)
        shown = {found[0].judge.configuration.mesh.tp: found[0]}
        for each in found:
            shown.setdefault(each.judge.configuration.mesh.tp, each)
        return found[0], list(shown.values())[1 : self.request.top + 1]

    def plan(self, best: Tried, others: list[Tried], seconds: float) -> Plan:
        """The plan, with what is expected of it."""
        setting, found = self.setting, outcome(self.setting, best.judge, STEPS)
        prices, step_s = best.judge.prices, found.prediction.step_time_s
        mix = Mix(degrees=prices.degrees, capacity_tokens=tuple(map(int, prices.capacity)))
        lower = min(self.bound, best.value)
        proof = Proof(
            candidates=self.candidates,
            pruned=self.candidates - len(self.mixes),
            lower_bound_s=lower / best.value * step_s,
            gap=1 - lower / best.value,
            seconds=seconds,
        )
        told = [self._priced(outcome(setting, tried.judge, STEPS, quick=True)) for tried in others]
        plan = plan_of(self.request, setting, self._priced(found), told, proof)
        expected = found.expected
        if self.fixed is not None:
            fixed_s = outcome(setting, self.fixed.judge, STEPS).expected.step_time_s
            degree = self.fixed.judge.prices.degrees[0]
            expected = expected.model_copy(update={"fixed_degree": degree, "fixed_step_time_s": fixed_s})
        return plan.model_copy(update={"mix": mix, "expected": expected, "why": (*plan.why, *self._why(expected, mix))})

    def _priced(self, found: Outcome) -> Priced:
        configuration = found.judge.configuration
        return Priced(configuration, found.prediction, self.value_of(configuration, found.prediction.step_time_s))

    def _why(self, expected: Expected, mix: Mix) -> Iterator[str]:
        job = self.setting.job
        assert job.lengths is not None
        if cut := job.lengths.share_cut(job.seq_len):
            yield f"{cut:.2%} of the sequences are longer than {job.seq_len:,} tokens and are cut there."
        yield f"Every round is cut into {mix}; the assignment of a step is at most {expected.gap:.1%} from the best."
        if expected.gain_over_fixed is not None and len(mix.degrees) > 1:
            yield (
                f"The best fixed degree, {expected.fixed_degree}, takes {expected.gain_over_fixed:.2f} times as long;"
                f" rows of {job.seq_len:,} tokens packed plainly {expected.gain_over_packed:.2f} times."
            )

    def _legal(self) -> Iterator[Configuration]:
        """Legal configurations, each once, however its ranks are called data- or context-parallel."""
        pins, seen = replace(self.request.pins, pp=1, microbatch=1), set()
        degrees = (
            [pins.cp] if pins.cp else [1 << power for power in range(self.setting.cluster.num_devices.bit_length())]
        )
        for degree in degrees:
            for each in legal(self.setting, replace(pins, cp=degree), self.request.runnable):
                key = replace(_key(each), zero=each.zero, logits_chunks=1)
                if key not in seen and each.cp_algorithm != "usp":
                    seen.add(key)
                    yield each
        if not seen:
            survey(self.setting, pins, self.request.runnable)  # raises InputError, as nothing is legal

    def _table(self, configuration: Configuration) -> Table:
        key = _key(configuration)
        if key not in self.tables:
            self.tables[key] = table_of(self.setting, key, degrees_of(self.setting, configuration))
        return self.tables[key]

    def _optimistic(self, configuration: Configuration) -> float:
        """The bound if memory were no matter, nor the chunks that it asks for."""
        chunks = self.request.pins.logits_chunks or 1
        table = self._table(replace(configuration, logits_chunks=chunks))
        room = np.full(len(table.degrees), MOST_TOKENS)
        prices = Prices(configuration=configuration, table=table, degrees=table.degrees, capacity=room)
        steps = (lower_bound_s(prices.instance(lengths)) for lengths in drawn(self.setting, TRIED))
        return self.value_of(configuration, fmean(steps))

    def _judge(self, configuration: Configuration, prices: Prices) -> Judge:
        """With the widest group as the plan's context parallelism."""
        mesh = configuration.mesh
        cp = max(mesh.cp, prices.degrees[-1])
        dp = mesh.dp * mesh.cp // cp
        count = self.setting.job.global_batch // dp
        wide = replace(configuration, mesh=replace(mesh, cp=cp, dp=dp), microbatch=1, microbatches=count)
        return Judge(self.setting, replace(prices, configuration=wide), wide)


def _key(configuration: Configuration) -> Configuration:
    """What a table of prices depends on."""
    mesh = configuration.mesh
    one = replace(mesh, cp=1, dp=mesh.dp * mesh.cp)
    return replace(configuration, mesh=one, microbatches=1, zero=0, dp_replicate=1)
