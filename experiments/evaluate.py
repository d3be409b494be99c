# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Restores a run and evaluates it: python -m experiments.evaluate --workdir=DIR

Prints one JSON line of figures; a language model then continues a prompt with the recurrent
decoder. On a CPU the figures equal, bit for bit, those the training process printed at its end; on
a GPU XLA's autotuner may choose other matrix products in another process (BUILD.md, known traps).
"""

import json
import logging
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from flax import nnx

from deltanet_jax.generate import generate
from deltanet_jax.sharding import MeshConfig, make_mesh
from deltanet_jax.train.checkpoint import Checkpoints
from deltanet_jax.train.evaluate import evaluate
from deltanet_jax.train.loop import Trainer
from deltanet_jax.train.step import model_graph
from experiments.flags import define_sample_flags, define_workdir, explain
from experiments.logs import quiet_logs
from experiments.run_config import RunConfig, read_run_config
from experiments.tasks.language_modeling.data import DOCUMENT_START

logger = logging.getLogger("experiments")


def restore_weights(workdir: Path, config: RunConfig, trainer: Trainer) -> tuple[int, dict]:
    """The newest intact checkpoint's step and weights. Raises ValueError if there is none."""
    directory = workdir / "checkpoints"
    if not directory.is_dir():
        raise ValueError(f"workdir: {workdir} holds no checkpoints")
    with Checkpoints(directory) as checkpoints:
        step = checkpoints.newest()
        if step is None:
            raise ValueError(f"workdir: {workdir} holds no intact checkpoint")
        return step, checkpoints.restore(step, trainer.abstract_state).weights


def one_device_trainer(config: RunConfig) -> Trainer:
    """The run's steps on one device, whatever it was trained on."""
    train = config.train.replace(mesh=MeshConfig(data=1))
    return Trainer(config.model, train, jax.devices()[:1])


def make_trainer(config: RunConfig) -> Trainer:
    """The run's steps, on the mesh it was trained on; on one device where that doesn't fit."""
    try:
        make_mesh(config.train.mesh)
    except ValueError:
        logger.info("this machine has not the devices of the training's mesh: one is used")
        return one_device_trainer(config)
    return Trainer(config.model, config.train)


def evaluate_run(workdir: Path) -> tuple[dict, RunConfig, dict]:
    """(figures with the checkpoint's step, the run's config, its weights)."""
    config = read_run_config(workdir)
    trainer = make_trainer(config)
    task = config.task.make()
    step, weights = restore_weights(workdir, config, trainer)
    result = evaluate(trainer.eval_step, weights, task, config.train.part_size, trainer.mesh)
    return {"step": step, **result}, config, weights


def sample_text(
    config: RunConfig, weights: dict, prompt: str, num_tokens: int, temperature: float, seed: int
) -> str:
    """Prompt and continuation of a byte-level language model, as text."""
    model = nnx.merge(model_graph(config.model), weights)
    ids = np.frombuffer(bytes([DOCUMENT_START]) + prompt.encode(), np.uint8).astype(np.int32)
    new = generate(
        model, jnp.asarray(ids[None]), num_tokens, key=jax.random.key(seed), temperature=temperature
    )
    text = prompt.encode() + bytes(np.asarray(new[0], np.uint8))
    # A new document begins where the model ended this one.
    return text.split(bytes([DOCUMENT_START]))[0].decode(errors="replace")


def print_sample(config: RunConfig, weights: dict, values: flags.FlagValues) -> None:
    """The sampled continuation, if the run is a language model and samples are wanted."""
    if config.task.kind != "language_modeling" or values.sample_tokens == 0:
        return
    text = sample_text(
        config,
        weights,
        values.prompt,
        values.sample_tokens,
        values.temperature,
        values.sample_seed,
    )
    print(f"--- {values.sample_tokens} bytes sampled at temperature {values.temperature}")
    print(text)
    print("---")


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    try:
        result, config, weights = evaluate_run(Path(flags.FLAGS.workdir))
    except ValueError as error:
        sys.exit(f"error: {explain(error)}")
    print(json.dumps(result))
    print_sample(config, weights, flags.FLAGS)


if __name__ == "__main__":
    define_workdir()
    define_sample_flags()
    app.run(main)
