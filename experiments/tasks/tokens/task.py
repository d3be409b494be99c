# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Language modelling on token ids made beforehand, as a task; or on random ids, for timing."""

import dataclasses
import logging
import math
from pathlib import Path
from typing import ClassVar

import grain
import numpy as np

from deltanet_jax.config import check_at_least
from experiments.tasks.base import TaskConfig, evenly_spaced, shuffled_epochs
from experiments.text.shards import Ids, open_split, read_index

logger = logging.getLogger("experiments")


@dataclasses.dataclass(frozen=True)
class TokensConfig(TaskConfig):
    """Which ids, and how they are cut.

    Attributes:
        data: a folder made by experiments.prepare_data; or `.npy` files, each a vector of uint16 or
            uint32 ids, read in this order as one stream. Mapped into memory and never loaded
            whole. None: random ids by Zipf's law, for timing.
        vocab_size: every id is below it; checked in every window that is read.
        seq_len: tokens a window.
        document_start: of files, the id before every document: nothing crosses it. -1: no
            documents. A folder knows its own.
        concatenate: let documents follow one another as if they were one.
        tokenizer_digest: SHA-256 of the tokenizer that the folder's must be; "" is any.
        eval_fraction: share of the windows, at the end, held out; of a folder without a split
            "valid" too.
        max_eval_windows: evaluate on this many windows at most, evenly spaced; 0 is all.
        data_seed: of the order of windows, and of random ids.
    """

    kind: ClassVar[str] = "tokens"
    data: tuple[str, ...] = ()
    vocab_size: int = 32_000
    seq_len: int = 2048
    document_start: int = -1
    concatenate: bool = False
    tokenizer_digest: str = ""
    eval_fraction: float = 0.001
    max_eval_windows: int = 256
    data_seed: int = 0

    def __post_init__(self):
        for name in ("vocab_size", "seq_len"):
            check_at_least(self, name, 1)
        check_at_least(self, "document_start", -1)
        if self.concatenate and self.document_start >= 0:
            raise ValueError(
                f"document_start: wanted -1 with concatenate, got {self.document_start}"
            )
        for name in ("max_eval_windows", "data_seed"):
            check_at_least(self, name, 0)
        if not 0 < self.eval_fraction < 1:
            raise ValueError(
                f"eval_fraction: wanted more than 0, less than 1, got {self.eval_fraction}"
            )

    def make(self) -> "TokensTask":
        return TokensTask(self)


class Zipf:
    """Random ids, id i with probability proportional to 1 / (i + 1); the same wherever read."""

    BLOCK = 4096
    LENGTH = 2**40

    def __init__(self, vocab_size: int, seed: int):
        weights = 1 / np.arange(1, vocab_size + 1)
        self._cumulative = np.cumsum(weights / weights.sum())
        self._seed = seed

    def __len__(self) -> int:
        return self.LENGTH

    def read(self, start: int, stop: int) -> np.ndarray:
        """Ids start .. stop - 1."""
        first, last = start // self.BLOCK, (stop - 1) // self.BLOCK
        draws = [
            np.random.default_rng((self._seed, block)).random(self.BLOCK)
            for block in range(first, last + 1)
        ]
        offset = first * self.BLOCK
        draws = np.concatenate(draws)[start - offset : stop - offset]
        ids = np.searchsorted(self._cumulative, draws)
        return np.minimum(ids, len(self._cumulative) - 1).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Windows:
    """Window i of a stream, counted from `first`: its ids, and for each the one after it.

    Attributes:
        stream: of ids.
        seq_len: T.
        vocab_size: above every id.
        document_start: starts a segment; -1: no segments.
        first, count: windows of the stream that these are.
    """

    stream: Ids | Zipf
    seq_len: int
    vocab_size: int
    document_start: int
    first: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        start = (self.first + int(index)) * self.seq_len
        ids = self.stream.read(start, start + self.seq_len + 1)
        largest = int(ids.view(np.uint32).max())
        if largest >= self.vocab_size:
            raise ValueError(
                f"vocab_size: wanted more than every id, got {self.vocab_size}; the data "
                f"has {largest} in window {self.first + int(index)}"
            )
        window = {
            "inputs": ids[:-1],
            "targets": ids[1:],
            "weights": np.ones(self.seq_len, np.float32),
        }
        if self.document_start >= 0:
            window["segment_ids"] = np.cumsum(ids[:-1] == self.document_start, dtype=np.int32)
        return window


