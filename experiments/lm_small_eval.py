# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Figures of a language model trained on prepared text:

    python -m experiments.lm_small_eval --workdir=DIR --tokenizer=NAME --wikitext=wiki.test.raw

Perplexity of the held-out split, WikiText's word perplexity, and perplexity by position up to eight
times the training length, as one JSON record. Logits of a batch never exist at once.
"""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from tqdm import tqdm

from deltanet_jax.accounting import cost
from deltanet_jax.sharding import batch_ways
from deltanet_jax.train.evaluate import put_batch
from deltanet_jax.train.files import write_atomically
from deltanet_jax.train.loop import Trainer
from deltanet_jax.train.metrics import read_metrics
from deltanet_jax.train.task import Batch
from experiments import platform
from experiments.command import run
from experiments.flags import explain
from experiments.logs import quiet_logs
from experiments.restored import make_trainer, restore_weights
from experiments.run_config import RunConfig, read_run_config
from experiments.tasks.base import evenly_spaced
from experiments.tasks.tokens.task import TokensConfig, Windows
from experiments.text.flags import define_lm_small_eval_flags
from experiments.text.shards import open_split, read_index
from experiments.text.tokenizers import Tokenizer, load_tokenizer
from experiments.text.wikitext import Page, read_pages, rolling_windows
from pallas_kernels._common.timing import machine_info

LENGTHS = 8  # how many times the training length is evaluated
BUCKETS = 4  # of positions, a training length
BATCH_TOKENS = 2**16


class Scorer:
    """The cross-entropy of every prediction, in batches of one shape for each length of rows."""

    def __init__(self, trainer: Trainer, weights: dict):
        self._trainer, self._weights = trainer, weights

    def losses(self, rows: Sequence[Batch], length: int, name: str) -> list[np.ndarray]:
        """Nats at every position of every row, where its weight is not zero.

        Args:
            rows: arrays [n] each, n <= length, as `Batch` names them.
            length: rows are padded to it.
            name: the progress bar's.
        """
        mesh = self._trainer.mesh
        ways = batch_ways(mesh)
        size = ways * max(1, min(BATCH_TOKENS // length, len(rows)) // ways)
        losses = []
        with tqdm(total=len(rows), desc=name, unit="row", mininterval=0.5) as bar:
            for start in range(0, len(rows), size):
                group = [rows[i] for i in range(start, min(start + size, len(rows)))]
                batch = {k: _stack([row[k] for row in group], size, length) for k in group[0]}
                found = self._trainer.token_losses(self._weights, put_batch(batch, mesh))
                found = np.asarray(found, np.float64)
                losses += [
                    x[: len(row["inputs"])][row["weights"] > 0]
                    for x, row in zip(found, group, strict=False)
                ]
                bar.update(len(group))
        return losses


def _stack(arrays: list[np.ndarray], rows: int, length: int) -> np.ndarray:
    """[rows, length], zeros where there is nothing; a causal model does not see what follows."""
    whole = np.zeros((rows, length), arrays[0].dtype)
    for row, array in zip(whole, arrays, strict=False):
        row[: len(array)] = array
    return whole


def validation(scorer: Scorer, config: TokensConfig) -> dict:
    """Loss and perplexity of the windows that the run evaluates."""
    rows = config.make().eval_dataset()
    losses = np.concatenate(scorer.losses(rows, config.seq_len, "validation"))
    loss = float(losses.mean())
    return {"loss": loss, "perplexity": math.exp(loss), "tokens": len(losses)}


def wikitext(scorer: Scorer, pages: list[Page], tokenizer: Tokenizer, length: int) -> dict:
    """Word perplexity, byte perplexity and bits a byte of pages, as lm-evaluation-harness's."""
    rows = []
    for page in pages:
        ids = tokenizer.encode(page.text)
        for inputs, targets in rolling_windows(ids, tokenizer.document_start, length):
            context = len(inputs) - len(targets)
            rows.append(
                {
                    "inputs": np.array(inputs, np.int32),
                    "targets": np.array([0] * context + targets, np.int32),
                    "weights": np.arange(len(inputs)) >= context,
                }
            )
    losses = np.concatenate(scorer.losses(rows, length, "wikitext"))
    total = float(losses.sum())
    words, size = sum(page.words for page in pages), sum(page.bytes for page in pages)
    return {
        "word_perplexity": math.exp(total / words),
        "byte_perplexity": math.exp(total / size),
        "bits_per_byte": total / size / math.log(2),
        "words": words,
        "bytes": size,
        "pages": len(pages),
        "tokens": len(losses),
    }


