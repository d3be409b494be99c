# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Kimi Delta Attention's token mixer: Gated DeltaNet with a decay for every key channel."""

import dataclasses
from typing import ClassVar

import jax
from flax import nnx
from jaxtyping import Array, Float

from deltanet_jax.config import check_at_least
from deltanet_jax.layers.linear import linear
from deltanet_jax.mixers.base import Context, Equations
from deltanet_jax.mixers.gated_delta_net import GatedDeltaNet, GatedDeltaNetConfig


@dataclasses.dataclass(frozen=True)
class KDAConfig(GatedDeltaNetConfig):
    """Options of the KDA mixer: Gated DeltaNet's, and

    Attributes:
        decay_rank: rank of the maps from the input to the decays and to the output gate; None is a
            head's value size V.
    """

    kind: ClassVar[str] = "kda"
    equations: ClassVar[Equations] = Equations(
        recurrence="S_t = S_{t-1} diag(alpha_t) (I - beta_t k_t k_t^T) + beta_t v_t k_t^T",
        read_out="S_t q_t",
        parallel="chunks, WY form",
        source="Kimi Team 2025, arXiv:2510.26692",
    )
    implementations: ClassVar[tuple[str, ...]] = ("reference", "xla")
    residuals_kinds: ClassVar[tuple[str, ...]] = ("recompute",)
    decay_rank: int | None = None

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, "decay_rank", 1)


class KDA(GatedDeltaNet):
    """DeltaNet's projections; log decay g = -exp(A_log) softplus(x W_1 W_2 + dt_bias) of every key
    channel, A_log one a head; gated delta rule; RMSNorm per head; times sigmoid(x W_3 W_4); Linear.

    Recurrence S_t = S_{t-1} diag(exp(g_t)) (I - beta_t k_t k_t^T) + beta_t v_t k_t^T, read-out
    S_t q_t, state H K V numbers a layer. Source: Kimi Team 2025, arXiv:2510.26692, section 3; the
    initial values are Gated DeltaNet's, and no map has a bias, which are ours to choose.
    """

    gate_activation = staticmethod(jax.nn.sigmoid)

    def make_decay_map(self, context: Context, *, rngs: nnx.Rngs) -> int:
        """See gated_delta_net.py."""
        size = self.config.num_heads * self.qkv.head_k_dim
        self.decay_down_proj, self.decay_up_proj = self._low_rank(size, context, rngs)
        return size

    def make_gate(self, context: Context, *, rngs: nnx.Rngs) -> nnx.Module:
        """See recurrent.py."""
        size = self.config.num_heads * self.qkv.head_v_dim
        return nnx.Sequential(*self._low_rank(size, context, rngs))

    def _low_rank(self, size: int, context: Context, rngs: nnx.Rngs) -> tuple:
        rank = self.config.decay_rank or self.qkv.head_v_dim
        kinds = {"init_std": context.init_std, **context.kinds(), "rngs": rngs}
        return linear(context.d_model, rank, **kinds), linear(rank, size, **kinds)

    def decay_logits(self, x: Float[Array, "B T D"]) -> Float[Array, "B T decays"]:
        """See gated_delta_net.py."""
        return self.decay_up_proj(self.decay_down_proj(x))

    def log_decay(self, x: Float[Array, "B T D"]) -> Float[Array, "B T H K"]:
        """g, in the memory's dtype."""
        steps = self.time_steps(x)
        return -self.rates()[None, None, :, None] * steps.reshape(
            *x.shape[:2], self.config.num_heads, -1
        )
