# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What tests of the delta rules' kernels share: inputs, segments, which GPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pallas_kernels.delta_rule import kernel_support

hopper = pytest.mark.skipif(
    getattr(jax.devices()[0], "compute_capability", None) != "9.0", reason="needs a Hopper GPU"
)
MANY = kernel_support.FEW_HEADS + 1  # heads times batch where tiles are made on the way
# Boundaries on a chunk's edge, inside one, several in one, and before the last token; one boundary;
# none.
BOUNDARIES = ((64, 70, 71, 90, 128, 196), (100,), ())


def make_inputs(batch, length, heads, key_size, value_size, dtype, *, beta_from=0.0, beta_to=1.0):
    """(q, k, v, beta, initial_state), (do, dfinal_state); unit keys."""
    keys = jax.random.split(jax.random.key(length + value_size), 7)

    def normal(i, *shape, dtype=dtype):
        return jax.random.normal(keys[i], shape, jnp.float32).astype(dtype)

    def unit(i):
        x = normal(i, batch, length, heads, key_size, dtype=jnp.float32)
        return (x / jnp.linalg.norm(x, axis=-1, keepdims=True)).astype(dtype)

    shape = (batch, length, heads)
    beta = jax.random.uniform(keys[2], shape, jnp.float32, beta_from, beta_to).astype(dtype)
    v = normal(3, *shape, value_size)
    state_shape = (batch, heads, key_size, value_size)
    cotangents = normal(5, *v.shape), normal(6, *state_shape, dtype=jnp.float32)
    return (unit(0), unit(1), v, beta, normal(4, *state_shape, dtype=jnp.float32)), cotangents


def segments_of(batch, length):
    """[B, T] ids, rows with BOUNDARIES in turn."""
    ids = np.zeros((batch, length), np.int32)
    for row in range(batch):
        for boundary in BOUNDARIES[row % len(BOUNDARIES)]:
            ids[row, boundary:] += 1
    return jnp.asarray(ids)
