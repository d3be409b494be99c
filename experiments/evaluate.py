# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Restores a run and evaluates it: python -m experiments.evaluate --workdir=DIR

Prints one JSON line of figures; a byte-level language model then continues a prompt with the
recurrent decoder. With --tasks=lambada,piqa --data=FOLDER, the figures are those of tasks in local
files, or with --harness of lm-evaluation-harness (experiments/evaluation).

On a CPU a run's own figures equal, bit for bit, those the training process printed at its end; on
a GPU XLA's autotuner may choose other matrix products in another process (BUILD.md, known traps).
"""

import json
import sys
from pathlib import Path

import jax
from absl import flags
from flax import nnx

from deltanet_jax.sampling import Sampling
from deltanet_jax.train.evaluate import evaluate
from deltanet_jax.train.step import model_graph
from experiments.command import run
from experiments.evaluation.run import TaskOptions, evaluate_tasks
from experiments.flags import (
    define_evaluation_flags,
    define_sample_flags,
    define_workdir,
    explain,
)
from experiments.logs import quiet_logs
from experiments.restored import make_trainer, restore_weights, tokenizer_of
from experiments.run_config import RunConfig, read_run_config
from experiments.text.completion import complete, document


def evaluate_run(workdir: Path) -> tuple[dict, RunConfig, dict]:
    """(figures with the checkpoint's step, the run's config, its weights)."""
    config = read_run_config(workdir)
    trainer = make_trainer(config)
    task = config.task.make()
    step, weights = restore_weights(workdir, trainer)
    result = evaluate(trainer.eval_step, weights, task, config.train.part_size, trainer.mesh)
    return {"step": step, **result}, config, weights


def sample_text(config: RunConfig, weights: dict, values: flags.FlagValues) -> str:
    """Prompt and continuation of a byte-level language model, as text."""
    tokenizer = tokenizer_of(config, None)
    (text,) = complete(
        nnx.merge(model_graph(config.model), weights),
        tokenizer,
        [document(tokenizer, values.prompt)],
        values.sample_tokens,
        key=jax.random.key(values.sample_seed),
        sampling=Sampling(temperature=values.temperature),
    )
    return values.prompt + text


def wants_sample(config: RunConfig, values: flags.FlagValues) -> bool:
    """Whether the run is a language model of bytes and a sample is asked for.

    Raises ValueError if there is a prompt and the run is none.
    """
    of_bytes = config.task.kind == "language_modeling"
    if values.prompt and not of_bytes:
        raise ValueError(
            "prompt: wanted a run on bytes, or experiments.generate, which takes a tokenizer; got "
            f"the task {config.task.kind!r}"
        )
    return of_bytes and values.sample_tokens > 0


def print_sample(config: RunConfig, weights: dict, values: flags.FlagValues) -> None:
    """The sampled continuation."""
    print(f"--- {values.sample_tokens} bytes sampled at temperature {values.temperature}")
    print(sample_text(config, weights, values))
    print("---")


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    values = flags.FLAGS
    workdir = Path(values.workdir)
    try:
        if (options := TaskOptions.from_flags(values)) is not None:
            print(json.dumps(evaluate_tasks(workdir, options)))
            return
        sample = wants_sample(read_run_config(workdir), values)
        result, config, weights = evaluate_run(workdir)
    except (ValueError, ImportError) as error:
        sys.exit(f"error: {explain(error)}")
    print(json.dumps(result))
    if sample:
        print_sample(config, weights, values)


if __name__ == "__main__":
    define_workdir()
    define_sample_flags()
    define_evaluation_flags()
    run(main)
