# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""A sequence through one vector: the decoder of the compression task's auto-encoder."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from deltanet_jax.layers.linear import linear
from deltanet_jax.layers.norm import rms_norm


def sinusoids(length: int, size: int) -> Float[Array, "length size"]:
    """sin(p / 10000^(i / n)), then the cosines, for p < length, i < n = size / 2; float32.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5, sines before cosines.
    """
    half = size // 2
    frequencies = 10_000.0 ** (-jnp.arange(half) / max(half, 1))
    angles = jnp.arange(length)[:, None] * frequencies[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class Bottleneck(nnx.Module):
    """y_p = f(x_last + sinusoids_p), f being twice RMSNorm, Linear, GELU.

    So whatever a position's prediction needs to know has gone through the last position's vector.
    Source: the compression task of MAD (Poli et al. 2024, arXiv:2403.17844).
    """

    def __init__(self, d_model: int, *, init_std: float, norm_eps: float, dtype, param_dtype, rngs):
        if d_model % 2:
            raise ValueError(f"d_model: wanted an even number with bottleneck, got {d_model}")
        kinds = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.first_norm = rms_norm(d_model, eps=norm_eps, **kinds)
        self.first_proj = linear(d_model, d_model, init_std=init_std, **kinds)
        self.second_norm = rms_norm(d_model, eps=norm_eps, **kinds)
        self.second_proj = linear(d_model, d_model, init_std=init_std, **kinds)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        positions = sinusoids(*x.shape[1:]).astype(x.dtype)
        y = x[:, -1:] + positions[None]
        y = jax.nn.gelu(self.first_proj(self.first_norm(y)))
        return jax.nn.gelu(self.second_proj(self.second_norm(y)))
