"""Trace files: what is written is read, and everything wrong is told with its line."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest

from meshwright.errors import InputError
from meshwright.planner.experts import Routed, Trace, read_trace, write_trace
from meshwright.planner.experts.loads import read_loads
from meshwright.planner.families import architecture
from meshwright.planner.families.load import load_model

ROUTED = Routed(layers=2, experts=4, top_k=2)


def row(**changes: Any) -> dict[str, Any]:
    good = {"step": 1, "stage": "pre_dispatch", "block": "decoder", "layer": 0, "rank": 0, "num_tokens": 2, "topk": 2}
    return {**good, "top_indices": [[0, 1], [2, 3]], **changes}


def written(path: Path, *rows: dict[str, Any] | str) -> Path:
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in rows))
    return path


def problems(path: Path, routed: Routed | None = ROUTED) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_trace(path, routed)
    assert caught.value.exit_code == 2
    return [str(each) for each in caught.value.problems]


def test_what_is_written_is_read(small: Trace, tmp_path: Path) -> None:
    steps, ranks = np.repeat([1, 2, 3], 500), np.tile(np.repeat([0, 1], 250), 3)
    trace = Trace(small.experts, 12, None, steps, ranks, (1, 3, 7))
    write_trace(trace, tmp_path / "trace.jsonl")
    again = read_trace(tmp_path / "trace.jsonl", Routed(3, 12, 3))
    assert (again.experts == trace.experts).all()
    assert (again.num_experts, again.layers) == (12, (1, 3, 7))
    assert again.step is not None
    assert again.rank is not None
    assert (again.step == steps).all()
    assert (again.rank == ranks).all()


def test_ids_of_tokens_are_written_and_read(small: Trace, tmp_path: Path) -> None:
    """In .jsonl with the first layer, in .npz beside all; halves keep them."""
    ids = np.arange(small.tokens)[::-1].copy()
    trace = Trace(small.experts, small.num_experts, token=ids)
    write_trace(trace, tmp_path / "trace.jsonl")
    np.savez(tmp_path / "trace.npz", experts=small.experts, token=ids)
    for name in ("trace.jsonl", "trace.npz"):
        found = read_trace(tmp_path / name)
        assert found.token is not None
        np.testing.assert_array_equal(found.token, ids)
        fit, held = found.split()
        np.testing.assert_array_equal(np.concatenate([fit.token, held.token]), ids)


@pytest.mark.parametrize("ids", [[1], [0, -1], [0, 2**22], ["a", "b"], 7])
def test_ids_that_are_none_are_told_with_their_line(ids: object, tmp_path: Path) -> None:
    path = written(tmp_path / "trace.jsonl", row(), row(layer=1, tokens=ids))
    assert any("trace.jsonl:2 tokens" in each for each in problems(path))


def test_ids_stand_in_all_lines_or_in_none(tmp_path: Path) -> None:
    lines = row(tokens=[5, 6]), row(layer=1), row(step=2), row(step=2, layer=1)
    (said,) = problems(written(tmp_path / "trace.jsonl", *lines))
    assert "1 of 2 have none" in said


def test_a_folder_of_ranks_is_one_trace_in_order_of_steps(tmp_path: Path) -> None:
    """Two data-parallel ranks and two steps; microbatches keep their order; loads beside them are not routing."""
    for rank in (0, 1):
        lines = [
            row(step=step, rank=rank, layer=layer, top_indices=[[rank, 2 + part], [rank, 3 - part]])
            for step in (1, 2)
            for part in (0, 1)
            for layer in (0, 1)
        ]
        written(tmp_path / f"rank-0000{rank}.jsonl", *lines)
    written(tmp_path / "loads-00.jsonl", {"step": 1, "layer": 0, "counts": [1, 2, 3, 4]})
    trace = read_trace(tmp_path, ROUTED)
    assert trace.experts.shape == (16, 2, 2)
    assert trace.step is not None
    assert trace.step.tolist() == [1] * 8 + [2] * 8
    assert trace.experts[:8, 0].tolist() == [[0, 2], [0, 3], [0, 3], [0, 2], [1, 2], [1, 3], [1, 3], [1, 2]]


def test_ranks_of_two_stages_are_joined_by_layer(tmp_path: Path) -> None:
    written(tmp_path / "rank-00000.jsonl", row(layer=0))
    written(tmp_path / "rank-00001.jsonl", row(layer=1, rank=1, top_indices=[[1, 0], [3, 2]]))
    assert read_trace(tmp_path, ROUTED).experts.tolist() == [[[0, 1], [1, 0]], [[2, 3], [3, 2]]]


def test_all_problems_are_told_with_their_lines(tmp_path: Path) -> None:
    path = written(
        tmp_path / "trace.jsonl",
        row(),
        row(top_indices=[[0, 4], [-1, 2]]),
        json.dumps(row())[:40],
        row(topk=3, top_indices=[[0, 1, 2], [1, 2, 3]]),
        row(num_tokens=3),
        row(top_indices=[[0, 1], [2]]),
        row(top_indices=[[0, 1], [2, 2.5]]),
        row(top_indices=[[0, 1], [2, True]]),
        row(top_indices=[[0, 1], [2, 2]]),
        row(step=None, rank=-1),
        "[1, 2]",
        row(top_indices=[[0, 10**30], [2, 3]]),
    )
    found = problems(path)
    assert [each.split()[0].rstrip(":") for each in found] == [
        f"trace.jsonl:{line}" for line in (2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 11, 12)
    ]
    assert "0 to 3" in found[0]
    assert "cut off" in found[1]
    assert "chooses 2" in found[2]
    assert "twice" in found[7]


def test_a_long_list_of_problems_is_cut_short(tmp_path: Path) -> None:
    found = problems(written(tmp_path / "trace.jsonl", *["{"] * 100))
    assert len(found) == 21
    assert "80 more" in found[-1]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row()], "2 layers"),
        ([row(), row(layer=1), row(layer=2)], "the trace 3"),
        ([row(), row(layer=1), row(layer=1)], "other tokens"),
        ([], "no routing"),
    ],
)
def test_layers_that_miss_or_differ(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    assert said in " ".join(problems(written(tmp_path / "trace.jsonl", *rows)))


def test_files_that_are_not_there_or_not_text(tmp_path: Path) -> None:
    assert "cannot be read" in problems(tmp_path / "none.jsonl")[0]
    (tmp_path / "bad.jsonl").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in problems(tmp_path / "bad.jsonl")[0]
    (tmp_path / "empty").mkdir()
    assert "no .jsonl" in problems(tmp_path / "empty")[0]


def test_npz(small: Trace, tmp_path: Path) -> None:
    path = tmp_path / "trace.npz"
    np.savez(path, experts=small.experts, prompt=small.prompt)
    assert (read_trace(path).experts == small.experts).all()
    assert "chooses 2" in problems(path, Routed(3, 12, 2))[0]
    assert "0 to 8" in problems(path, Routed(3, 9, 3))[0]
    np.savez(path, experts=small.experts, prompt=small.prompt[:4])
    assert "one number a token" in problems(path, None)[0]
    path.write_bytes(b"PK nothing")
    assert "cannot be read" in problems(path)[0]


def test_files_that_are_no_npz(small: Trace, tmp_path: Path) -> None:
    """Cut off, one array instead of several, something that is no array, and bytes that are not what was written."""
    path = tmp_path / "trace.npz"
    np.savez_compressed(path, experts=small.experts)
    whole = path.read_bytes()
    single = BytesIO()
    np.save(single, small.experts)
    other = BytesIO()
    with ZipFile(other, "w") as file:
        file.writestr("experts.npy", "nothing")
    damaged = whole[:200] + bytes(20) + whole[220:]
    for content in (whole[: len(whole) // 2], single.getvalue(), other.getvalue(), damaged, b""):
        path.write_bytes(content)
        assert "cannot be read" in problems(path)[0]


def test_loads_of_both_kinds(tmp_path: Path) -> None:
    (tmp_path / "loads.csv").write_text("1,2,3,4\n5,6,7,8\n")
    assert read_loads(tmp_path / "loads.csv", ROUTED).tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    lines = [{"step": step, "layer": layer, "counts": [1, 2, 3, layer]} for step in (1, 2) for layer in (4, 5)]
    written(tmp_path / "loads-00.jsonl", *lines)
    assert read_loads(tmp_path, ROUTED).tolist() == [[2, 4, 6, 8], [2, 4, 6, 10]]


def test_wrong_loads(tmp_path: Path) -> None:
    (tmp_path / "loads.csv").write_text("1,2,x,4\n5,6,7,8\n1,-2,3,4\n")
    with pytest.raises(InputError) as caught:
        read_loads(tmp_path / "loads.csv", ROUTED)
    assert [each.field for each in caught.value.problems] == ["loads.csv:1", "loads.csv:3"]
    (tmp_path / "loads.csv").write_text("1,2,3\n5,6,7\n")
    with pytest.raises(InputError, match="experts of 4"):
        read_loads(tmp_path / "loads.csv", ROUTED)
    written(tmp_path / "loads-00.jsonl", {"layer": 1, "counts": [1]}, {"layer": 1, "counts": [1, 2]}, "{")
    with pytest.raises(InputError) as caught:
        read_loads(tmp_path)
    assert [each.field for each in caught.value.problems] == ["loads-00.jsonl:2", "loads-00.jsonl:3"]


def test_what_models_say() -> None:
    assert Routed.of(architecture(load_model("deepseek-v3"))) == Routed(58, 256, 8, 8)
    with pytest.raises(InputError, match="no experts"):
        Routed.of(architecture(load_model("llama-3.1-8b")))


def test_halves_share_no_prompt(small: Trace) -> None:
    fit, held = small.split(seed=3)
    assert fit.tokens + held.tokens == small.tokens
    assert not set(fit.prompt.tolist()) & set(held.prompt.tolist())
