"""Tree: files of /proc and /sys below a root, so that a recorded machine reads like this one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

Note = dict[str, str]


def note(what: str, why: str) -> Note:
    """Of this part of the profile."""
    return {"part": "detect", "what": what, "why": why}


@dataclass(frozen=True, slots=True)
class Tree:
    """What cannot be read for lack of permission is in `notes`; what is not there is simply None."""

    root: Path = Path("/")
    notes: list[Note] = field(default_factory=list)

    def text(self, path: str) -> str | None:
        """A file without its last line feed. Many of /sys answer EINVAL while a port is down: None, too."""
        try:
            return (self.root / path).read_text(errors="replace").strip()
        except PermissionError:
            self.notes.append(note(f"/{path}", "no permission to read it"))
        except OSError:
            pass
        return None

    def number(self, path: str) -> int | None:
        """A file that holds a whole number, hexadecimal or not."""
        try:
            return int(self.text(path) or "", 0)
        except ValueError:
            return None

    def names(self, path: str) -> list[str]:
        """Of a folder, with numbers in them in order of their values; empty where there is none."""
        try:
            return sorted(os.listdir(self.root / path), key=_natural)
        except OSError:
            return []

    def exists(self, path: str) -> bool:
        """Whether there is such a file or folder."""
        return (self.root / path).exists()

    def real(self, path: str) -> str:
        """Where a link of /sys leads, from the root on; empty where it leads nowhere."""
        try:
            return str((self.root / path).resolve(strict=True).relative_to(self.root.resolve()))
        except (OSError, ValueError):
            return ""


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    return tuple(_pieces(name))


def _pieces(name: str) -> Iterator[tuple[int, str]]:
    digits, text = "", ""
    for letter in f"{name}\0":
        if letter.isdecimal():
            digits += letter
            continue
        if digits:
            yield int(digits), text
            digits, text = "", ""
        text += letter
    yield -1, text
