# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""A run's checkpoint as a model and its tokenizer, for the commands that come after training."""

import logging
from pathlib import Path

import jax
from flax import nnx

from deltanet_jax.model import LanguageModel
from deltanet_jax.sharding import MeshConfig, make_mesh
from deltanet_jax.train.checkpoint import Checkpoints
from deltanet_jax.train.loop import Trainer
from deltanet_jax.train.step import model_graph
from experiments.run_config import RunConfig, read_run_config
from experiments.text.tokenizers import Tokenizer, load_tokenizer

logger = logging.getLogger("experiments")


def restore_weights(workdir: Path, trainer: Trainer) -> tuple[int, dict]:
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


def restore_model(workdir: Path) -> tuple[int, RunConfig, LanguageModel]:
    """(step, config, model) of the newest intact checkpoint. Raises ValueError if there is none.

    The model's layers are scanned even where the run's were laid out: every shape that is asked of
    it compiles several times faster.
    """
    config = read_run_config(workdir)
    step, weights = restore_weights(workdir, make_trainer(config))
    return step, config, nnx.merge(model_graph(config.model.replace(scan_unroll=1)), weights)


def tokenizer_of(config: RunConfig, name: str | None) -> Tokenizer:
    """The tokenizer that `name` says (tokenizers.py), or bytes if the run is a byte-level one.

    Raises:
        ValueError: no name for a run on token ids, or a tokenizer of another vocabulary.
        ImportError: see `load_tokenizer`.
    """
    if name is None:
        if config.task.kind != "language_modeling":
            raise ValueError(
                "tokenizer: wanted the one that the run's tokens were made with, got none"
            )
        name = "bytes"
    tokenizer = load_tokenizer(name)
    made_with = getattr(config.task, "tokenizer_digest", "")  # of tasks on prepared tokens
    if made_with not in ("", tokenizer.digest):
        raise ValueError(
            f"tokenizer: wanted the one with digest {made_with}, got {tokenizer.digest} of {name!r}"
        )
    if tokenizer.vocab_size > config.model.vocab_size:
        raise ValueError(
            f"tokenizer: wanted at most the model's {config.model.vocab_size} ids, got "
            f"{tokenizer.vocab_size} of {name!r}"
        )
    return tokenizer
