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

logger = logging.getLogger("experiments")


@dataclasses.dataclass(frozen=True)
class TokensConfig(TaskConfig):
    """Which ids, and how they are cut.

    Attributes:
        data: `.npy` files, each a vector of uint16 or uint32 ids, read in this order as one
            stream, mapped into memory and never loaded whole. None: random ids by Zipf's law, for
            timing.
        vocab_size: every id is below it; checked in every window that is read.
        seq_len: tokens a window.
        document_start: the id before every document: nothing crosses it. -1: no documents.
        eval_fraction: share of the windows, at the end, held out.
        max_eval_windows: evaluate on this many windows at most, evenly spaced; 0 is all.
        data_seed: of the order of windows, and of random ids.
    """

    kind: ClassVar[str] = "tokens"
    data: tuple[str, ...] = ()
    vocab_size: int = 32_000
    seq_len: int = 2048
    document_start: int = -1
    eval_fraction: float = 0.001
    max_eval_windows: int = 256
    data_seed: int = 0

    def __post_init__(self):
        for name in ("vocab_size", "seq_len"):
            check_at_least(self, name, 1)
        check_at_least(self, "document_start", -1)
        for name in ("max_eval_windows", "data_seed"):
            check_at_least(self, name, 0)
        if not 0 < self.eval_fraction < 1:
            raise ValueError(
                f"eval_fraction: wanted more than 0, less than 1, got {self.eval_fraction}"
            )

    def make(self) -> "TokensTask":
        return TokensTask(self)


class Files:
    """Token files as one stream; a slice copies no more than it holds."""

    def __init__(self, names: tuple[str, ...]):
        self._parts = [self._open(name) for name in names]
        self._ends = np.cumsum([len(part) for part in self._parts])

    @staticmethod
    def _open(name: str) -> np.ndarray:
        if not Path(name).is_file():
            raise ValueError(f"data: wanted a .npy file of token ids, got {name!r}, not a file")
        try:
            array = np.load(name, mmap_mode="r", allow_pickle=False)
        except (
            Exception
        ) as error:  # NumPy reads headers with Python's parser, and raises its errors
            raise ValueError(f"data: {name}: wanted a .npy file of token ids") from error
        if array.ndim != 1 or array.dtype not in (np.uint16, np.uint32):
            raise ValueError(
                f"data: {name}: wanted a vector of uint16 or uint32 ids, got {array.ndim} axes of "
                f"{array.dtype}"
            )
        return array

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, start: int, stop: int) -> np.ndarray:
        """Ids start .. stop - 1."""
        pieces = []
        for part, end in zip(self._parts, self._ends, strict=True):
            first = int(end) - len(part)
            if start < end and stop > first:
                pieces.append(part[max(start - first, 0) : stop - first])
        return np.concatenate(pieces)


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
        return np.minimum(ids, len(self._cumulative) - 1).astype(np.uint32)


@dataclasses.dataclass(frozen=True)
class Windows:
    """Window i of a stream, counted from `first`: its ids, and for each the one after it."""

    stream: Files | Zipf
    config: TokensConfig
    first: int
    count: int

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        length = self.config.seq_len
        start = (self.first + int(index)) * length
        ids = self.stream.read(start, start + length + 1).astype(np.int32)
        if ids.max() >= self.config.vocab_size:
            raise ValueError(
                f"vocab_size: wanted more than every id, got {self.config.vocab_size}; the data "
                f"has {ids.max()} in window {self.first + int(index)}"
            )
        window = {
            "inputs": ids[:-1],
            "targets": ids[1:],
            "weights": np.ones(length, np.float32),
        }
        if self.config.document_start >= 0:
            starts = ids[:-1] == self.config.document_start
            window["segment_ids"] = np.cumsum(starts, dtype=np.int32)
        return window


class TokensTask:
    """Next-token prediction; reports perplexity."""

    def __init__(self, config: TokensConfig):
        self.config = config
        self.vocab_size = config.vocab_size
        stream = Files(config.data) if config.data else Zipf(config.vocab_size, config.data_seed)
        windows = (len(stream) - 1) // config.seq_len
        held_out = max(1, round(config.eval_fraction * windows))
        if windows < held_out + 1:
            raise ValueError(
                f"data: wanted at least two windows of seq_len = {config.seq_len}, got "
                f"{len(stream)} ids"
            )
        self._train = Windows(stream, config, 0, windows - held_out)
        self._held_out = Windows(stream, config, windows - held_out, held_out)
        logger.info("%d windows to train on, %d held out", windows - held_out, held_out)

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
