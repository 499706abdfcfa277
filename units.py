"""Quantities as people write them, and back: bytes, rates, FLOP/s, seconds, counts.

`parse_*` take text with a unit or a plain number in base units (bytes, bytes per second, FLOP per
second, seconds) and raise ValueError with the accepted spellings. Binary (`GiB`) and decimal (`GB`)
prefixes differ, and so do bits and bytes: `Gbit/s` and `Gbps` are bits, `GB/s` bytes, and `Gb/s`,
which people use for both, is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Literal

from .errors import did_you_mean

_NUMBER = re.compile(r"\s*([-+]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*", re.DOTALL)
_DECIMAL = {"": 0, "k": 3, "K": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50}


def _scales(units: Iterable[str], prefixes: Iterable[str], divisor: int = 1) -> dict[str, Decimal]:
    scale = {p: Decimal(10) ** e for p, e in _DECIMAL.items()} | {p: Decimal(2) ** e for p, e in _BINARY.items()}
    return {prefix + unit: scale[prefix] / divisor for unit in units for prefix in prefixes}


_BYTES = _scales(["B"], [*_DECIMAL, *_BINARY])
_RATE = _scales(["B/s"], [*_DECIMAL, *_BINARY]) | _scales(["bit/s", "bps"], _DECIMAL, divisor=8)
_FLOPS = _scales(["FLOP/s", "FLOPS", "FLOPs/s", "flop/s", "flops"], _DECIMAL)
_SECONDS = {
    "ns": Decimal("1e-9"),
    "us": Decimal("1e-6"),
    "\u00b5s": Decimal("1e-6"),
    "ms": Decimal("1e-3"),
    "s": Decimal(1),
    "min": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
}
_DURATION = _SECONDS | {"m": Decimal(60), "w": Decimal(7 * 86400)}
_COUNT = {"": Decimal(1)} | {p: Decimal(10) ** e for p, e in [("k", 3), ("K", 3), ("M", 6), ("B", 9), ("T", 12)]}


def parse_bytes(value: object) -> float:
    """`80 GiB`, `2 TB` or a number of bytes. Raises ValueError."""
    return _parse(value, _BYTES, "bytes", "80 GiB or 80 GB")


def parse_rate(value: object) -> float:
    """Bytes per second from `450 GB/s`, `400 Gbit/s`, `400 Gbps`, `3.35 TB/s` or a number. Raises ValueError."""
    return _parse(value, _RATE, "a rate", "450 GB/s (bytes) or 400 Gbit/s (bits)")


def parse_flops(value: object) -> float:
    """FLOP per second from `989 TFLOP/s`, `989 TFLOPS`, `1.2 PFLOP/s` or a number. Raises ValueError."""
    return _parse(value, _FLOPS, "a compute rate", "989 TFLOP/s")


def parse_seconds(value: object) -> float:
    """Seconds from `2 us`, `5 ms`, `1 s` or a number. Raises ValueError."""
    return _parse(value, _SECONDS, "a time", "2 us, 5 ms or 1 s")


def parse_duration(value: object) -> float:
    """Seconds from `30d`, `3h`, `90m`, `1d 12h` or a number of seconds. Raises ValueError."""
    parts = re.findall(r"\d[^a-zA-Z]*[a-zA-Z]+", value) if isinstance(value, str) else []
    if isinstance(value, str) and len(parts) > 1 and re.sub(r"\s", "", "".join(parts)) == re.sub(r"\s", "", value):
        return sum(_parse(part, _DURATION, "a duration", "30d, 3h or 1d 12h") for part in parts)
    return _parse(value, _DURATION, "a duration", "30d, 3h or 1d 12h")


def parse_count(value: object) -> int:
    """A whole number from `15T`, `8.03 B`, `300M`, `4k` or digits (decimal, B is 1e9). Raises ValueError."""
    number = _parse(value, _COUNT, "a count", "15T, 300B, 20M, 4k or digits")
    if number != int(number):
        raise ValueError(f"must be a whole number, not {number}")
    return int(number)


def _parse(value: object, scales: Mapping[str, Decimal], what: str, example: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"must be {what} such as {example}, not {type(value).__name__}")
    number = _from_text(value, scales, what, example) if isinstance(value, str) else float(value)
    if not math.isfinite(number) or number < 0:
        raise ValueError(f"must be finite and not negative: {what} such as {example}")
    return number


def _from_text(text: str, scales: Mapping[str, Decimal], what: str, example: str) -> float:
    match = _NUMBER.fullmatch(text)
    if not match:
        raise ValueError(f"must be {what} such as {example}")
    number, unit = match.groups()
    unit = "".join(unit.split())
    if unit and unit not in scales:
        raise ValueError(f"has an unknown unit {unit!r}: must be {what} such as {example}{_hint(unit, scales)}")
    # Decimal, so that `3 us` is the float nearest to 3e-6 and not 3 * 1e-6, which is another one.
    return float(Decimal(number.replace("_", "")) * scales.get(unit, Decimal(1)))


def _hint(unit: str, scales: Mapping[str, Decimal]) -> str:
    if "B/s" in scales and re.fullmatch(r"[a-zA-Z]?b(/s|ps)", unit) and not unit.endswith("bps"):
        return "; b is ambiguous, write B for bytes or bit for bits"
    hint = did_you_mean(unit, scales)
    return f"; {hint}" if hint.startswith("did") else ""


_WRITE: dict[str, tuple[Mapping[str, Decimal], tuple[str, ...]]] = {
    "bytes": (_BYTES, ("PiB", "TiB", "GiB", "TB", "GB", "MiB", "MB", "KiB", "B")),
    "rate": (_RATE, ("TB/s", "GB/s", "MB/s", "kB/s", "B/s")),
    "flops": (_FLOPS, ("PFLOP/s", "TFLOP/s", "GFLOP/s", "MFLOP/s", "FLOP/s")),
    "seconds": (_SECONDS, ("s", "ms", "us", "ns")),
}


def exact(value: float, quantity: Literal["bytes", "rate", "flops", "seconds"]) -> str:
    """The shortest text with a unit that parses back to exactly this value."""
    scales, units = _WRITE[quantity]
    number = Decimal(repr(float(value)))
    texts = [f"{_plain(number / scales[unit])} {unit}" for unit in units]
    right = [text for text in texts if _from_text(text, scales, quantity, "") == float(value)]
    # Among equally short texts the one whose number is nearest to the range 1..1000 reads best.
    return min(right, key=lambda text: (len(text.split()[0]), _off_scale(float(text.split()[0]))))


def significant(value: float, digits: int = 4) -> float:
    """Rounded to so many digits that count: no measurement of times repeats better than four."""
    return float(f"{value:.{digits}g}")


def _plain(number: Decimal) -> str:
    text = format(number.normalize(), "f")
    return text if len(text) <= 20 else format(number.normalize(), "g")


def _off_scale(number: float) -> float:
    return 0.0 if 1 <= number < 1000 or number == 0 else abs(math.log10(number))


def _with_prefix(value: float, steps: Iterable[tuple[float, str]], digits: int = 3) -> str:
    """`value` in the largest unit of `steps` (ascending) that leaves at least one whole."""
    steps = list(steps)
    scale, unit = steps[0]
    for candidate, name in steps:
        # 999.9 kB prints as 1e+03 kB in three digits: step up as soon as rounding would.
        if abs(value) >= candidate * (1 - 0.5 * 10**-digits):
            scale, unit = candidate, name
    number = value / scale
    whole = max(1, math.floor(math.log10(abs(number)) + 1e-12) + 1) if number else 1
    return f"{number:.{max(0, digits - whole)}f} {unit}".rstrip()


def format_bytes(value: float) -> str:
    """`44.0 GiB`: binary units, three digits."""
    if abs(value) < 1024 and value == int(value):
        return f"{int(value)} B"
    return _with_prefix(value, [(1, "B"), (2**10, "KiB"), (2**20, "MiB"), (2**30, "GiB"), (2**40, "TiB")])


def format_rate(value: float) -> str:
    """`450 GB/s`: decimal units, three digits."""
    return _with_prefix(value, [(1, "B/s"), (1e3, "kB/s"), (1e6, "MB/s"), (1e9, "GB/s"), (1e12, "TB/s")])


def format_seconds(value: float) -> str:
    """`2.00 us`, `5.31 ms`, `12.4 s`, `3.20 h`, three digits."""
    steps = [(1e-9, "ns"), (1e-6, "us"), (1e-3, "ms"), (1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "d")]
    return _with_prefix(value, steps) if value else "0 s"


def format_count(value: float) -> str:
    """`8.03 B`: decimal, B is 1e9, three digits; below a thousand as it is."""
    if abs(value) < 1000 and value == int(value):
        return str(int(value))
    return _with_prefix(value, [(1, ""), (1e3, "k"), (1e6, "M"), (1e9, "B"), (1e12, "T")])
