"""GPUs as the driver describes them: by NVML where its Python package is installed, else by nvidia-smi."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .tree import Note, note

_FIELDS = ("name", "memory.total", "pci.bus_id", "driver_version", "power.default_limit", "utilization.gpu")
_QUERY = ("nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits")
Run = Callable[[Sequence[str]], str]


@dataclass(frozen=True, slots=True)
class Gpu:
    """`power_w`: the limit it comes with. None where the driver does not tell."""

    name: str
    memory_bytes: float
    address: str  # PCI, as /sys writes it
    driver: str
    power_w: float | None
    used: float | None  # fraction of the last moment in which it computed


def run(command: Sequence[str]) -> str:
    """What a command prints. Raises OSError where there is none, SubprocessError where it fails."""
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout


def read_gpus(execute: Run = run) -> tuple[tuple[Gpu, ...], list[Note]]:
    """All NVIDIA GPUs of the host, and what could not be asked."""
    gpus, notes = by_nvml()
    if gpus is not None:
        return gpus, notes
    try:
        text = execute(_QUERY)
        return parse_query(text), [*notes, *_refused(text)]
    except FileNotFoundError:
        return (), []  # no driver, nothing to miss
    except (OSError, subprocess.SubprocessError) as error:
        return (), [*notes, note("GPUs", f"nvidia-smi failed: {_words(error)}")]


def _words(error: Exception) -> str:
    told = getattr(error, "stdout", "") or getattr(error, "stderr", "") or str(error)
    return str(told).strip().splitlines()[0] if str(told).strip() else type(error).__name__


def _refused(text: str) -> list[Note]:
    """Fields that the driver keeps from this user, of any GPU."""
    rows = [line.split(",") for line in text.splitlines()]
    fields = dict.fromkeys(
        field for row in rows for field, cell in zip(_FIELDS, row, strict=False) if "insufficient perm" in cell.lower()
    )
    return [note("nvidia-smi", f"no permission to read {field}") for field in fields]


def parse_query(text: str) -> tuple[Gpu, ...]:
    """From `nvidia-smi --query-gpu` with the fields above; `[N/A]`, `[Not Supported]` and the like are None."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()]
    return tuple(_gpu(*row) for row in rows if len(row) == len(_FIELDS))


def _gpu(name: str, memory: str, address: str, driver: str, power: str, used: str) -> Gpu:
    percent = _number(used)
    return Gpu(
        name=name,
        memory_bytes=(_number(memory) or 0.0) * 2**20,
        address=short_address(address),
        driver=driver,
        power_w=_number(power),
        used=None if percent is None else percent / 100,
    )


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None


def short_address(address: str) -> str:
    """`00000000:1B:00.0` of the driver as /sys has it: `0000:1b:00.0`."""
    domain, _, rest = address.lower().partition(":")
    return f"{domain[-4:]}:{rest}"


def by_nvml() -> tuple[tuple[Gpu, ...] | None, list[Note]]:
    """None where NVML or its package (nvidia-ml-py) is not there, with a note where it is and fails."""
    try:
        import pynvml
    except ImportError:
        return None, []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return None, [] if _absent(pynvml, error) else [note("NVML", str(error))]
    try:
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        refused: dict[str, Note] = {}
        return tuple(_by_handle(pynvml, handle, driver, refused) for handle in handles), [*refused.values()]
    except pynvml.NVMLError as error:
        return None, [note("NVML", str(error))]
    finally:
        pynvml.nvmlShutdown()


def _absent(nvml: Any, error: Exception) -> bool:
    """A machine without a driver: nothing to miss."""
    return bool(getattr(error, "value", None) == nvml.NVML_ERROR_LIBRARY_NOT_FOUND)


def _by_handle(nvml: Any, handle: Any, driver: str, refused: dict[str, Note]) -> Gpu:
    def ask(function: str) -> Any:
        try:
            return getattr(nvml, function)(handle)
        except nvml.NVMLError as error:
            if error.value != nvml.NVML_ERROR_NOT_SUPPORTED:  # which a card may say; anything else is missed
                refused[function] = note("NVML", f"{function}: {error}")
            return None

    power, used = ask("nvmlDeviceGetPowerManagementDefaultLimit"), ask("nvmlDeviceGetUtilizationRates")
    return Gpu(
        name=_text(nvml.nvmlDeviceGetName(handle)),
        memory_bytes=float(nvml.nvmlDeviceGetMemoryInfo(handle).total),
        address=short_address(_text(nvml.nvmlDeviceGetPciInfo(handle).busId)),
        driver=driver,
        power_w=None if power is None else power / 1000,  # NVML speaks in milliwatts
        used=None if used is None else used.gpu / 100,
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