def positions(scorer: Scorer, config: TokensConfig) -> dict:
    """Mean loss by position in rows of LENGTHS times the training length.

    Rows are cut from all text that was held out ("valid" and "test"), documents one after another
    as in training; of each `max_eval_windows` at most.

    Raises:
        ValueError: there is not one such row.
    """
    (folder,) = map(Path, config.data)
    index = read_index(folder)
    length = LENGTHS * config.seq_len
    rows: list[Batch] = []
    for split in ("valid", "test"):
        if index.of(split):
            stream = open_split(folder, index, split)
            count = (len(stream) - 1) // length
            windows = Windows(stream, length, config.vocab_size, -1, 0, count)
            rows += evenly_spaced(windows, config.max_eval_windows)
    if not rows:
        raise ValueError(f"data: wanted a held-out split of more than {length} ids in {folder}")
    losses = np.stack(scorer.losses(rows, length, "positions"))
    buckets = losses.reshape(len(rows), LENGTHS * BUCKETS, -1).mean(axis=(0, 2))
    return {
        "seq_len": length,
        "training_seq_len": config.seq_len,
        "rows": len(rows),
        "bucket": length // len(buckets),
        "loss": [round(float(x), 6) for x in buckets],
    }


def evaluate_lm(
    config: RunConfig,
    trainer: Trainer,
    weights: dict,
    pages: list[Page] | None,
    tokenizer: Tokenizer | None,
) -> dict:
    """All figures of a model; WikiText's only with pages and tokenizer.

    Raises:
        ValueError: the run is not of tokens from a prepared folder, or the tokenizer is not the
            data's.
    """
    task = config.task
    if not isinstance(task, TokensConfig) or len(task.data) != 1:
        raise ValueError(f"workdir: wanted a run on a prepared folder, got the task {task.kind!r}")
    data = read_index(Path(task.data[0])).settings
    if tokenizer is not None and tokenizer.digest != data.tokenizer_digest:
        raise ValueError(
            f"tokenizer: wanted the data's, SHA-256 {data.tokenizer_digest}, got {tokenizer.digest}"
        )
    scorer = Scorer(trainer, weights)
    figures = {"validation": validation(scorer, task)}
    if pages is not None:
        figures["wikitext"] = wikitext(scorer, pages, tokenizer, task.seq_len)
    return figures | {"positions": positions(scorer, task)}


def training_figures(config: RunConfig, rows: list[dict]) -> dict:
    """Sizes of a run, and what its log says of speed: medians without the first row, in which
    the compilation is.

    Args:
        config: of the run.
        rows: its metrics.jsonl.
    """
    model, train = config.model, config.train
    parameters = cost(model, config.task.seq_len).parameters
    copies = 1 if model.tie_embeddings else 2
    figures = {
        "parameters": parameters,
        "non_embedding_parameters": parameters - copies * model.vocab_size * model.d_model,
        "steps": train.num_steps,
        "tokens": train.num_steps * train.batch_size * config.task.seq_len,
    }
    speeds = [row for row in rows if "perf/tokens_per_second" in row][1:]
    for name in ("tokens_per_second", "mfu", "peak_memory_gib"):
        values = [row[f"perf/{name}"] for row in speeds if f"perf/{name}" in row]
        if values:
            figures[name] = float(np.median(values))
    return figures


def evaluate_workdir(workdir: Path, pages: list[Page] | None, tokenizer: Tokenizer | None) -> dict:
    """The record of a finished run. Raises ValueError if it is not finished."""
    config = read_run_config(workdir)
    # Scanned layers compile several times faster than layers laid out.
    trainer = make_trainer(config.replace(model=config.model.replace(scan_unroll=1)))
    step, weights = restore_weights(workdir, trainer)
    if step != config.train.num_steps:
        raise ValueError(
            f"workdir: wanted a finished run of {config.train.num_steps} steps, got {step}"
        )
    rows = read_metrics(workdir / "metrics.jsonl")
    figures = evaluate_lm(config, trainer, weights, pages, tokenizer)
    return training_figures(config, rows) | figures | {"machine": machine_info()}


def wikitext_from_flags(
    path: str | None, name: str | None
) -> tuple[list[Page] | None, Tokenizer | None]:
    """Pages and tokenizer, or neither. Raises ValueError if only one is given."""
    if bool(path) != bool(name):
        raise ValueError("wikitext: wanted --wikitext and --tokenizer together, got one of them")
    return (read_pages(Path(path)), load_tokenizer(name)) if path else (None, None)


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    values = flags.FLAGS
    try:
        platform.configure_from_flags(values)
        pages, tokenizer = wikitext_from_flags(values.wikitext, values.tokenizer)
        record = evaluate_workdir(Path(values.workdir), pages, tokenizer)
    except (ValueError, ImportError, OSError) as error:
        sys.exit(f"error: {explain(error)}")
    print(json.dumps(record))
    if values.record:
        write_atomically(Path(values.record), json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    define_lm_small_eval_flags()
    run(main)
