# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The SwiGLU feed-forward layer (Shazeer 2020, arXiv:2002.05202)."""

import jax
from flax import nnx
from jaxtyping import Array, Float

from deltanet_jax.layers.linear import linear


def default_hidden_size(d_model: int) -> int:
    """8/3 of the model's width, rounded up to a multiple of 256, as Llama-style models do."""
    return 256 * -(-(8 * d_model // 3) // 256)


class SwiGLU(nnx.Module):
    """x -> (silu(x W_gate) * x W_up) W_down."""

    def __init__(
        self,
        d_model: int,
        hidden_size: int,
        *,
        init_std: float,
        out_init_std: float,
        dtype,
        param_dtype,
        rngs: nnx.Rngs,
    ):
        kinds = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.gate_proj = linear(d_model, hidden_size, init_std=init_std, **kinds)
        self.up_proj = linear(d_model, hidden_size, init_std=init_std, **kinds)
        self.down_proj = linear(hidden_size, d_model, init_std=out_init_std, **kinds)

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D_out"]:
        return self.down_proj(jax.nn.silu(self.gate_proj(x)) * self.up_proj(x))
