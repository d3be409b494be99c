# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Where documents come from: files, or a data set of tensorflow-datasets."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Protocol

from experiments.text.documents import Document, find_files, read_documents
from experiments.text.shards import Source, fingerprint


class TextSource(Protocol):
    """Documents in a fixed order.

    Attributes:
        size: what `Document.position` goes up to.
        unit: of both.
    """

    size: int
    unit: str

    def documents(self, boundary: str) -> Iterator[Document]:
        """All documents, the same at every call."""
        ...

    def describe(self, split: str) -> Source:
        """What is recorded of it."""
        ...


@dataclasses.dataclass(frozen=True)
class FileSource:
    """The documents of a file, as documents.py reads them."""

    unit: ClassVar[str] = "B"
    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def documents(self, boundary: str) -> Iterator[Document]:
        return read_documents(self.path, boundary)

    def describe(self, split: str) -> Source:
        return Source(split, self.path.name, fingerprint(self.path))


def find_sources(**files: list[str]) -> dict[str, list[TextSource]]:
    """Split -> the files and folders named for it; splits without any are left out.

    Raises:
        ValueError: one does not exist or holds no file, or a file is in two splits.
    """
    flags = {split: "data" if split == "train" else f"{split}_data" for split in files}
    found = {
        split: [FileSource(path) for path in find_files(tuple(names), flags[split])]
        for split, names in files.items()
        if names
    }
    split_of: dict[Path, str] = {}
    for split, group in found.items():
        for source in group:
            other = split_of.setdefault(source.path.resolve(), split)
            if other != split:  # what is held out would be trained on
                raise ValueError(
                    f"{flags[split]}: wanted files that are not of the split {other!r} too, "
                    f"got {str(source.path)!r}"
                )
    return found


def sources_from_flags(values: dict[str, Any]) -> dict[str, list[TextSource]]:
    """What --data, --valid_data and --test_data name, or --dataset.

    Raises:
        ValueError: both or neither are given, or there is no such data.
        ImportError: --dataset without tensorflow-datasets.
    """
    dataset = values.get("dataset")
    if bool(dataset) == bool(values["data"]):
        raise ValueError("data: wanted either files (--data) or a data set (--dataset=tfds:NAME)")
    if not dataset:
        return find_sources(
            train=values["data"], valid=values["valid_data"], test=values["test_data"]
        )
    if values["valid_data"] or values["test_data"]:
        raise ValueError("dataset: brings its own splits, wanted no --valid_data or --test_data")
    if not dataset.startswith("tfds:"):
        raise ValueError(f"dataset: wanted tfds:NAME, got {dataset!r}")
    from experiments.text.tfds_text import open_sources  # an optional package

    return open_sources(dataset, values["dataset_dir"])
