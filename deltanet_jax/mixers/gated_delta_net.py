# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Gated DeltaNet's token mixer: DeltaNet whose memory also decays."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from deltanet_jax.layers.linear import linear
from deltanet_jax.layers.time_step import time_step_bias
from deltanet_jax.mixers.base import Context, Equations, read_out
from deltanet_jax.mixers.delta_net import DeltaNet, DeltaNetConfig
from deltanet_jax.mixers.recurrent import is_one_step
from deltanet_jax.sharding import over_mesh
from pallas_kernels import gated_delta_rule, gated_delta_rule_sharded, gated_delta_rule_step
from pallas_kernels.gated_delta_rule.kernel_support import MAX_KEY_SIZE

LARGEST_RATE = 16.0


@dataclasses.dataclass(frozen=True)
class GatedDeltaNetConfig(DeltaNetConfig):
    """Options of the Gated DeltaNet mixer: DeltaNet's, with the output gate by default."""

    kind: ClassVar[str] = "gated_delta_net"
    equations: ClassVar[Equations] = Equations(
        recurrence="S_t = alpha_t S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T",
        read_out="S_t q_t",
        parallel="chunks, WY form",
        source="Yang, Kautz, Hatamizadeh 2025, arXiv:2412.06464",
    )
    implementations: ClassVar[tuple[str, ...]] = ("reference", "xla", "pallas")
    output_gate: bool = True

    def memory_flops(self, d_model: int, seq_len: int) -> float:
        """See base.py: decay, read, correct, write, read out; the same for any length."""
        return self._state_flops(d_model, 9)

    def kernel_residual_bytes(
        self, d_model: int, rows: int, columns: int, arguments_kept: bool
    ) -> int:
        """See base.py: DeltaNet's, where the kernels take the keys."""
        if self.head_sizes(d_model)[0] > MAX_KEY_SIZE:
            return 0
        return super().kernel_residual_bytes(d_model, rows, columns, arguments_kept)


class GatedDeltaNet(DeltaNet):
    """DeltaNet's projections; log decay g = -exp(A_log) softplus(x W_a + dt_bias) per head; gated
    delta rule; RMSNorm per head; times silu(x W_gate); Linear.

    Recurrence S_t = S_{t-1} (exp(g_t) (I - beta_t k_t k_t^T)) + beta_t v_t k_t^T, read-out S_t q_t,
    state H K V numbers a layer. Source: Yang, Kautz, Hatamizadeh 2025, arXiv:2412.06464; the
    decay is Mamba2's (Dao, Gu 2024, arXiv:2405.21060), with its initial values: exp(A_log) ~
    U(0, 16), softplus(dt_bias) log-uniform in [0.001, 0.1].
    """

    def make_controls(self, context: Context, *, rngs: nnx.Rngs) -> None:
        """See recurrent.py."""
        super().make_controls(context, rngs=rngs)
        heads = self.config.num_heads
        size = self.make_decay_map(context, rngs=rngs)
        # uniform() may give 0 and never 1; the rate must not be 0.
        rate = LARGEST_RATE * (1 - jax.random.uniform(rngs.params(), (heads,)))
        self.A_log = nnx.Param(jnp.log(rate).astype(context.param_dtype))
        self.dt_bias = nnx.Param(time_step_bias(size, context.param_dtype, rngs))

    def make_decay_map(self, context: Context, *, rngs: nnx.Rngs) -> int:
        """Makes the weights of `decay_logits`; returns how many there are a token."""
        heads = self.config.num_heads
        self.decay_proj = linear(
            context.d_model, heads, init_std=context.init_std, **context.kinds(), rngs=rngs
        )
        return heads

    def decay_logits(self, x: Float[Array, "B T D"]) -> Float[Array, "B T decays"]:
        """What dt_bias is added to."""
        return self.decay_proj(x)

    def log_decay(self, x: Float[Array, "B T D"]) -> Float[Array, "B T H"]:
        """g, in the memory's dtype."""
        return -self.rates()[None, None] * self.time_steps(x)

    def rates(self) -> Float[Array, " H"]:
        """exp(A_log), in the memory's dtype."""
        return jnp.exp(self.A_log[...].astype(self.memory_dtype))

    def time_steps(self, x: Float[Array, "B T D"]) -> Float[Array, "B T decays"]:
        """softplus(logits + dt_bias), in the memory's dtype."""
        bias = self.dt_bias[...].astype(self.memory_dtype)
        return jax.nn.softplus(self.decay_logits(x).astype(self.memory_dtype) + bias[None, None])

    def remember(self, x, q, k, v, *, memory, segment_ids):
        """See recurrent.py."""
        g, beta = self.log_decay(x), self.beta(x)
        if is_one_step(x, memory, segment_ids):
            o, memory = gated_delta_rule_step(memory, *(y[:, 0] for y in (q, k, v, g, beta)))
            return o[:, None], memory
        o, memory = over_mesh(gated_delta_rule, gated_delta_rule_sharded)(
            q,
            k,
            v,
            g,
            beta,
            initial_state=memory,
            segment_ids=segment_ids,
            chunk_size=self.config.chunk_size,
            implementation=self.config.implementation,
            residuals=self.config.residuals,
        )
        return read_out(o), memory