class TokensTask:
    """Next-token prediction; reports perplexity."""

    def __init__(self, config: TokensConfig):
        self.config = config
        self.vocab_size = config.vocab_size
        train, valid, document_start = _open(config)
        sizes = config.seq_len, config.vocab_size, document_start
        windows = _count(train, config.seq_len)
        if valid is None:
            held_out = max(1, round(config.eval_fraction * windows))
            self._train = Windows(train, *sizes, 0, windows - held_out)
            self._held_out = Windows(train, *sizes, windows - held_out, held_out)
        else:
            self._train = Windows(train, *sizes, 0, windows)
            self._held_out = Windows(valid, *sizes, 0, _count(valid, config.seq_len))
        if min(self._train.count, self._held_out.count) < 1:
            raise ValueError(
                f"data: wanted at least two windows of seq_len = {config.seq_len}, one of them "
                f"held out; got {len(train)} ids"
                + ("" if valid is None else f" to train on and {len(valid)} held out")
            )
        logger.info("%d windows to train on, %d held out", len(self._train), len(self._held_out))

    def train_dataset(self, batch_size: int) -> grain.IterDataset:
        """Epochs over the windows, each in another order."""
        return shuffled_epochs(self._train, self.config.data_seed, batch_size, threads=4)

    def eval_dataset(self) -> grain.MapDataset:
        """Held-out windows."""
        return evenly_spaced(self._held_out, self.config.max_eval_windows)

    def metrics(self, loss: float, accuracy: float) -> dict[str, float]:
        """exp(loss)."""
        del accuracy
        return {"perplexity": math.exp(min(loss, 700.0))}


def _count(stream: Ids | Zipf, seq_len: int) -> int:
    """Whole windows with the id after them."""
    return max(0, len(stream) - 1) // seq_len


def _open(config: TokensConfig) -> tuple[Ids | Zipf, Ids | None, int]:
    """(ids to train on, ids held out if they are apart, the id that starts segments or -1)."""
    if not config.data:
        return Zipf(config.vocab_size, config.data_seed), None, config.document_start
    paths = [Path(name) for name in config.data]
    if not paths[0].is_dir():
        return Ids(paths, [None] * len(paths)), None, config.document_start
    if len(paths) > 1:
        raise ValueError(f"data: wanted one folder, or files; got {', '.join(config.data)}")
    (folder,) = paths
    index = read_index(folder)
    settings = index.settings
    if not index.complete:
        raise ValueError(f"data: {folder} is not complete; experiments.prepare_data finishes it")
    if config.vocab_size < settings.vocab_size:
        raise ValueError(
            f"vocab_size: wanted at least the tokenizer's {settings.vocab_size}, "
            f"got {config.vocab_size}"
        )
    if config.tokenizer_digest not in ("", settings.tokenizer_digest):
        raise ValueError(
            f"tokenizer_digest: {folder} was made with the tokenizer {settings.tokenizer_digest}, "
            f"wanted {config.tokenizer_digest}"
        )
    if config.document_start not in (-1, settings.document_start):
        raise ValueError(
            f"document_start: wanted the tokenizer's {settings.document_start}, "
            f"got {config.document_start}"
        )
    valid = open_split(folder, index, "valid") if index.of("valid") else None
    start = -1 if config.concatenate else settings.document_start
    return open_split(folder, index, "train"), valid, start
