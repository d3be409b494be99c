# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Trains a preset: python -m experiments.main --preset=NAME --workdir=DIR [--flag=value ...]

The same command on the same workdir resumes, and so does --workdir=DIR alone. Ends with the
evaluation and, for byte-level language models, a continuation sampled from the checkpoint.
"""

import json
import sys
from pathlib import Path

import jax
from absl import flags

from deltanet_jax.train.checkpoint import CheckpointError
from deltanet_jax.train.guard import SkippedSteps
from deltanet_jax.train.loop import Trainer, train
from deltanet_jax.train.stop import INTERRUPTED, IO_ERROR, NOT_FINITE, Interrupted, Stop
from experiments import distributed, dry_run, platform
from experiments.command import run
from experiments.evaluate import print_sample, wants_sample
from experiments.flags import (
    define_platform_flags,
    define_preset,
    define_run_flags,
    define_sample_flags,
    define_workdir,
    explain,
    profile_steps_from_flag,
    run_config_from_flags,
)
from experiments.logs import quiet_logs
from experiments.restored import restore_weights
from experiments.run_config import RunConfig, read_run_config

# What ends a run otherwise than by finishing it. docs/reliability.md has the table.
EXIT_CODES = {
    Interrupted: INTERRUPTED,
    SkippedSteps: NOT_FINITE,
    CheckpointError: IO_ERROR,
    OSError: IO_ERROR,
}


def _end(error: Exception) -> None:
    """Says what happened and ends the process with the error's code."""
    for line in (f"error: {error}", *getattr(error, "__notes__", ())):
        print(line, file=sys.stderr)
    sys.exit(next(code for kind, code in EXIT_CODES.items() if isinstance(error, kind)))


def _run_config(workdir: Path, values: flags.FlagValues) -> RunConfig:
    """What the flags say; without a preset the run is the one that `workdir` holds."""
    base = None
    if values.preset is None:
        if not (workdir / "config.json").is_file():
            raise ValueError(f"preset: wanted a preset, or a run in {workdir} to go on with")
        base = read_run_config(workdir)
    return run_config_from_flags(values.flag_values_dict(), base)


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    workdir = Path(flags.FLAGS.workdir)
    try:
        values = flags.FLAGS
        if values.dry_run:
            dry_run.pretend(values.dry_run)
            config = _run_config(workdir, values)
            print(dry_run.report(config, values.device_memory_gib))
            return
        if values.device_memory_gib is not None:
            raise ValueError("device_memory_gib: wanted --dry_run with it, got none")
        platform.configure_from_flags(values)
        distributed.start(values.distributed, values.heartbeat_seconds)
        stop = Stop()
        # jax.distributed has a handler of its own, which this one replaces.
        with stop.on_signals(processes=bool(values.distributed)):
            config = _run_config(workdir, values)
            sample = wants_sample(config, values)
            with dry_run.explained_out_of_memory(config):
                result = train(
                    config.model,
                    config.train,
                    config.task.make(),
                    workdir,
                    record=config,
                    profile_steps=profile_steps_from_flag(values.profile_steps),
                    wandb_project=values.wandb_project,
                    stop=stop,
                    hang_seconds=values.hang_seconds,
                    on_save_error=values.on_save_error,
                    allow_data_change=values.allow_data_change,
                )
            stop.unsaved = False  # from here on a signal ends the process at once
            if jax.process_index() == 0:
                print(json.dumps(result), flush=True)
            # A sample needs all weights in one process: experiments.evaluate.
            if jax.process_count() == 1 and sample:
                _, weights = restore_weights(workdir, Trainer(config.model, config.train))
                print_sample(config, weights, values)
    except ValueError as error:
        sys.exit(f"error: {explain(error)}")
    except tuple(EXIT_CODES) as error:
        _end(error)


if __name__ == "__main__":
    define_workdir()
    define_preset(required=False)
    define_run_flags()
    define_sample_flags()
    define_platform_flags()
    run(main)
