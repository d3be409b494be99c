# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Local files as a data set of tensorflow-datasets:

    python -m experiments.build_dataset --data=FILES --out=DIR

Makes DIR/local_text/1.0.0, ArrayRecord with the features "text" and "id" (file and line of the
document), which `tfds.data_source` reads, and `--dataset=tfds:local_text --dataset_dir=DIR` of
experiments.prepare_data. Needs tensorflow-datasets, not TensorFlow.
"""

import sys
from pathlib import Path

from absl import flags

from experiments.command import run
from experiments.flags import explain
from experiments.logs import quiet_logs
from experiments.text.flags import define_build_dataset_flags
from experiments.text.sources import find_sources


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    values = flags.FLAGS
    try:
        from experiments.text.tfds_text import build  # an optional package

        sources = find_sources(train=values.data, valid=values.valid_data, test=values.test_data)
        print(build(sources, values.documents, Path(values.out)))
    except (ValueError, ImportError) as error:
        sys.exit(f"error: {explain(error)}")


if __name__ == "__main__":
    define_build_dataset_flags()
    run(main)
