# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Time steps softplus(x W + bias) of state-space layers: where they start (Gu, Dao 2023)."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

TIME_STEPS = (1e-3, 0.1)


def time_step_bias(size: int, param_dtype, rngs: nnx.Rngs) -> Float[Array, " size"]:
    """Biases of which softplus is log-uniform in TIME_STEPS."""
    low, high = (math.log(step) for step in TIME_STEPS)
    step = jnp.exp(jax.random.uniform(rngs.params(), (size,), minval=low, maxval=high))
    return (step + jnp.log(-jnp.expm1(-step))).astype(param_dtype)
