"""What counts as a checkpoint: published, whole, and what its manifest says."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshwright.runtime.manifest import (
    Manifest,
    complete_checkpoints,
    damage,
    folder_name,
    prune,
    publish,
    read_manifest,
    record_files,
    remove_unfinished,
    set_aside,
)

CONTENT = {"__0_0.distcp": bytes(range(256)) * 4, "__1_0.distcp": b"weights", ".metadata": b"pickle"}


def make(root: Path, step: int) -> Path:
    temporary = root / f"{folder_name(step)}.tmp"
    temporary.mkdir(parents=True)
    for name, content in CONTENT.items():
        (temporary / name).write_bytes(content)
    files = record_files(temporary, CONTENT)
    manifest = Manifest(step=step, sample_index=8 * step, plan="f", world=2, files=files)
    publish(temporary, root / folder_name(step), manifest)
    return root / folder_name(step)


def test_a_published_checkpoint_is_whole(tmp_path: Path) -> None:
    folder = make(tmp_path, 120)
    assert folder.name == "step-00000120"
    assert damage(folder) == []
    assert read_manifest(folder).sample_index == 960
    assert not list(tmp_path.glob("*.tmp"))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_flipped_bit_is_found_and_its_file_named(tmp_path: Path, data: st.DataObject) -> None:
    folder = make(tmp_path / str(len(list(tmp_path.iterdir()))), 1)
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    found = damage(folder)
    assert found
    if path.name in CONTENT:
        assert [why.split(":")[0] for why in found] == [path.name]


def test_any_flipped_bit_of_the_manifest_is_found(tmp_path: Path) -> None:
    """All of them: a space that becomes an exclamation mark is a tag to a YAML reader, and changes nothing."""
    folder = make(tmp_path, 1)
    path, found = folder / "manifest.json", []
    content = path.read_bytes()
    for place, bit in product(range(len(content)), range(8)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
        if not damage(folder):
            found.append((place, bit))
    assert found == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "__1_0.distcp").unlink(), "__1_0.distcp: missing"),
        (lambda folder: (folder / "__1_0.distcp").write_bytes(b"weight"), "__1_0.distcp: 6 bytes, not 7"),
        (lambda folder: (folder / "__1_0.distcp").write_bytes(b"weighty"), "__1_0.distcp: its content has changed"),
        (lambda folder: (folder / "manifest.json").unlink(), "cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "not valid JSON"),
    ],
)
def test_damage_is_described(tmp_path: Path, change: object, message: str) -> None:
    folder = make(tmp_path, 7)
    assert callable(change)
    change(folder)
    assert any(message in why for why in damage(folder))


def test_files_and_manifest_of_another_step_are_found(tmp_path: Path) -> None:
    older, newer = make(tmp_path, 1), make(tmp_path, 2)
    (newer / "manifest.json").write_text((older / "manifest.json").read_text())
    assert any("is not that of the folder step-00000002" in why for why in damage(newer))
    content = json.loads((older / "manifest.json").read_text())
    (older / "manifest.json").write_text(json.dumps({**content, "sample_index": 9}))
    assert any("does not agree with the content" in why for why in damage(older))


def test_ranks_share_the_looking(tmp_path: Path) -> None:
    folder = make(tmp_path, 3)
    for path in folder.glob("*.distcp"):
        path.write_bytes(b"")
    parts = [damage(folder, part, 3) for part in range(3)]
    assert sorted(why for part in parts for why in part) == sorted(damage(folder))
    assert len(damage(folder)) == 2


def test_only_published_folders_count_newest_first_and_the_oldest_go(tmp_path: Path) -> None:
    for step in (5, 100, 20):
        make(tmp_path, step)
    (tmp_path / "step-00000200.tmp").mkdir()
    assert [path.name for path in complete_checkpoints(tmp_path)] == [folder_name(step) for step in (100, 20, 5)]
    prune(tmp_path, keep=2)
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder_name(20), folder_name(100)]
    first = set_aside(tmp_path / folder_name(100))
    second = set_aside(make(tmp_path, 100))
    assert first != second
    assert [path.name for path in complete_checkpoints(tmp_path)] == [folder_name(20)]
