# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Where numbers go: JSON lines (the record), TensorBoard (a view of it), a progress bar."""

import json
import os
import sys
from pathlib import Path

import jax
from tensorboardX import SummaryWriter
from tqdm import tqdm


class MetricsLog:
    """Appends rows to `metrics.jsonl` and TensorBoard events under a directory.

    Rows past `step` are dropped when the log is opened, so that after a crash and a resume the
    file reads as if nothing had happened.
    """

    def __init__(self, directory: Path, step: int):
        self._file = self._board = None
        if jax.process_index() > 0:  # the first process writes for all
            return
        path = directory / "metrics.jsonl"
        if path.exists():
            rows = [r for r in read_metrics(path) if r["step"] <= step]
            temporary = path.with_suffix(".tmp")
            temporary.write_text("".join(json.dumps(r) + "\n" for r in rows))
            os.replace(temporary, path)
        self._file = path.open("a")
        self._board = SummaryWriter(
            str(directory / "tensorboard"), purge_step=step + 1, write_to_disk=True
        )

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """One row: {"step": ..., "train/loss": ...}."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._board.close()


def read_metrics(path: Path) -> list[dict]:
    """Rows of a `metrics.jsonl`; a last line cut off by a crash is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Progress:
    """A bar with loss, accuracy and time left; where no terminal is, a line every ten seconds."""

    def __init__(self, name: str, total: int, done: int):
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=name,
            unit="step",
            file=sys.stderr,
            dynamic_ncols=True,
            disable=jax.process_index() > 0,
            mininterval=0.5 if sys.stderr.isatty() else 10.0,
        )

    def update(self, step: int, loss: float, accuracy: float) -> None:
        """Shows the figures of `step`, the number of steps done."""
        self._bar.set_postfix_str(f"loss {loss:.4f}, accuracy {accuracy:.3f}", refresh=False)
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        self._bar.close()
