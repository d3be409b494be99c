# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Gated linear attention's token mixer: a memory whose key channels decay by the input."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from deltanet_jax.config import check_at_least
from deltanet_jax.layers.linear import linear
from deltanet_jax.mixers.base import Context, Equations
from deltanet_jax.mixers.decaying import DecayingMixer
from deltanet_jax.mixers.recurrent import RecurrentConfig


@dataclasses.dataclass(frozen=True)
class GLAConfig(RecurrentConfig):
    """Options of the GLA mixer beside `RecurrentConfig`'s; the defaults are the paper's layer.

    Attributes:
        decay_rank: rank of the map from the input to the decays.
        decay_temperature: tau; decays are sigmoid(.)^(1 / tau), so that they start near 1.
    """

    kind: ClassVar[str] = "gla"
    equations: ClassVar[Equations] = Equations(
        recurrence="S_t = S_{t-1} diag(alpha_t) + v_t k_t^T",
        read_out="S_t q_t",
        parallel="chunks",
        source="Yang et al. 2023, arXiv:2312.06635",
    )
    k_width: ClassVar[float] = 0.5
    num_heads: int = 4
    conv_size: int = 0
    decay_rank: int = 16
    decay_temperature: float = 16.0

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, "decay_rank", 1)
        check_at_least(self, "decay_temperature", 1)

    def memory_flops(self, d_model: int, seq_len: int) -> float:
        """See base.py: decay, write, read out; the same for any length."""
        return self._state_flops(d_model, 5)


class GLA(DecayingMixer):
    """q, k, v: Linear (with a convolution: -> conv -> SiLU); decay of each key channel alpha =
    sigmoid(x W_1 W_2 + b)^(1 / tau); gated linear attention; RMSNorm per head; times
    silu(x W_gate); Linear.

    Recurrence S_t = S_{t-1} diag(alpha_t) + v_t k_t^T, read-out S_t q_t, state H K V numbers a
    layer, K = d_model / (2 H). Source: Yang et al. 2023, arXiv:2312.06635.
    """

    def make_controls(self, context: Context, *, rngs: nnx.Rngs) -> None:
        """See recurrent.py."""
        rank, size = self.config.decay_rank, self.config.num_heads * self.qkv.head_k_dim
        kinds = {"init_std": context.init_std, **context.kinds(), "rngs": rngs}
        self.decay_down_proj = linear(context.d_model, rank, **kinds)
        self.decay_up_proj = linear(rank, size, **kinds)
        self.decay_bias = nnx.Param(jnp.zeros((size,), context.param_dtype))

    def log_decay(self, x: Float[Array, "B T D"]) -> Float[Array, "B T H K"]:
        """log alpha, in the memory's dtype."""
        logits = self.decay_up_proj(self.decay_down_proj(x)).astype(self.memory_dtype)
        logits = logits + self.decay_bias[...].astype(self.memory_dtype)[None, None]
        g = jax.nn.log_sigmoid(logits) / self.config.decay_temperature
        return g.reshape(*x.shape[:2], self.config.num_heads, -1)

    def remember(self, x, q, k, v, *, memory, segment_ids):
        """See recurrent.py."""
        return self.attend(q, k, v, self.log_decay(x), memory=memory, segment_ids=segment_ids)
