# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Documents to shards of token ids, in parallel processes, restarting where it stopped."""

import collections
import contextlib
import itertools
import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from tqdm import tqdm

from deltanet_jax.train.files import locked
from experiments.text import encoding
from experiments.text.documents import Document
from experiments.text.shards import INDEX, Index, Settings, Shard, read_index, write_shard
from experiments.text.sources import TextSource
from experiments.text.tokenizers import load_tokenizer

logger = logging.getLogger("experiments")

BATCH_BYTES = 2**19  # of text, handed to a process at a time
AHEAD = 4  # batches of each process that are read before the first of them is back
SHARD_TOKENS = 2**23


def prepare(
    sources: dict[str, list[TextSource]],
    tokenizer: str,
    boundary: str,
    folder: Path,
    *,
    workers: int,
    shard_tokens: int = SHARD_TOKENS,
) -> Index:
    """Makes `folder`, or finishes it; what it holds does not depend on `workers` or on restarts.

    In memory are one shard and a few batches of documents for each worker.

    Args:
        sources: split -> what it is made from, in order.
        tokenizer: for `load_tokenizer`.
        boundary: for `read_documents`.
        folder: where shards and index go.
        workers: processes that tokenize; 1 is this one.
        shard_tokens: a shard is closed once it has so many.
    Raises:
        ValueError: `folder` holds something else, or is in use; a source is no text.
    """
    loaded = load_tokenizer(tokenizer)
    settings = Settings(
        tokenizer_digest=loaded.digest,
        vocab_size=loaded.vocab_size,
        document_start=loaded.document_start,
        boundary=boundary,
        shard_tokens=shard_tokens,
        sources=tuple(s.describe(split) for split, group in sources.items() for s in group),
    )
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as resources:
        resources.enter_context(locked(folder, name="out"))
        index = _begin(folder, settings)
        if index.complete:
            logger.info("%s is complete", folder)
            return index
        encode = resources.enter_context(_encoder(tokenizer, workers))
        for split, group in sources.items():
            index = _prepare_split(split, group, boundary, folder, index, encode)
        index = index.replace(complete=True)
        index.write(folder)
    return index


def _begin(folder: Path, settings: Settings) -> Index:
    """The index so far. Raises ValueError if it is of other settings."""
    if not (folder / INDEX).exists():
        index = Index(settings)
        index.write(folder)
        return index
    index = read_index(folder)
    old, new = index.settings.to_dict(), settings.to_dict()
    if changed := sorted(name for name in new if old[name] != new[name]):
        raise ValueError(
            f"out: {folder} was made with other settings: "
            + "; ".join(f"{name} was {old[name]}, is {new[name]}" for name in changed)
        )
    return index


def _prepare_split(split, group, boundary, folder, index: Index, encode) -> Index:
    """`index` with the split's shards, all of them written."""
    done = index.count(split, "documents")
    documents = itertools.islice(_positions(group, boundary), done, None)
    bar = tqdm(
        total=sum(source.size for source in group),
        desc=split,
        unit=group[0].unit,
        unit_scale=True,
        mininterval=0.5,
        dynamic_ncols=True,
    )
    with bar:
        shard = _OpenShard(split, index)
        for position, ids, lengths, size in encode(_batches(documents)):
            shard.add(ids, lengths, size)
            if shard.tokens >= index.settings.shard_tokens:
                index = shard.close(folder)
                shard = _OpenShard(split, index)
            bar.set_postfix_str(f"{index.count(split, 'tokens') + shard.tokens:,} tokens", False)
            bar.update(position - bar.n)
        if shard.tokens:
            index = shard.close(folder)
    if not index.of(split):
        raise ValueError(f"data: wanted documents for {split}, got none")
    return index


def _positions(group: list[TextSource], boundary: str) -> Iterator[Document]:
    """All documents of the sources, with positions counted over all of them."""
    before = 0
    for source in group:
        for document in source.documents(boundary):
            yield document._replace(position=before + document.position)
        before += source.size


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch, size = [], 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _OpenShard:
    """The shard that documents go into; always ends after a batch, so that restarts do too."""

    def __init__(self, split: str, index: Index):
        self._index = index
        self._name = f"{split}-{len(index.of(split)):05d}"
        self._ids: list[np.ndarray] = []
        self._lengths: list[np.ndarray] = []
        self._size = 0
        self.tokens = 0

    def add(self, ids: np.ndarray, lengths: np.ndarray, size: int) -> None:
        """Appends a batch: ids, tokens of every document, bytes of text."""
        self._ids.append(ids)
        self._lengths.append(lengths)
        self._size += size
        self.tokens += len(ids)

    def close(self, folder: Path) -> Index:
        """Writes the shard, and the index that has it."""
        ids = np.concatenate(self._ids).astype(self._index.settings.dtype)
        ends = np.cumsum(np.concatenate(self._lengths), dtype=np.uint64)
        starts = np.concatenate([np.zeros(1, np.uint64), ends[:-1]])
        shard: Shard = write_shard(folder, self._name, ids, starts, self._size)
        index = self._index.replace(shards=(*self._index.shards, shard))
        index.write(folder)
        return index


@contextlib.contextmanager
def _encoder(tokenizer: str, workers: int):
    """A function from batches of documents to (position, ids, lengths, bytes), in their order."""
    if workers == 1:
        encoding.start(tokenizer)
        yield lambda batches: (_with_facts(b, encoding.encode(_texts(b))) for b in batches)
        return
    # Forked processes would hang on JAX's threads.
    pool = ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=encoding.start, initargs=(tokenizer,)
    )

    def encode(batches):
        waiting: collections.deque[tuple[list[Document], Future]] = collections.deque()
        for batch in batches:
            waiting.append((batch, pool.submit(encoding.encode, _texts(batch))))
            if len(waiting) >= AHEAD * workers:
                batch, future = waiting.popleft()
                yield _with_facts(batch, future.result())
        for batch, future in waiting:
            yield _with_facts(batch, future.result())

    try:
        yield encode
    finally:
        pool.shutdown(cancel_futures=True)


def _texts(batch: list[Document]) -> list[tuple[bytes, str]]:
    return [(document.text, document.where) for document in batch]


def _with_facts(batch: list[Document], encoded: tuple[np.ndarray, np.ndarray]):
    return batch[-1].position, *encoded, sum(len(document.text) for document in batch)
