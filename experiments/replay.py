# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Runs the step again that stopped a run: python -m experiments.replay --workdir=DIR

Prints one JSON line: the step, its loss and gradient norm, and the weights whose gradient is not
finite. Needs the devices of the run's mesh for the same bits.
"""

import json
import sys
from pathlib import Path

from absl import flags

from deltanet_jax.train import replay
from experiments.command import run
from experiments.flags import define_workdir, explain
from experiments.logs import quiet_logs
from experiments.restored import make_trainer
from experiments.run_config import read_run_config


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    workdir = Path(flags.FLAGS.workdir)
    try:
        trainer = make_trainer(read_run_config(workdir))
        step, state, batch = replay.load(workdir, trainer.abstract_state)
    except ValueError as error:
        sys.exit(f"error: {explain(error)}")
    print(json.dumps({"step": step, **replay.run_again(trainer, state, batch)}))


if __name__ == "__main__":
    define_workdir()
    run(main)
