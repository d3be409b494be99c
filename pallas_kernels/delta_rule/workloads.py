# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Inputs of the delta rule by shape and difficulty: what tests and benchmarks share."""

import jax
import jax.numpy as jnp

KEYS = ("random", "repeated")


def make_inputs(
    key: jax.Array,
    batch: int,
    length: int,
    heads: int,
    k_dim: int,
    v_dim: int,
    dtype: jax.typing.DTypeLike = jnp.float32,
    *,
    beta_range: tuple[float, float] = (0.0, 1.0),
    keys: str = "random",
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """q, k (unit norm), v (standard normal), beta (uniform in `beta_range`), as `delta_rule` takes.

    `keys="repeated"` cycles through four keys, the hardest case for the triangular inverse.
    """
    if keys not in KEYS:
        raise ValueError(f"keys: wanted one of {KEYS}, got {keys!r}")
    q_key, k_key, v_key, beta_key = jax.random.split(key, 4)

    def unit(key):
        x = jax.random.normal(key, (batch, length, heads, k_dim), jnp.float32)
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

    k = unit(k_key)
    if keys == "repeated" and length > 0:
        k = k[:, jnp.arange(length) % min(4, length)]
    v = jax.random.normal(v_key, (batch, length, heads, v_dim), jnp.float32)
    low, high = beta_range
    beta = jax.random.uniform(beta_key, (batch, length, heads), jnp.float32, low, high)
    return tuple(x.astype(dtype) for x in (unit(q_key), k, v, beta))
