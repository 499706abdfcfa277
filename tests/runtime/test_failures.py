"""Of several failed ranks, the one that began it speaks first."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from meshwright.errors import RunError
from meshwright.runtime.failures import first_cause, held_up, own_error, run_error

GLOO = "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer"


def failure(
    root: Path, rank: int, code: int, message: str | None = None, at: int = 100, stderr: str = ""
) -> ProcessFailure:
    folder = root / str(rank)
    folder.mkdir()
    (folder / "stderr.log").write_text(stderr)
    if message is not None:
        content = {"message": {"message": message, "extraInfo": {"py_callstack": "", "timestamp": str(at)}}}
        (folder / "error.json").write_text(json.dumps(content))
    return ProcessFailure(local_rank=rank, pid=1, exitcode=code, error_file=str(folder / "error.json"))


def say(failures: dict[int, ProcessFailure], root: Path) -> str:
    error_files = {
        failure.local_rank: str(root / str(failure.local_rank) / "error.json") for failure in failures.values()
    }
    return str(run_error(failures, error_files, len(failures)))


def test_an_own_error_comes_before_the_complaints_of_peers(tmp_path: Path) -> None:
    failures = {
        0: failure(tmp_path, 0, 1, GLOO, at=99),
        1: failure(tmp_path, 1, 1, "ValueError: boom", at=101),
        2: failure(tmp_path, 2, -signal.SIGTERM),
    }
    text = say(failures, tmp_path)
    assert text.startswith("ValueError: boom\n  on rank 1 of 3; its log: ")
    assert text.endswith("1/stderr.log")


def test_a_killed_rank_comes_before_the_complaints_of_peers(tmp_path: Path) -> None:
    failures = {0: failure(tmp_path, 0, 1, GLOO), 1: failure(tmp_path, 1, -signal.SIGKILL)}
    text = say(failures, tmp_path)
    assert text.startswith("the worker process was killed by SIGKILL")
    assert "on rank 1 of 2" in text


def test_a_node_that_lost_a_peer_points_to_the_others(tmp_path: Path) -> None:
    lost = {0: failure(tmp_path, 0, 1, GLOO)}
    files = {0: str(tmp_path / "0" / "error.json")}
    assert str(run_error(lost, files, 2, nnodes=2)).endswith("see what the other nodes say")
    own = {1: failure(tmp_path, 1, 1, "ValueError: boom")}
    assert "other nodes" not in str(run_error(own, {1: str(tmp_path / "1" / "error.json")}, 2, nnodes=2))


@pytest.mark.parametrize(
    ("stderr", "words"),
    [("Traceback\nImportError: no x\n", "ImportError: no x"), ("", "the worker process exited with code 3")],
)
def test_a_rank_without_a_report_is_quoted_from_its_log(tmp_path: Path, stderr: str, words: str) -> None:
    assert say({0: failure(tmp_path, 0, 3, stderr=stderr)}, tmp_path).startswith(words)


def test_our_own_errors_need_no_name(tmp_path: Path) -> None:
    text = say({0: failure(tmp_path, 0, 1, "RunError: loss is nan in step 7")}, tmp_path)
    assert text.startswith("loss is nan in step 7")


def caught(raiser: Callable[[], None]) -> Exception:
    with pytest.raises(Exception, match=r"\w") as found:
        raiser()
    return found.value


def test_a_wrapped_error_is_said_in_its_first_words() -> None:
    def wrap() -> None:
        try:
            raise ValueError("boom")
        except ValueError as error:
            raise RuntimeError("[Stage 1] failed to run forward") from error

    def ours() -> None:
        try:
            raise OSError("disk full")
        except OSError as error:
            raise RunError("saving a checkpoint failed") from error

    assert str(first_cause(caught(wrap))) == "boom"
    assert str(first_cause(caught(ours))) == "saving a checkpoint failed"


def test_the_rank_that_hangs_comes_before_the_one_that_waited_for_it() -> None:
    waited, own = RunError(f"{GLOO}\n  on rank 0 of 2"), RunError("ValueError: boom\n  on rank 0 of 2")
    assert str(held_up(waited, ["rank 1 has not moved"])).startswith("rank 1 has not moved\n  so that a peer failed: ")
    assert held_up(waited, []) is waited
    assert held_up(own, ["rank 1 has not moved"]) is own


def test_the_own_error_of_an_attempt(tmp_path: Path) -> None:
    failures = [failure(tmp_path, 0, 1, GLOO, at=1), failure(tmp_path, 1, 1, "ValueError: second", at=9)]
    failures.append(failure(tmp_path, 2, 1, "ValueError: first", at=5))
    files = {each.local_rank: each.error_file for each in failures}
    assert own_error(files) == "ValueError: first"
    assert own_error({0: files[0], 3: str(tmp_path / "absent.json")}) == ""
