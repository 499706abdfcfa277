"""Records: what a profile has found so far, on disk, so that no crash loses it and the same folder goes on.

FOLDER/RANK/PART.json     the result of a part, with the settings under which it was measured
FOLDER/RANK/PART.jsonl    pieces of a part under way, one line each
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from ..runtime.files import write_text

PIECES = ".jsonl"


def write(path: Path, data: Mapping[str, Any]) -> None:
    """A whole file or none, whatever happens in the middle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(data))


def read(path: Path) -> dict[str, Any] | None:
    """None where there is no such file, or none that was written whole."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None


def place(folder: Path, rank: int, part: str) -> Path:
    """Of the result of a part."""
    return folder / str(rank) / f"{part.replace(' ', '-')}.json"


def save(folder: Path, rank: int, part: str, under: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Keep the result of a part; the pieces that led to it are done with."""
    path = place(folder, rank, part)
    write(path, {"under": under, "result": result})
    path.with_suffix(PIECES).unlink(missing_ok=True)


def load(folder: Path, rank: int, part: str, under: Mapping[str, Any]) -> dict[str, Any] | None:
    """A result that was measured under these settings, for as long at least; None where there is none."""
    record = read(place(folder, rank, part))
    if record is None or not isinstance(record.get("result"), dict) or not _holds(record.get("under"), under):
        return None
    return dict(record["result"])


def _holds(measured: object, under: Mapping[str, Any]) -> bool:
    if not isinstance(measured, dict) or measured.keys() != under.keys():
        return False
    same = all(measured[name] == value for name, value in under.items() if name != "budget_s")
    return same and measured.get("budget_s", 0) >= under.get("budget_s", 0) * 0.999


class Kept:
    """Pieces of a part under way; in memory alone without a path."""

    def __init__(self, path: Path | None = None, under: Mapping[str, Any] | None = None) -> None:
        self._path, self._found = path, dict[str, Any]()
        if path is None:
            return
        lines = _lines(path)
        if lines and lines[0] == {"under": under}:
            self._found = {line["key"]: line["value"] for line in lines[1:] if "key" in line}
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:  # written anew: half a line at its end would spoil the next one
            for line in ({"under": under}, *({"key": key, "value": value} for key, value in self._found.items())):
                file.write(json.dumps(line) + "\n")

    def keys(self) -> set[str]:
        """Of what was found already."""
        return set(self._found)

    def only(self, keys: Collection[str]) -> None:
        """Forget all others: another worker does not have them."""
        self._found = {key: value for key, value in self._found.items() if key in keys}

    def once(self, key: str, measure: Callable[[], Any]) -> Any:
        """From disk, or measured and written before it is returned."""
        if key not in self._found:
            value = measure()
            self._found[key] = value
            if self._path is not None:
                with self._path.open("a") as file:
                    file.write(json.dumps({"key": key, "value": value}) + "\n")
        return self._found[key]


def _lines(path: Path) -> list[dict[str, Any]]:
    """All lines that were written whole: a process may die in the middle of the last."""
    found: list[dict[str, Any]] = []
    try:
        text = path.read_text()
    except (OSError, ValueError):
        return found
    for line in text.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return [line for line in found if isinstance(line, dict)]
