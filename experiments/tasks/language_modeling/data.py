# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Text on disk to a stream of bytes: text and JSONL files, plain or compressed."""

import gzip
import json
import lzma
import sysconfig
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

DOCUMENT_START = 0  # the byte before every document; text never contains it
OPENERS = {".gz": gzip.open, ".xz": lzma.open}
JSONL = (".jsonl", ".ndjson")


def standard_library() -> list[Path]:
    """The sources of the running Python's standard library, its tests left out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    return [
        path
        for path in sorted(root.rglob("*.py"))
        if not left_out & set(path.relative_to(root).parts)
    ]


def find_files(paths: tuple[str, ...]) -> list[Path]:
    """The files named, and all files below the folders named, in a fixed order.

    Raises:
        ValueError: a path does not exist or holds no file.
    """
    files = []
    for name in paths:
        path = Path(name)
        if not path.exists():
            raise ValueError(f"data: wanted a file or folder, got {name!r}, which does not exist")
        found = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        if not found:
            raise ValueError(f"data: wanted files, got the empty folder {name!r}")
        files += found
    return files


def read_documents(path: Path) -> Iterator[bytes]:
    """A text file is one document; a JSONL file has one a line, under the key "text".

    Raises:
        ValueError: a line without a "text", or a document with a zero byte; names file and line.
            A compressed file that is damaged.
    """
    try:
        yield from _documents(path)
    except (lzma.LZMAError, zlib.error, gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"data: {path}: wanted a whole compressed file: {error}") from error


def _documents(path: Path) -> Iterator[bytes]:
    plain = path.with_suffix("") if path.suffix in OPENERS else path
    with OPENERS.get(path.suffix, open)(path, "rb") as file:
        if plain.suffix not in JSONL:
            yield _checked(file.read(), str(path))
            return
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                text = json.loads(line)["text"]
                document = text.encode()
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
                raise ValueError(f'data: {where}: wanted a JSON object with a "text"') from error
            yield _checked(document, where)


def _checked(document: bytes, where: str) -> bytes:
    if DOCUMENT_START in document:
        raise ValueError(f"data: {where}: wanted text, got a zero byte")
    return document


def join_documents(documents: list[bytes]) -> np.ndarray:
    """One uint8 stream in which every document follows a DOCUMENT_START."""
    start = bytes([DOCUMENT_START])
    return np.frombuffer(b"".join(start + d for d in documents), np.uint8)


def split_documents(
    documents: list[bytes], eval_fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Streams for training and evaluation.

    With a hundred documents or more, whole documents drawn at random are held out; with fewer,
    the end of the joined text is, so no document is on both sides but at most one.
    """
    if len(documents) >= 100:
        order = np.random.default_rng(seed).permutation(len(documents))
        held_out = set(order[: max(1, round(eval_fraction * len(documents)))].tolist())
        return (
            join_documents([d for i, d in enumerate(documents) if i not in held_out]),
            join_documents([d for i, d in enumerate(documents) if i in held_out]),
        )
    stream = join_documents(documents)
    cut = round((1 - eval_fraction) * len(stream))
    return stream[:cut], stream[cut:]
