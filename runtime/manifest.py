"""What makes a checkpoint complete: a manifest with the size and hash of every file, written last.

torch.distributed.checkpoint loads a flipped bit, or a file of another step, without a word. A folder is a
checkpoint only under its final name and only while its manifest agrees with it.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ..errors import InputError
from ..schema import Frozen, load_json, parse
from .files import sha256, sync_folder, write_text

MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{8,})")


class FileRecord(Frozen):
    """One file of a checkpoint."""

    bytes: int
    sha256: str


class Manifest(Frozen):
    """What a checkpoint holds and where its run stood. `tensors`: their checksums in memory (`sums.totals`)."""

    schema_version: Literal[1] = 1
    step: int
    sample_index: int
    plan: str  # fingerprint
    world: int
    files: dict[str, FileRecord]
    tensors: dict[str, int] = Field(default_factory=dict)


def folder_name(step: int) -> str:
    return f"step-{step:08}"


def complete_checkpoints(root: Path) -> list[Path]:
    """Folders that were published, newest first."""
    found = [(int(match[1]), path) for path in root.glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def record_files(folder: Path, names: Iterable[str]) -> dict[str, FileRecord]:
    """Size and hash of files as they are on disk."""
    return {
        name: FileRecord(bytes=(folder / name).stat().st_size, sha256=sha256(folder / name)) for name in sorted(names)
    }


def publish(temporary: Path, final: Path, manifest: Manifest) -> None:
    """Write the manifest, then give the folder its name: from here on it is a checkpoint."""
    content = manifest.model_dump(mode="json")
    write_text(temporary / MANIFEST, json.dumps({**content, "checksum": _checksum(content)}, indent=1) + "\n")
    temporary.rename(final)
    sync_folder(final.parent)


def read_manifest(folder: Path) -> Manifest:
    """Raises InputError when the manifest is not there, not whole, or of another step."""
    path = folder / MANIFEST
    content = load_json(path)
    if content.pop("checksum", None) != _checksum(content):
        raise InputError.single(str(path), "checksum", None, "does not agree with the content")
    manifest = parse(Manifest, content, str(path))
    if folder_name(manifest.step) != folder.name:
        raise InputError.single(str(path), "step", manifest.step, f"is not that of the folder {folder.name}")
    return manifest


def damage(folder: Path, part: int = 0, parts: int = 1) -> list[str]:
    """What is wrong with a checkpoint, by file; each of `parts` ranks looks at its share of the files."""
    try:
        manifest = read_manifest(folder)
    except InputError as error:
        return [str(problem) for problem in error.problems] if part == 0 else []
    names = sorted(manifest.files)[part::parts]
    return [why for name in names if (why := _disagreement(folder / name, manifest.files[name]))]


def _disagreement(path: Path, record: FileRecord) -> str:
    if not path.is_file():
        return f"{path.name}: missing"
    size = path.stat().st_size
    if size != record.bytes:
        return f"{path.name}: {size} bytes, not {record.bytes}"
    return "" if sha256(path) == record.sha256 else f"{path.name}: its content has changed (SHA-256)"


def prune(root: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, the oldest first."""
    for path in reversed(complete_checkpoints(root)[keep:]):
        doomed = path.with_name(f"{path.name}.tmp")  # half a deletion must not look like a checkpoint
        path.rename(doomed)
        shutil.rmtree(doomed)


def remove_unfinished(root: Path) -> None:
    """Delete what crashed attempts were writing."""
    for path in root.glob("step-*.tmp"):
        shutil.rmtree(path)


def set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint, so that it is neither used nor overwritten."""
    number = 0
    while (target := folder.with_name(f"{folder.name}.damaged-{number}")).exists():
        number += 1
    return folder.rename(target)


def aside(root: Path) -> list[Path]:
    """Damaged checkpoints that were set aside, newest first."""
    return sorted(root.glob("step-*.damaged-*"), reverse=True)


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
