# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The optimiser from its config: Optax does the work."""

import jax
import optax

from deltanet_jax.sharding import path_name
from deltanet_jax.train.config import OptimizerConfig

Scalar = float | jax.Array


def make_schedule(
    config: OptimizerConfig, num_steps: int, learning_rate: Scalar | None = None
) -> optax.Schedule:
    """Learning rate by step: warm-up from the minimum, then what `config.schedule` says.

    `learning_rate`, which may be traced, takes the place of the config's.
    """
    low, warmup = config.min_learning_rate, config.warmup_steps
    peak = config.learning_rate if learning_rate is None else learning_rate
    if config.schedule == "cosine":
        cosine = optax.cosine_decay_schedule(1.0, max(num_steps - warmup, 1))

        def after(step):
            return low + (peak - low) * cosine(step)

    else:
        after = optax.constant_schedule(peak)
    if config.decay_steps:
        decay = optax.linear_schedule(peak, low, config.decay_steps)
        after = optax.join_schedules([after, decay], [num_steps - warmup - config.decay_steps])
    if warmup == 0:
        return after
    return optax.join_schedules([optax.linear_schedule(low, peak, warmup), after], [warmup])


# Ends of weights' paths: scales and biases of norms, biases of decays, time steps and convolutions,
# and the rates of Gated DeltaNet, KDA and Mamba (RWKV-4's log_decay_rate is not among them).
NOT_DECAYED = ("scale", "bias", "A_log")


def check_param_dtype(param_dtype: str) -> None:
    """Raises ValueError for weights that AdamW cannot train.

    Its moments have the weights' dtype: squares of gradients below 2e-4, and eps, are 0 in float16.
    """
    if param_dtype == "float16":
        raise ValueError(
            "param_dtype: wanted float32, bfloat16 or float64 to train, as squares of gradients "
            "vanish in 16 bits with 5 for the exponent, got 'float16'"
        )


def make_optimizer(
    config: OptimizerConfig,
    num_steps: int,
    *,
    learning_rate: Scalar | None = None,
    weight_decay: Scalar | None = None,
) -> optax.GradientTransformation:
    """Clipping by global norm, then AdamW; NOT_DECAYED weights are not decayed.

    `learning_rate` and `weight_decay`, which may be traced, take the place of the config's.
    """

    def decayed(weights):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: not path_name(path).endswith(NOT_DECAYED), weights
        )

    return optax.chain(
        optax.clip_by_global_norm(config.grad_clip_norm),
        optax.adamw(
            make_schedule(config, num_steps, learning_rate),
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay if weight_decay is None else weight_decay,
            mask=decayed,
        ),
    )
