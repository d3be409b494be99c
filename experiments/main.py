# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Trains a preset: python -m experiments.main --preset=NAME --workdir=DIR [--flag=value ...]

The same command on the same workdir resumes. Ends with the evaluation and, for language models,
a continuation sampled from the checkpoint.
"""

import json
import sys
from pathlib import Path

import jax
from absl import app, flags

from deltanet_jax.train.loop import Trainer, train
from experiments import distributed
from experiments.evaluate import print_sample, restore_weights
from experiments.flags import (
    define_distributed,
    define_run_flags,
    define_workdir,
    explain,
    run_config_from_flags,
)
from experiments.logs import quiet_logs


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    workdir = Path(flags.FLAGS.workdir)
    try:
        distributed.start(flags.FLAGS.distributed)
        config = run_config_from_flags(flags.FLAGS.flag_values_dict())
        task = config.task.make()
        result = train(config.model, config.train, task, workdir, record=config.to_dict())
    except ValueError as error:
        sys.exit(f"error: {explain(error)}")
    if jax.process_index() == 0:
        print(json.dumps(result))
    if jax.process_count() > 1:
        return  # a sample needs all weights in one process: experiments.evaluate
    _, weights = restore_weights(workdir, config, Trainer(config.model, config.train))
    print_sample(config, weights, flags.FLAGS)


if __name__ == "__main__":
    define_workdir()
    define_run_flags()
    define_distributed()
    app.run(main)
