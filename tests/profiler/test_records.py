"""What a profile has found survives whatever happens to the process that found it."""

from __future__ import annotations

import json

import pytest

from meshwright.profiler import records

UNDER = {"workers": 2, "device": "cpu", "budget_s": 3.0}


def test_a_result_comes_back_under_the_same_settings(tmp_path):
    records.save(tmp_path, 1, "small operations", UNDER, {"launch_s": 3e-6})
    assert records.load(tmp_path, 1, "small operations", UNDER) == {"launch_s": 3e-6}
    assert records.load(tmp_path, 0, "small operations", UNDER) is None


@pytest.mark.parametrize(
    ("change", "holds"),
    [({"workers": 4}, False), ({"budget_s": 2.0}, True), ({"budget_s": 30.0}, False), ({"asked": {}}, False)],
)
def test_other_settings_ask_for_another_measurement_but_less_time_does_not(tmp_path, change, holds):
    records.save(tmp_path, 0, "compute", UNDER, {"a": 1})
    assert (records.load(tmp_path, 0, "compute", UNDER | change) is not None) is holds


@pytest.mark.parametrize("text", ["", '{"under": {"workers"', "[]", '{"under": 3, "result": {}}', '{"result": {}}'])
def test_a_file_that_was_not_written_whole_is_none(tmp_path, text):
    path = records.place(tmp_path, 0, "compute")
    path.parent.mkdir()
    path.write_text(text)
    assert records.load(tmp_path, 0, "compute", UNDER) is None


def test_pieces_of_a_part_are_on_disk_at_once_and_not_measured_again(tmp_path):
    path = tmp_path / "0" / "links.jsonl"
    asked = []

    def measured(key):
        asked.append(key)
        return len(asked)

    first = records.Kept(path, UNDER)
    assert [first.once(key, lambda key=key: measured(key)) for key in ("a", "b")] == [1, 2]
    with path.open("a") as file:
        file.write('{"key": "c", "val')  # the process died here
    second = records.Kept(path, UNDER)
    assert second.keys() == {"a", "b"}
    assert [second.once(key, lambda key=key: measured(key)) for key in ("a", "b", "c")] == [1, 2, 3]
    assert asked == ["a", "b", "c"]
    assert records.Kept(path, UNDER).keys() == {"a", "b", "c"}
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_pieces_under_other_settings_are_forgotten(tmp_path):
    path = tmp_path / "0" / "links.jsonl"
    records.Kept(path, UNDER).once("a", lambda: 1)
    assert records.Kept(path, UNDER | {"workers": 4}).keys() == set()


def test_only_what_all_have(tmp_path):
    kept = records.Kept(tmp_path / "0" / "links.jsonl", UNDER)
    kept.once("a", lambda: 1)
    kept.once("b", lambda: 2)
    kept.only({"b", "c"})
    assert kept.keys() == {"b"}


def test_a_finished_part_has_no_pieces_left(tmp_path):
    path = records.place(tmp_path, 0, "links")
    records.Kept(path.with_suffix(".jsonl"), UNDER).once("a", lambda: 1)
    records.save(tmp_path, 0, "links", UNDER, {})
    assert [each.name for each in path.parent.iterdir()] == ["links.json"]
