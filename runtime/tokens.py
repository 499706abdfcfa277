"""Token files: a flat array of ids on disk, memory-mapped, beside a small JSON that says what it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, Problem, gather
from ..planner.job import Job
from .corpus import Corpus, Encoder, blocks, find_corpus, find_encoder, is_text
from .files import complete_or_absent, write_text
from .recipe import BYTES, Recipe

Tokens = NDArray[np.integer[Any]]

TOKENIZER = "tokenizer.json"  # its copy beside the tokens
_SIDECAR = "tokens.json"
_FORMAT = "meshwright-tokens-1"
_DTYPES = ("uint8", "uint16", "uint32", "int32", "int64")
_SCAN_TOKENS = 1 << 24
_SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFile:
    """Where the tokens are and what they are. `max_token` is the largest id that occurs."""

    path: str
    dtype: str
    count: int
    offset_bytes: int  # where the ids start: after the header of a .npy file
    max_token: int
    fingerprint: str  # of the content
    documents: int
    skipped_files: int  # not text, or not readable
    source: dict[str, Any]  # what of the recipe it was made from
    format: str = _FORMAT

    def open(self) -> Tokens:
        """The ids, [count], mapped read-only."""
        shape = (self.count,)
        mapped: Tokens = np.memmap(self.path, dtype=self.dtype, mode="r", offset=self.offset_bytes, shape=shape)
        return mapped


def prepare_tokens(recipe: Recipe, folder: Path) -> TokenFile:
    """The tokens of a recipe, made in `folder` the first time and found there afterwards.

    `recipe.data` may be text (a file, a folder, the standard library) or tokens already: `.npy`, or `.bin`
    with the dtype in a JSON file beside it (`data.bin`, `data.json`: {"dtype": "uint16"}).
    Raises InputError when there is nothing to read or what is there is not what it says.
    """
    if (earlier := prepared_tokens(recipe, folder)) is not None:
        return earlier
    folder.mkdir(parents=True, exist_ok=True)
    check_source(recipe, folder)
    if recipe.tokenizer != BYTES:  # kept: the exported model wants it at the end, wherever the original is by then
        write_text(folder / TOKENIZER, Path(recipe.tokenizer).read_text())
    if is_token_file(recipe.data):
        tokens = adopt(Path(recipe.data))
    else:
        tokens = tokenize(find_corpus(recipe.data, recipe.suffixes), find_encoder(recipe.tokenizer), folder)
    tokens = replace(tokens, source=_source(recipe))
    write_text(folder / _SIDECAR, json.dumps(asdict(tokens), indent=2) + "\n")
    return tokens


def prepared_tokens(recipe: Recipe, folder: Path) -> TokenFile | None:
    """The tokens of a recipe that `folder` holds already. Raises InputError when they have changed since."""
    found = _prepared(recipe, folder)
    return None if found is None else _unchanged(found, folder)


def check_source(recipe: Recipe, folder: Path) -> None:
    """Raises InputError when neither `folder` holds the tokens of a recipe nor they can be made, or when its documents
    cannot be told apart; reads little."""
    if _prepared(recipe, folder) is None:
        source = (lambda: None) if is_token_file(recipe.data) else lambda: find_corpus(recipe.data, recipe.suffixes)
        gather(source, lambda: find_encoder(recipe.tokenizer))
    find_separator(recipe, folder)


def find_separator(recipe: Recipe, folder: Path) -> int | None:
    """The token that ends a document, where the recipe separates them; `folder` may hold a copy of the tokenizer.

    Raises InputError when nobody says which token that is.
    """
    if not recipe.separate_documents:
        return None
    if recipe.tokenizer == BYTES and is_token_file(recipe.data):
        rule = "needs the tokenizer of a token file, which knows what ends a document"
        raise InputError.single("recipe", "separate_documents", True, rule, "tokenizer: path/to/tokenizer.json")
    copy = folder / TOKENIZER
    known = copy if recipe.tokenizer != BYTES and _prepared(recipe, folder) and copy.is_file() else recipe.tokenizer
    separator = find_encoder(str(known)).separator
    if separator is None:
        rule = f"{recipe.tokenizer} has no end-of-text token"
        raise InputError.single("recipe", "separate_documents", True, rule, "separate_documents: false")
    return separator


def is_token_file(data: str) -> bool:
    """Tokens already, and not text."""
    return Path(data).suffix in (".bin", ".npy") and Path(data).is_file()


def _prepared(recipe: Recipe, folder: Path) -> TokenFile | None:
    """What `folder` holds for this recipe. A refused launch may have left the tokens of another."""
    sidecar = folder / _SIDECAR
    if not sidecar.exists():
        return None
    try:
        tokens = TokenFile(**json.loads(sidecar.read_text()))
    except (ValueError, TypeError):
        raise InputError.single("run folder", "tokens", str(sidecar), "is damaged", "delete it") from None
    return tokens if tokens.source == _source(recipe) else None


def _source(recipe: Recipe) -> dict[str, Any]:
    return {"data": recipe.data, "suffixes": list(recipe.suffixes), "tokenizer": recipe.tokenizer}


def tokenize(corpus: Corpus, encoder: Encoder, folder: Path) -> TokenFile:
    """Write all text of a corpus to `folder`/tokens.bin; files that are not text are skipped and counted."""
    dtype = "uint8" if encoder.vocab <= 1 << 8 else "uint16" if encoder.vocab <= 1 << 16 else "uint32"
    texts = [path for path in corpus.files if is_text(path)]
    target = folder / "tokens.bin"
    with complete_or_absent(target) as file:
        count, largest, digest = _write(file, _encode(texts, encoder), np.dtype(dtype))
        if count == 0:
            rule = f"holds no text ({len(corpus.files)} files, {len(texts)} of them readable as UTF-8)"
            raise InputError.single("recipe", "data", str(corpus.root), rule)
    return TokenFile(
        path=str(target.absolute()), dtype=dtype, count=count, offset_bytes=0, max_token=largest, fingerprint=digest,
        documents=len(texts), skipped_files=len(corpus.files) - len(texts), source={},
    )  # fmt: skip


def _encode(texts: list[Path], encoder: Encoder) -> Iterator[Tokens]:
    end = np.array([] if encoder.separator is None else [encoder.separator], dtype=np.uint32)
    for path in texts:
        for block in blocks(path):
            yield encoder.encode(block)
        yield end


def _write(file: BinaryIO, pieces: Iterator[Tokens], dtype: np.dtype[Any]) -> tuple[int, int, str]:
    """Count, largest id and hash of what was written."""
    count, largest, digest = 0, 0, hashlib.sha256()
    for piece in pieces:
        data = piece.astype(dtype).tobytes()
        file.write(data)
        digest.update(data)
        count += len(piece)
        largest = max(largest, int(piece.max(initial=0)))
    return count, largest, digest.hexdigest()[:16]


def adopt(path: Path) -> TokenFile:
    """Use a token file where it lies. Its ids are scanned once for the largest."""
    try:
        dtype, offset = _npy_header(path) if path.suffix == ".npy" else (_bin_dtype(path), 0)
    except (OSError, ValueError) as error:
        raise InputError.single("recipe", "data", str(path), f"is not a token file: {error}") from None
    count, rest = divmod(path.stat().st_size - offset, np.dtype(dtype).itemsize)
    if rest or count == 0:
        rule = f"its {path.stat().st_size - offset} bytes of ids are not a positive number of {dtype}"
        raise InputError.single("recipe", "data", str(path), rule)
    tokens = TokenFile(
        path=str(path.absolute()), dtype=dtype, count=count, offset_bytes=offset, max_token=0,
        fingerprint=_sampled_fingerprint(path), documents=1, skipped_files=0, source={},
    )  # fmt: skip
    return replace(tokens, max_token=_largest(tokens.open(), path))


def _npy_header(path: Path) -> tuple[str, int]:
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except EOFError:
        raise ValueError("it ends early") from None
    if array.ndim != 1 or str(array.dtype) not in _DTYPES:
        raise ValueError(f"holds {array.dtype}{list(array.shape)}, not one row of {', '.join(_DTYPES)}")
    return str(array.dtype), int(array.offset)


def _bin_dtype(path: Path) -> str:
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        raise ValueError(f"{sidecar.name} beside it must say its dtype, e.g. {{'dtype': 'uint16'}}")
    described = json.loads(sidecar.read_text())
    dtype = described.get("dtype") if isinstance(described, dict) else None
    if dtype not in _DTYPES:
        raise ValueError(f"dtype in {sidecar.name} is {dtype!r}, not one of {', '.join(_DTYPES)}")
    return str(dtype)


def _largest(ids: Tokens, path: Path) -> int:
    largest = 0
    for start in range(0, len(ids), _SCAN_TOKENS):
        piece = ids[start : start + _SCAN_TOKENS]
        if piece.min() < 0:
            raise InputError.single("recipe", "data", str(path), f"a token id is negative ({piece.min()})")
        largest = max(largest, int(piece.max()))
    return largest


def _sampled_fingerprint(path: Path) -> str:
    """Of a file that may be too large to hash: its size, its beginning and its end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.sha256(str(size).encode() + file.read(_SAMPLE_BYTES))
        file.seek(max(0, size - _SAMPLE_BYTES))
        digest.update(file.read())
    return digest.hexdigest()[:16]


