# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Hyena's long filters: a small network from a position to the filters' taps there."""

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from deltanet_jax.layers.linear import linear
from pallas_kernels._common.precision import state_dtype

# A filter's envelope has decayed to TARGET after these shares of `length`, fastest and slowest.
TARGET, FASTEST, SLOWEST = 1e-2, 0.3, 1.5


class ImplicitFilter(nnx.Module):
    """h_t = exp(-rate t / length) * W sin(f sin(f sin(f features(t)))), and `skip` more at t = 0.

    Features: t / length, then cosines and sines of `bands` frequencies; `f` are learned frequencies
    of the sines; linear maps lie between. Rates are fixed, from slow to fast over the filters.
    Source: Poli et al. 2023, arXiv:2302.10866, section 3.3; without biases.
    """

    def __init__(self, filters: int, length: int, *, hidden: int, bands: int, dtype, rngs):
        self.filters, self.length, self.bands = filters, length, bands
        self.dtype = state_dtype(dtype)

        def layer(rows: int, columns: int):
            kinds = {"dtype": self.dtype, "param_dtype": jnp.float32, "rngs": rngs}
            return linear(rows, columns, init_std=rows**-0.5, **kinds)

        sizes = [1 + 2 * bands, hidden, hidden, hidden, filters]
        self.layers = nnx.List([layer(*pair) for pair in zip(sizes, sizes[1:], strict=False)])
        self.frequency = nnx.Param(jnp.ones((hidden,), jnp.float32))
        self.skip = nnx.Param(jnp.ones((filters,), jnp.float32))

    def __call__(self, length: int) -> Float[Array, "length filters"]:
        """The first `length` taps of all filters, float32 (float64 in a float64 model)."""
        times = jnp.arange(length, dtype=self.dtype)[:, None] / self.length
        angles = 2 * math.pi * times * jnp.arange(1, self.bands + 1, dtype=self.dtype)[None]
        y = jnp.concatenate([times, jnp.cos(angles), jnp.sin(angles)], axis=-1)
        for layer in self.layers[:-1]:
            y = jnp.sin(self.frequency[...].astype(self.dtype)[None] * layer(y))
        y = self.layers[-1](y)
        fastest, slowest = (-math.log(TARGET) / share for share in (FASTEST, SLOWEST))
        rates = jnp.linspace(slowest, fastest, self.filters, dtype=self.dtype)
        y = y * jnp.exp(-times * rates[None])
        return y.at[0].add(self.skip[...].astype(self.dtype))
