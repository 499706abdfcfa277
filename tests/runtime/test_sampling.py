"""Sampled steps: they train as any other, their parts sum to the step, and what is slow is named."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
import torch
from harness import run_ranks
from hypothesis import given
from hypothesis import strategies as st
from plans import LLAMA, make_plan
from rich.console import Console
from sampling_ranks import both_ways, sampled_step
from torch._dynamo.testing import CompileCounter

from meshwright.display.training import show_result
from meshwright.kernels import vocabulary
from meshwright.planner.plan import Breakdown, Plan
from meshwright.runtime import compat
from meshwright.runtime.components import KINDS, Stopwatch, sampling, span, timed
from meshwright.runtime.sampling import Sampler
from meshwright.runtime.verdict import PARTS, measured_parts, outlier, predicted_parts, slowest, verdict
from meshwright.runtime.watching import RECENT, Watching

CPU = torch.device("cpu")


class Clock:
    """Time that stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_spans_count_without_what_lies_in_them_and_sum_to_the_step() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    with watch.span("other"):
        clock.now += 1
        with watch.span("compute"):
            clock.now += 10
            with watch.span("tp"):
                clock.now += 3
                with watch.span("dp"):
                    clock.now += 0.5
            clock.now += 10
        with watch.span("optimizer"):
            clock.now += 2
    nothing = dict.fromkeys(KINDS, 0.0)
    assert watch.seconds() == nothing | {"other": 1, "compute": 20, "tp": 3, "dp": 0.5, "optimizer": 2}


@given(st.recursive(st.floats(0, 1e3), lambda inner: st.tuples(st.sampled_from(KINDS), st.lists(inner, max_size=4))))
def test_any_nesting_sums_to_the_time_that_has_passed(tree: Any) -> None:
    clock = Clock()
    watch = Stopwatch(clock)

    def play(part: Any) -> None:
        if isinstance(part, float):
            clock.now += part
            return
        with watch.span(part[0]):
            for inner in part[1]:
                play(inner)

    play(("other", [tree]))
    assert sum(watch.seconds().values()) == pytest.approx(clock.now, abs=1e-9)
    assert min(watch.seconds().values()) >= -1e-9


def test_outside_of_sampled_steps_nothing_is_timed() -> None:
    sampler = Sampler(3, CPU)
    assert [step for step in range(1, 10) if sampler.takes(step)] == [3, 6, 9]
    assert not any(Sampler(0, CPU).takes(step) for step in range(10))
    with sampler.step(1), span("tp"):
        assert not sampling()
    assert sampler.table() is None
    with timed(Stopwatch()):
        assert sampling()
    with pytest.raises(ZeroDivisionError), timed(Stopwatch()):  # what fails in a sampled step leaves nothing behind
        _ = 1 / 0
    assert not sampling()


def test_what_is_compiled_is_not_compiled_again_for_a_sampled_step() -> None:
    def doubled(x: torch.Tensor) -> torch.Tensor:
        with span("cp"):
            return x * 2

    counter, watch = CompileCounter(), Stopwatch()
    compiled = torch.compile(doubled, backend=counter)
    compiled(torch.ones(3))
    with timed(watch):
        assert compiled(torch.ones(3)).tolist() == [2, 2, 2]
    torch._dynamo.reset()
    assert counter.frame_count == 1
    assert watch.spans == []


