# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Tokenizes text once, for training:

    python -m experiments.prepare_data --data=FILES --tokenizer=NAME --out=DIR

or --dataset=tfds:NAME. Text, JSONL, Parquet, plain or compressed, becomes shards of ids with an
index (experiments/text/shards.py) that the task `tokens` reads with `--data=DIR`. The same command
goes on where it stopped; prints one JSON line of counts at the end.
"""

import json
import os
import sys
from concurrent.futures import BrokenExecutor
from pathlib import Path

from absl import flags

from experiments.command import run

# The processes that tokenize import this file again, so what starts slowly (JAX) waits for `main`.


def main(argv: list[str]) -> None:
    del argv
    from experiments.flags import explain
    from experiments.logs import quiet_logs
    from experiments.text.prepare import prepare
    from experiments.text.shards import SPLITS
    from experiments.text.sources import sources_from_flags

    quiet_logs()
    values = flags.FLAGS
    try:
        index = prepare(
            sources_from_flags(values.flag_values_dict()),
            values.tokenizer,
            values.documents,
            Path(values.out),
            workers=values.workers or len(os.sched_getaffinity(0)),
            shard_tokens=values.shard_tokens,
        )
    except (ValueError, ImportError) as error:
        sys.exit(f"error: {explain(error)}")
    except BrokenExecutor as error:
        sys.exit(f"error: a process that tokenizes was killed; the same command goes on: {error}")
    counts = ("tokens", "documents", "text_bytes")
    print(json.dumps({s: {c: index.count(s, c) for c in counts} for s in SPLITS if index.of(s)}))


if __name__ == "__main__":
    from experiments.text.flags import define_prepare_flags

    define_prepare_flags()
    run(main)