def _unchanged(tokens: TokenFile, folder: Path) -> TokenFile:
    """The file is still there and as long as it was; the user's own, outside of `folder`, also begins and ends so."""
    path = Path(tokens.path)
    expected = tokens.offset_bytes + tokens.count * np.dtype(tokens.dtype).itemsize
    if not path.is_file():
        raise InputError.single("run folder", "data", tokens.path, "the token file of this run is gone")
    if path.stat().st_size != expected:
        rule = f"changed since the run started: {path.stat().st_size} bytes, not {expected}"
        raise InputError.single("run folder", "data", tokens.path, rule)
    if path.parent != folder.absolute() and _sampled_fingerprint(path) != tokens.fingerprint:
        raise InputError.single("run folder", "data", tokens.path, "its content changed since the run started")
    return tokens


def least_tokens(job: Job) -> int:
    """Of a sequence: documents that are trained one by one may be short."""
    return job.seq_len if job.lengths is None else 1


def check_tokens(tokens: TokenFile, vocab: int, seq_len: int, global_batch: int) -> list[Problem]:
    """What keeps a model of this vocabulary from training on these tokens."""
    problems = []
    if tokens.max_token >= vocab:
        rule = f"the largest token id is {tokens.max_token}, the model's vocabulary has {vocab}"
        problems.append(Problem("data", tokens.path, rule, "the tokenizer that belongs to the model"))
    needed = global_batch * seq_len + 1
    if tokens.count < needed:
        rule = f"holds {tokens.count} tokens; one batch of {global_batch} x {seq_len} needs {needed}"
        problems.append(Problem("data", tokens.path, rule, "more text, a smaller --global-batch or --seq-len"))
    return problems
