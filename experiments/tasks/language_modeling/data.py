# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Documents to streams of bytes for training and evaluation."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from experiments.text import documents

DOCUMENT_START = 0  # the byte before every document; text never contains it


def standard_library() -> list[Path]:
    """The sources of the running Python's standard library, its tests left out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    left_out = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
    return [
        path
        for path in sorted(root.rglob("*.py"))
        if not left_out & set(path.relative_to(root).parts)
    ]


def read_documents(path: Path) -> Iterator[bytes]:
    """A text file is one document; a JSONL file has one a line, under the key "text".

    Raises:
        ValueError: a line without a "text", or a document with a zero byte; names file and line.
    """
    for document in documents.read_documents(path):
        if DOCUMENT_START in document.text:
            raise ValueError(f"data: {document.where}: wanted text, got a zero byte")
        yield document.text


def join_documents(texts: list[bytes]) -> np.ndarray:
    """One uint8 stream in which every document follows a DOCUMENT_START."""
    start = bytes([DOCUMENT_START])
    return np.frombuffer(b"".join(start + d for d in texts), np.uint8)


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
