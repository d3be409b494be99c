# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Where documents come from: files of ours."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from experiments.text.documents import Document, find_files, read_documents
from experiments.text.shards import Source, fingerprint


class TextSource(Protocol):
    """Documents in a fixed order.

    Attributes:
        size: what `Document.position` goes up to.
    """

    size: int

    def documents(self, boundary: str) -> Iterator[Document]:
        """All documents, the same at every call."""
        ...

    def describe(self, split: str) -> Source:
        """What is recorded of it."""
        ...


@dataclasses.dataclass(frozen=True)
class FileSource:
    """The documents of a file, as documents.py reads them."""

    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def documents(self, boundary: str) -> Iterator[Document]:
        return read_documents(self.path, boundary)

    def describe(self, split: str) -> Source:
        return Source(split, self.path.name, fingerprint(self.path))


def find_sources(names: list[str]) -> list[TextSource]:
    """The sources that a flag names: files and folders.

    Raises:
        ValueError: one does not exist or holds no file.
    """
    return [FileSource(path) for path in find_files(tuple(names))]
