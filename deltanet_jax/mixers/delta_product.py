# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""DeltaProduct's token mixer: several steps of the delta rule for every token."""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from deltanet_jax.config import check_at_least
from deltanet_jax.mixers.base import Context, Equations, read_out
from deltanet_jax.mixers.delta_net import DeltaNet, DeltaNetConfig
from deltanet_jax.mixers.recurrent import is_one_step
from pallas_kernels import delta_rule_step


@dataclasses.dataclass(frozen=True)
class DeltaProductConfig(DeltaNetConfig):
    """Options of the DeltaProduct mixer: DeltaNet's, with negative eigenvalues by default.

    Attributes:
        num_householder: steps n of a token, each with a key, a value and a beta of its own.
    """

    kind: ClassVar[str] = "delta_product"
    equations: ClassVar[Equations] = Equations(
        recurrence="n steps of DeltaNet a token, each with its k, v, beta",
        read_out="S_t q_t",
        parallel="chunks, WY form, of a sequence n times as long",
        source="Siems et al. 2025, arXiv:2502.10297",
    )
    allow_neg_eigval: bool = True
    num_householder: int = 2

    def __post_init__(self):
        super().__post_init__()
        check_at_least(self, "num_householder", 1)

    def memory_flops(self, d_model: int, seq_len: int) -> float:
        """See base.py: n times read, correct and write; read out once; the same for any length."""
        return self._state_flops(d_model, 6 * self.num_householder + 2)

    def kernel_residual_bytes(
        self, d_model: int, rows: int, columns: int, arguments_kept: bool
    ) -> int:
        """See base.py: DeltaNet's of n times as many tokens."""
        columns *= self.num_householder
        return super().kernel_residual_bytes(d_model, rows, columns, arguments_kept)


class DeltaProduct(DeltaNet):
    """DeltaNet with n keys, values and betas a token and head, written one after the other.

    Recurrence S_t = S_{t-1} prod_j (I - beta_tj k_tj k_tj^T) + what the steps write, read-out
    S_t q_t, state H K V numbers a layer. The transition is a product of n generalised Householder
    matrices; n = 1 is DeltaNet. It runs as the delta rule on a sequence n times as long, of which
    every n-th read-out is kept. Source: Siems et al. 2025, arXiv:2502.10297.
    """

    def __init__(self, config: DeltaProductConfig, context: Context, *, rngs: nnx.Rngs):
        super().__init__(config, context, writes=config.num_householder, rngs=rngs)

    def remember(self, x, q, k, v, *, memory, segment_ids):
        """See recurrent.py."""
        n = self.config.num_householder
        beta = self.beta(x)
        k, v, beta = (self._steps(y) for y in (k, v, beta))
        if is_one_step(x, memory, segment_ids):
            for j in range(n):
                o, memory = delta_rule_step(memory, q[:, 0], k[:, j], v[:, j], beta[:, j])
            return o[:, None], memory
        if segment_ids is not None:
            segment_ids = jnp.repeat(segment_ids, n, axis=1)
        o, memory = self.apply_rule(
            jnp.repeat(q, n, axis=1), k, v, beta, memory=memory, segment_ids=segment_ids
        )
        return read_out(o[:, n - 1 :: n]), memory

    def _steps(self, y: Float[Array, "B T H_writes ..."]) -> Float[Array, "B T_writes H ..."]:
        """[B, T, H n, ...] -> [B, T n, H, ...]: the steps of a token become tokens."""
        batch, length, _, *rest = y.shape
        y = y.reshape(batch, length, self.config.num_heads, -1, *rest)
        return jnp.moveaxis(y, 3, 2).reshape(batch, -1, self.config.num_heads, *rest)
