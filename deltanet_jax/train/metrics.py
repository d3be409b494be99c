# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Where numbers go: JSON lines (the record), TensorBoard (a view of it), a progress bar."""

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path

import jax
from tqdm import tqdm

from deltanet_jax.train.board import Board
from deltanet_jax.train.files import first_process, write_atomically

logger = logging.getLogger("deltanet_jax")


class MetricsLog:
    """Appends rows to `metrics.jsonl` and TensorBoard events under a directory.

    Rows past `step` are dropped when the log is opened, so that after a crash and a resume the
    file reads as if nothing had happened.
    """

    def __init__(
        self,
        directory: Path,
        step: int,
        *,
        wandb_project: str | None = None,
        config: dict | None = None,
    ):
        self._file = self._board = self._wandb = None
        self._evaluated: set[int] = set()
        if jax.process_index() > 0:  # the first process writes for all
            return
        path = directory / "metrics.jsonl"
        if path.exists():
            rows = keep_rows(path, lambda row: row["step"] <= step)
            self._evaluated = {row["step"] for row in rows if "eval/loss" in row}
        self._file = path.open("a")
        self._board = Board(directory / "tensorboard", step + 1)
        if wandb_project is not None:
            self._wandb = _start_wandb(directory, wandb_project, config)

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """One row: {"step": ..., "train/loss": ...}."""
        if self._file is None:
            return
        self._file.write(json.dumps({"step": step, **metrics}) + "\n")
        self._file.flush()
        self._board.write(step, metrics)
        if self._wandb is not None:
            self._wandb.log(metrics, step=step)

    def evaluated(self, step: int) -> bool:
        """Whether the log had an evaluation of `step` when it was opened."""
        return bool(first_process(lambda: int(step in self._evaluated)))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def _start_wandb(directory: Path, project: str, config: dict | None):
    """The Weights & Biases run of a work directory: its id is kept there, so it can go on."""
    try:
        import wandb
    except ModuleNotFoundError:
        raise ValueError("wandb_project: wanted the package wandb: pip install wandb") from None
    path = directory / "wandb_id.txt"
    if not path.exists():
        path.write_text(wandb.util.generate_id())
    return wandb.init(
        project=project, id=path.read_text(), resume="allow", dir=str(directory), config=config
    )


def named(group: str, values: dict[str, float]) -> dict[str, float]:
    """{"loss": ...} -> {"eval/loss": ...}."""
    return {f"{group}/{k}": v for k, v in values.items()}


def read_metrics(path: Path) -> list[dict]:
    """Rows of a `metrics.jsonl`, up to the first line that is none.

    That is a last line cut off by a crash, or the file is damaged, which is logged.
    """
    rows: list[dict] = []
    lines = path.read_text(errors="replace").splitlines()
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            break
        rows.append(row)
    if len(rows) < len(lines) - 1:
        logger.warning("%s: line %d is damaged, left out with all after it", path, len(rows) + 1)
    return rows


def keep_rows(path: Path, keep: Callable[[dict], bool]) -> list[dict]:
    """Drops the other rows of a file of JSON lines, all at once; returns those kept."""
    rows = [row for row in read_metrics(path) if keep(row)]
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))
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

    def update(self, step: int, text: str) -> None:
        """Shows `text` about `step`, the number of steps done."""
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        self._bar.close()
