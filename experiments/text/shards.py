# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""A folder of token ids: shards as `.npy` vectors, and `index.json`, which describes them.

`SPLIT-NNNNN.npy` are ids, each document after the tokenizer's `document_start`;
`SPLIT-NNNNN.documents.npy` (uint64) are the places in the shard where its documents start. No
document goes over the end of a shard.
"""

import dataclasses
import hashlib
import threading
from pathlib import Path

import numpy as np

from deltanet_jax.config import Config
from deltanet_jax.train.files import read_json, sync, write_atomically

INDEX = "index.json"
FORMAT = 1
SPLITS = ("train", "valid", "test")
HASH_BYTES = 2**20


@dataclasses.dataclass(frozen=True)
class Shard(Config):
    """One shard.

    Attributes:
        name: file name without ".npy".
        tokens, documents, text_bytes: how many.
        sha256, documents_sha256: of its two files.
    """

    name: str
    tokens: int
    documents: int
    text_bytes: int
    sha256: str
    documents_sha256: str


@dataclasses.dataclass(frozen=True)
class Source(Config):
    """What a split was made from.

    Attributes:
        split: "train", "valid" or "test".
        name: of a file, without its folder; or of a tfds data set.
        fingerprint: of its content.
    """

    split: str
    name: str
    fingerprint: str


@dataclasses.dataclass(frozen=True)
class Settings(Config):
    """All that decides what is in a folder.

    Attributes:
        tokenizer_digest, vocab_size, document_start: the tokenizer's.
        boundary: where documents of text files start, as in documents.py.
        shard_tokens: a shard is closed once it has so many.
        sources: of the splits, in order.
    """

    tokenizer_digest: str
    vocab_size: int
    document_start: int
    boundary: str
    shard_tokens: int
    sources: tuple[Source, ...]

    @property
    def dtype(self) -> np.dtype:
        """Of the ids."""
        return np.dtype(np.uint16 if self.vocab_size <= 2**16 else np.uint32)


@dataclasses.dataclass(frozen=True)
class Index(Config):
    """What `index.json` holds.

    Attributes:
        settings: see there.
        complete: all sources were read to their ends.
        shards: those finished.
        format: version of this layout.
    """

    settings: Settings
    complete: bool = False
    shards: tuple[Shard, ...] = ()
    format: int = FORMAT

    def __post_init__(self):
        if self.format != FORMAT:
            raise ValueError(f"data: wanted an index of format {FORMAT}, got {self.format}")

    def of(self, split: str) -> tuple[Shard, ...]:
        """The split's shards, in order."""
        return tuple(shard for shard in self.shards if shard.name.rsplit("-", 1)[0] == split)

    def count(self, split: str, what: str) -> int:
        """The split's "tokens", "documents" or "text_bytes"."""
        return sum(getattr(shard, what) for shard in self.of(split))

    def write(self, folder: Path) -> None:
        """Writes `index.json`, all at once."""
        write_atomically(folder / INDEX, self.to_json())


def read_index(folder: Path) -> Index:
    """The index of a folder. Raises ValueError, naming it, if there is none or it is damaged."""
    path = folder / INDEX
    if not path.is_file():
        raise ValueError(f"data: wanted a folder made by prepare_data, but {path} does not exist")
    try:
        index = Index.from_dict(read_json(path))
    except ValueError as error:
        raise ValueError(f"data: {path}: {error}") from error
    for shard in index.shards:
        if Path(shard.name).name != shard.name:
            raise ValueError(f"data: {path}: wanted names without folders, got {shard.name!r}")
    return index


def write_shard(folder: Path, name: str, ids: np.ndarray, starts: np.ndarray, size: int) -> Shard:
    """Writes a shard's two files, each there whole or not at all.

    Args:
        folder, name: where.
        ids: [N], of the folder's dtype.
        starts: [M] uint64, where documents start.
        size: bytes of their text.
    """
    digests = []
    for array, path in ((ids, folder / f"{name}.npy"), (starts, folder / f"{name}.documents.npy")):
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as file:
            np.save(file, array)
        sync(temporary)
        digests.append(file_digest(temporary))
        temporary.replace(path)
    sync(folder)
    return Shard(name, len(ids), len(starts), size, *digests)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path) -> str:
    """SHA-256 of a file's size, first and last mebibyte: quick for files of any size."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(HASH_BYTES))
        file.seek(max(0, size - HASH_BYTES))
        digest.update(file.read(HASH_BYTES))
    return digest.hexdigest()


def open_ids(path: Path) -> np.ndarray:
    """A `.npy` vector of uint16 or uint32, mapped into memory.

    Raises:
        ValueError: it is something else; names the file.
    """
    if not path.is_file():
        raise ValueError(f"data: wanted a .npy file of token ids, got {str(path)!r}, not a file")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy reads headers with Python's parser, and raises its errors
        raise ValueError(f"data: {path}: wanted a .npy file of token ids") from error
    if array.ndim != 1 or array.dtype not in (np.uint16, np.uint32):
        raise ValueError(
            f"data: {path}: wanted a vector of uint16 or uint32 ids, got {array.ndim} axes of "
            f"{array.dtype}"
        )
    return array


class Ids:
    """Token files as one stream; a slice copies no more than it holds.

    A file whose digest is known is compared with it when it is read for the first time.

    Args:
        paths: the files, in order.
        digests: SHA-256 of each, or None where it is not known.
    """

    def __init__(self, paths: list[Path], digests: list[str | None]):
        self._paths = paths
        self._parts = [open_ids(path) for path in paths]
        self._ends = np.cumsum([len(part) for part in self._parts])
        self._unchecked = {i: digest for i, digest in enumerate(digests) if digest is not None}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Ids start .. stop - 1, as int32. Raises ValueError if a file of theirs is damaged."""
        ids = np.empty(stop - start, np.int32)
        number, done = int(np.searchsorted(self._ends, start, "right")), start
        while done < stop:
            if number in self._unchecked:
                self._check(number)
            part, end = self._parts[number], int(self._ends[number])
            first, until = end - len(part), min(stop, end)
            ids[done - start : until - start] = part[done - first : until - first]
            number, done = number + 1, until
        return ids

    def _check(self, number: int) -> None:
        with self._lock:
            wanted = self._unchecked.get(number)
            if wanted is None:
                return
            found = file_digest(self._paths[number])
            if found != wanted:
                raise ValueError(
                    f"data: {self._paths[number]} is damaged: wanted SHA-256 {wanted}, got {found}"
                )
            del self._unchecked[number]


def open_split(folder: Path, index: Index, split: str) -> Ids:
    """The ids of a split.

    Raises:
        ValueError: it has no shards, or one has not the size or dtype of the index.
    """
    shards = index.of(split)
    if not shards:
        raise ValueError(f"data: wanted tokens of the split {split!r} in {folder}, got none")
    paths = [folder / f"{shard.name}.npy" for shard in shards]
    for path, shard in zip(paths, shards, strict=True):
        ids = open_ids(path)
        if len(ids) != shard.tokens or ids.dtype != index.settings.dtype:
            raise ValueError(
                f"data: {path} is damaged: wanted {shard.tokens} ids of {index.settings.dtype}, "
                f"got {len(ids)} of {ids.dtype}"
            )
    return Ids(paths, [shard.sha256 for shard in shards])