def test_the_exchange_of_a_shared_vocabulary_is_of_tensor_parallelism(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in the kernels, which know of no spans. What was put around it, and around FSDP's, is taken away again when
    a step fails."""
    watch, opened = Stopwatch(), []

    def gathering(own: torch.Tensor, group: Any) -> None:
        opened.append([each.kind for each in watch.spans if each.end is None])
        assert vars(compat.FSDPParamGroup) != before
        raise ConnectionError("lost")

    monkeypatch.setattr(vocabulary, "gathering", gathering)
    before = dict(vars(compat.FSDPParamGroup))
    group: Any = object()
    with pytest.raises(ConnectionError, match="lost"), timed(watch), span("compute"):
        vocabulary.gathered(torch.zeros(3, 4), group)
    assert opened == [["compute", "tp"]]
    assert vocabulary.gathering is gathering
    assert vars(compat.FSDPParamGroup) == before


MOE = {
    "architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2,
    "sliding_window": None,
}  # fmt: skip

MESHES: dict[str, tuple[dict[str, Any], dict[str, Any], set[str]]] = {
    "tp": (LLAMA, {"tp": 2}, {"tp"}),
    "tp-sp": (LLAMA, {"tp": 2, "sp": True}, {"tp"}),
    "cp": (LLAMA, {"cp": 2}, {"cp", "dp"}),
    "pp": (LLAMA, {"pp": 2}, {"pp"}),
    "zero-0": (LLAMA, {"dp": 2, "zero": 0}, {"dp"}),
    "zero-3": (LLAMA, {"dp": 2, "zero": 3}, {"dp"}),
    "ep": ({**LLAMA, **MOE}, {"dp": 2, "ep": 2}, {"ep", "dp"}),
}


SLOW = ("tp", "cp", "zero-0")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in MESHES]
)
def test_a_sampled_step_is_the_same_step_to_the_bit_and_finds_its_collectives(name: str) -> None:
    model, mesh, kinds = MESHES[name]
    for differ, own, took_s in run_ranks(2, both_ways, make_plan(model, **mesh)):
        assert differ == []
        assert {kind for kind in ("tp", "cp", "ep", "pp", "dp") if own[kind] > 0} == kinds
        assert 0 < own["compute"] < took_s
        assert sum(own.values()) <= took_s


def planned(plan: Plan, table: list[dict[str, float]]) -> Plan:
    """The plan, as if it had foretold what this table measured."""
    parts = measured_parts(table)
    foretold = Breakdown(**{part: max(0.0, parts[part]) for part in PARTS if part != "other"}, bubble=0.0, offload=0.0)
    whole_s = sum(parts.values())
    update = {"breakdown_s": foretold, "step_time_s": whole_s, "step_time_interval_s": (0.9 * whole_s, 1.1 * whole_s)}
    return plan.model_copy(update={"predicted": plan.predicted.model_copy(update=update)})


@pytest.mark.parametrize(
    "mesh",
    [{"tp": 2}, *(pytest.param(each, marks=pytest.mark.slow) for each in ({"dp": 2, "zero": 3}, {"pp": 2}))],
    ids=str,
)
def test_a_rank_that_sleeps_is_named(mesh: dict[str, Any]) -> None:
    plan = make_plan(LLAMA, **mesh)
    table = run_ranks(2, sampled_step, plan, 1, None, 0.1)[0]
    found = verdict(plan, table)
    assert (found.part, found.rank, found.link) == ("compute", 1, None)
    assert "rank 1" in found.words
    assert slowest(table) == 1


@pytest.mark.parametrize(("mesh", "kind"), [({"tp": 2}, "tp"), ({"dp": 2, "zero": 3}, "dp")], ids=str)
def test_collectives_that_sleep_are_named_with_their_links(mesh: dict[str, Any], kind: str) -> None:
    plan = make_plan(LLAMA, **mesh)
    table = run_ranks(2, sampled_step, plan, None, kind, 0.05)[0]
    found = verdict(plan, table)
    assert (found.part, found.rank, found.link) == (kind, None, "shared-memory")
    assert "shared-memory" in found.words


ROW = dict.fromkeys(KINDS, 0.0) | {"compute": 1.0, "tp": 0.2, "optimizer": 0.1, "other": 0.02}


def four(**of_last: float) -> list[dict[str, float]]:
    return [dict(ROW), dict(ROW), dict(ROW), dict(ROW) | of_last]


def test_the_slowest_rank_is_one_that_its_peers_wait_for() -> None:
    plan = make_plan(LLAMA, dp=2, tp=2)
    waiting = [dict(ROW) | {"tp": 0.7}] * 3 + [dict(ROW) | {"compute": 1.5}]
    assert outlier(plan, waiting) == 3
    assert measured_parts(waiting)["tp"] == 0.2  # not what the others wait
    assert outlier(plan, four(compute=1.19)) is None
    alike = planned(plan, four())
    every = [dict(ROW) | {"compute": 2.0}] * 4
    found = verdict(alike, every)
    assert (found.part, found.rank) == ("compute", None)
    assert "on all ranks" in found.words


def test_what_waits_for_the_pipeline_is_held_against_transfers_and_bubble() -> None:
    plan = make_plan(LLAMA, pp=2)
    table = [dict(ROW) | {"pp": 0.4, "wait": 0.1}, dict(ROW) | {"pp": 0.4, "wait": 0.1, "compute": 1.01}]
    assert measured_parts(table)["pp"] == pytest.approx(0.5)
    assert sum(measured_parts(table).values()) == pytest.approx(sum(table[1].values()))
    before = plan.predicted.breakdown_s
    assert predicted_parts(plan)["pp"] == before.pp + before.bubble
    found = verdict(planned(plan, four()), table)
    assert (found.part, found.words.split(" takes")[0]) == ("pp", "waiting for the pipeline (transfers and bubble)")
    found = verdict(planned(make_plan(LLAMA, dp=2), four()), table)  # whose ranks have none to wait for
    assert found.words.startswith("waiting for other ranks takes")


def test_nothing_is_said_while_steps_are_as_planned_and_once_when_they_are_not() -> None:
    table = four()
    plan = planned(make_plan(LLAMA, dp=2, tp=2), table)
    whole_s = plan.predicted.step_time_s
    watching = Watching(plan)

    def steps(slower: float, every: int, taken: list[dict[str, float]]) -> list[Any]:
        found = []
        for number in range(100):
            if number % every == 0:
                watching.sampled(taken)
            found.append(watching.step(whole_s * slower, False))
        return found

    assert not any(steps(1.09, 20, table))
    assert watching.result()["warnings"] == []
    late = steps(1.2, 1, four(compute=1.3))
    (warning,) = (each for each in late if each is not None)
    assert late.index(warning) == RECENT // 2 - 1  # half of them slow: the median of ten lies between 1.09 and 1.2
    assert (warning["component"], warning["rank"]) == ("compute", 3)
    assert watching.result()["warnings"] == [warning["message"]]


def test_a_sample_from_before_does_not_say_why_it_is_slow_now() -> None:
    plan = planned(make_plan(LLAMA, dp=2, tp=2), four())
    whole_s = plan.predicted.step_time_s
    watching = Watching(plan)
    watching.sampled(four(compute=4.0))
    assert watching.step(4 * whole_s, False) is None  # not warm
    assert not any(watching.step(whole_s, False) for _ in range(20))
    watching.sampled(four())
    assert not any(watching.step(time_s, False) for time_s in (whole_s, *[2 * whole_s] * 20))
    watching.sampled(four(compute=1.1, dp=1.6))
    warning = watching.step(2 * whole_s, False)
    assert warning is not None
    assert warning["component"] == "dp"
    unseen = Watching(plan)
    unseen.sampled(four(compute=4.0))
    warnings = [unseen.step(2 * whole_s, number == 49) for number in range(50)]
    assert warnings[:-1] == [None] * 49
    assert "component" not in warnings[-1]


def test_samples_of_the_first_steps_are_no_part_of_the_mean_where_there_are_others() -> None:
    watching = Watching(planned(make_plan(LLAMA, dp=2, tp=2), four()))
    for number in range(10):
        watching.sampled(four(compute=9.0) if number < 5 else four(compute=2.0))
        mean = watching.result()["components_s"]["measured"]["compute"]
        assert mean == pytest.approx(9.0 if number < 5 else 2.0)
        watching.step(1.0, False)


def test_the_table_at_the_end_has_parts_below_the_step_time_that_they_are_of() -> None:
    plan = planned(make_plan(LLAMA, dp=2, tp=2), four())
    watching = Watching(plan)
    watching.sampled(four())
    gibi = 2**30
    result = {
        "steps": 9, "status": "finished", "first_loss": 5.0, "recent_loss": 4.0, "checkpoint": "c", "export": None,
        "run": "r",
        "measured_step_time_s": 2.0, "predicted_step_time_s": 1.0, "peak_memory_bytes": 3 * gibi,
        "predicted_peak_memory_bytes": 2 * gibi, **watching.result(),
    }  # fmt: skip
    console = Console(file=StringIO(), width=100)
    show_result(console, result)
    shown = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    cells = [[each.strip() for each in line.strip("│").split("│")] for line in shown if line.startswith("│")]
    assert [name for name, _ in cells] == [
        "steps", "loss", "step time, measured", "step time, predicted", "of it compute", "of it tp", "of it optimizer",
        "of it other", "peak memory, measured", "peak memory, predicted", "checkpoint", "run folder",
    ]  # fmt: skip
    assert cells[3][1] == "1.00 s (-50%)"
    assert cells[4][1] == "1.00 s (predicted 1.00 s)"


def test_a_warning_waits_for_a_sample_but_not_beyond_the_last_step() -> None:
    plan = planned(make_plan(LLAMA, dp=2, tp=2), four())
    slow_s = 2 * plan.predicted.step_time_s
    watching = Watching(plan)
    assert not any(watching.step(slow_s, False) for _ in range(50))
    watching.sampled(four(compute=2.5))
    warning = watching.step(slow_s, False)
    assert warning is not None
    assert (warning["rank"], warning["component"]) == (3, "compute")
    blind = Watching(plan)
    found = [blind.step(slow_s, number == 49) for number in range(50)]
    assert found[:-1] == [None] * 49
    assert found[-1] is not None
    assert "slower than planned" in found[-1]["message"]


def test_a_sample_is_written_once_and_its_mean_beside_the_plan() -> None:
    plan = planned(make_plan(LLAMA, dp=2, tp=2), four())
    watching = Watching(plan)
    assert watching.newest() == {}
    assert watching.result() == {"components_s": None, "warnings": []}
    watching.sampled(four())
    assert watching.newest() == {"components_s": measured_parts(four()), "slowest_rank": 0}
    assert watching.newest() == {}
    watching.sampled(four(compute=3.0))
    both = watching.result()["components_s"]
    assert both["measured"]["compute"] == pytest.approx(2.0)
    assert both["predicted"] == predicted_parts(plan)
