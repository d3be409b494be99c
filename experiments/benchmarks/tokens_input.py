# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Tokens a second that the task `tokens` reads from a prepared folder:

    python -m experiments.benchmarks.tokens_input --data=DIR --record=FILE

Batches as training takes them, from the second on; the first has shards' checksums in it. With
boundaries between documents, and without.
"""

import json
import sys
import time
from pathlib import Path

from absl import flags

from deltanet_jax.train.files import write_atomically
from experiments.command import run
from experiments.flags import explain
from experiments.tasks.tokens.task import TokensConfig
from experiments.text.flags import define_input_benchmark_flags
from experiments.text.shards import read_index
from pallas_kernels._common.timing import machine_info


def measure(folder: Path, seq_len: int, batch_size: int, seconds: float, concatenate: bool) -> dict:
    """Reads for `seconds` and says how fast."""
    config = TokensConfig(
        (str(folder),),
        vocab_size=read_index(folder).settings.vocab_size,
        seq_len=seq_len,
        concatenate=concatenate,
    )
    began = time.perf_counter()
    data = iter(config.make().train_dataset(batch_size))
    next(data)
    start = time.perf_counter()
    batches, took = 0, 0.0
    while took < seconds:
        next(data)
        batches, took = batches + 1, time.perf_counter() - start
    return {
        "concatenate": concatenate,
        "seq_len": seq_len,
        "batch_size": batch_size,
        "batches": batches,
        "tokens_per_second": round(batches * batch_size * seq_len / took),
        "seconds_to_first_batch": round(start - began, 3),
    }


def main(argv: list[str]) -> None:
    del argv
    values = flags.FLAGS
    sizes = values.seq_len, values.batch_size, values.seconds
    try:
        rows = [measure(Path(values.data), *sizes, joined) for joined in (False, True)]
    except ValueError as error:
        sys.exit(f"error: {explain(error)}")
    record = {"rows": rows, "machine": machine_info()}
    print(json.dumps(rows))
    if values.record:
        write_atomically(Path(values.record), json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    define_input_benchmark_flags()
    run(main)
