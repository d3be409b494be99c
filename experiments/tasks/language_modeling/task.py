# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Byte-level language modelling as a task."""

import dataclasses
import logging
import math
from typing import ClassVar

import grain
import numpy as np

from deltanet_jax.config import check_at_least
from experiments.tasks.base import TaskConfig, evenly_spaced, shuffled_epochs
from experiments.tasks.language_modeling import data
from experiments.text.documents import find_files

logger = logging.getLogger("experiments")


@dataclasses.dataclass(frozen=True)
class LanguageModelingConfig(TaskConfig):
    """What text, and how it is cut.

    Attributes:
        data: files and folders of text or JSONL (also .gz, .xz); none is the sources of Python's
            standard library.
        seq_len: bytes a window; windows of evaluation do not overlap and start without memory.
        eval_fraction: share of the documents (of the text, if documents are few) held out.
        max_eval_windows: evaluate on this many windows at most, evenly spaced; 0 is all.
        data_seed: of the split and of the order of windows.
    """

    kind: ClassVar[str] = "language_modeling"
    vocab_size: ClassVar[int] = 256
    data: tuple[str, ...] = ()
    seq_len: int = 512
    eval_fraction: float = 0.05
    max_eval_windows: int = 256
    data_seed: int = 0

    def __post_init__(self):
        check_at_least(self, "seq_len", 1)
        check_at_least(self, "max_eval_windows", 0)
        check_at_least(self, "data_seed", 0)
        if not 0 < self.eval_fraction < 1:
            raise ValueError(
                f"eval_fraction: wanted more than 0, less than 1, got {self.eval_fraction}"
            )

    def make(self) -> "LanguageModelingTask":
        return LanguageModelingTask(self)


@dataclasses.dataclass(frozen=True)
class Windows:
    """Window i of a byte stream: bytes i T .. i T + T - 1 and the byte after each.

    Documents inside a window are told apart by `segment_ids`: nothing crosses their boundary. The
    byte after a document's last one is the next one's start, so ends are predicted too.
    """

    stream: np.ndarray
    seq_len: int

    def __len__(self) -> int:
        return (len(self.stream) - 1) // self.seq_len

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        start = int(index) * self.seq_len
        window = self.stream[start : start + self.seq_len + 1].astype(np.int32)
        return {
            "inputs": window[:-1],
            "targets": window[1:],
            "weights": np.ones(self.seq_len, np.float32),
            "segment_ids": np.cumsum(window[:-1] == data.DOCUMENT_START, dtype=np.int32),
        }


class LanguageModelingTask:
    """Next-byte prediction; reports bits per byte."""

    def __init__(self, config: LanguageModelingConfig):
        self.config = config
        self.vocab_size = config.vocab_size
        files = find_files(config.data) if config.data else data.standard_library()
        documents = [d for path in files for d in data.read_documents(path)]
        train, held_out = data.split_documents(documents, config.eval_fraction, config.data_seed)
        for name, stream in (("training", train), ("evaluation", held_out)):
            if len(stream) <= config.seq_len:
                raise ValueError(
                    f"data: wanted more than seq_len = {config.seq_len} bytes for {name}, "
                    f"got {len(stream)}"
                )
        self._train = Windows(train, config.seq_len)
        self._held_out = Windows(held_out, config.seq_len)
        logger.info(
            "%d documents from %d files: %d bytes to train on, %d held out",
            *(len(documents), len(files), len(train), len(held_out)),
        )

    def train_dataset(self, batch_size: int) -> grain.IterDataset:
        """Epochs over the windows, each in another order."""
        return shuffled_epochs(self._train, self.config.data_seed, batch_size)

    def eval_dataset(self) -> grain.MapDataset:
        """Windows of the held-out text."""
        return evenly_spaced(self._held_out, self.config.max_eval_windows)

    def metrics(self, loss: float, accuracy: float) -> dict[str, float]:
        """Bits per byte; the end of a document counts as a byte."""
        del accuracy
        return {"bits_per_byte": loss / math.log(2)}
