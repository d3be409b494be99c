# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Checks every byte of a run's checkpoints: python -m experiments.verify --workdir=DIR

One line a checkpoint: step, "intact" or what is wrong with it, size. Changes nothing. Exits with 1
if none is intact or one that a run would resume from is not.
"""

import sys
from pathlib import Path

from absl import flags

from deltanet_jax.train.checkpoint import Checkpoints
from experiments.command import run
from experiments.flags import define_workdir


def main(argv: list[str]) -> None:
    del argv
    directory = Path(flags.FLAGS.workdir) / "checkpoints"
    if not directory.is_dir():
        sys.exit(f"error: --workdir: wanted the directory of a run, but {directory} does not exist")
    with Checkpoints(directory) as checkpoints:
        found = checkpoints.check_all()
    for one in found:
        print(f"{one.name:>20}  {one.bytes:>15,} bytes  {one.problem or 'intact'}")
    current = [one for one in found if one.name.isdecimal()]
    if not current or any(one.problem for one in current):
        sys.exit(f"error: {sum(one.problem is None for one in current)} of {len(current)} intact")


if __name__ == "__main__":
    define_workdir()
    run(main)
