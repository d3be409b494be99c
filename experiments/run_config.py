# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""All of one run: model, task, training. What config.json in a work directory holds."""

import dataclasses
from pathlib import Path

from deltanet_jax.config import Config
from deltanet_jax.model import ModelConfig
from deltanet_jax.train.config import TrainConfig
from deltanet_jax.train.files import read_json
from experiments.tasks.base import TaskConfig
from experiments.tasks.language_modeling.task import LanguageModelingConfig
from experiments.tasks.mad.task import MADConfig
from experiments.tasks.mqar.task import MQARConfig
from experiments.tasks.needle.task import NeedleConfig
from experiments.tasks.regbench.task import RegBenchConfig
from experiments.tasks.state_tracking.task import StateTrackingConfig
from experiments.tasks.tokens.task import TokensConfig

TASKS: dict[str, type[TaskConfig]] = {
    "mqar": MQARConfig,
    "mad": MADConfig,
    "regbench": RegBenchConfig,
    "state_tracking": StateTrackingConfig,
    "needle": NeedleConfig,
    "language_modeling": LanguageModelingConfig,
    "tokens": TokensConfig,
}


@dataclasses.dataclass(frozen=True)
class RunConfig(Config):
    """One run; `model.vocab_size` is the task's.

    Attributes:
        model, task, train: see their classes.
    """

    model: ModelConfig
    task: TaskConfig
    train: TrainConfig


def read_run_config(workdir: Path) -> RunConfig:
    """The config of the run in `workdir`. Raises ValueError if there is none, or not a config."""
    path = workdir / "config.json"
    if not path.is_file():
        raise ValueError(f"workdir: wanted the directory of a run, but {path} does not exist")
    return RunConfig.from_dict(read_json(path))
