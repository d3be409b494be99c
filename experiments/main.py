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
from experiments import distributed, dry_run, platform
from experiments.evaluate import print_sample, restore_weights
from experiments.flags import (
    define_platform_flags,
    define_run_flags,
    define_sample_flags,
    define_workdir,
    explain,
    profile_steps_from_flag,
    run_config_from_flags,
)
from experiments.logs import quiet_logs


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    workdir = Path(flags.FLAGS.workdir)
    try:
        values = flags.FLAGS
        if values.dry_run:
            dry_run.pretend(values.dry_run)
            config = run_config_from_flags(values.flag_values_dict())
            print(dry_run.report(config, values.device_memory_gib))
            return
        platform.configure(
            deterministic=values.deterministic, compilation_cache_dir=values.compilation_cache_dir
        )
        distributed.start(values.distributed)
        config = run_config_from_flags(values.flag_values_dict())
        result = train(
            config.model,
            config.train,
            config.task.make(),
            workdir,
            record=config.to_dict(),
            profile_steps=profile_steps_from_flag(values.profile_steps),
            wandb_project=values.wandb_project,
        )
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
    define_sample_flags()
    define_platform_flags()
    app.run(main)
