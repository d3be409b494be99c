# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""DeltaNet's token mixer: the delta rule between projections."""

import dataclasses
from typing import ClassVar

import jax
from flax import nnx
from jaxtyping import Array, Float

from deltanet_jax.config import check_one_of
from deltanet_jax.layers.linear import linear
from deltanet_jax.layers.projection import ACTIVATIONS, NORMS
from deltanet_jax.mixers.base import Context, Equations, read_out
from deltanet_jax.mixers.recurrent import RecurrentConfig, RecurrentMixer, is_one_step
from deltanet_jax.sharding import over_mesh
from pallas_kernels import delta_rule, delta_rule_sharded, delta_rule_step
from pallas_kernels.delta_rule.api import RESIDUALS
from pallas_kernels.delta_rule.kernel_support import residual_bytes, saves


@dataclasses.dataclass(frozen=True)
class DeltaNetConfig(RecurrentConfig):
    """Options of the DeltaNet mixer beside `RecurrentConfig`'s; the defaults are the paper's layer.

    Attributes:
        qk_activation: "silu", "relu", "elu_plus_one" or "identity", on queries and keys.
        qk_norm: "l2" or "l1", of queries and keys per head.
        allow_neg_eigval: beta in (0, 2) instead of (0, 1), so that the transition I - beta k k^T
            may have eigenvalues down to -1 (Grazzi et al. 2024, arXiv:2411.12537).
        output_gate: multiply the normalised read-out by silu(x W_gate).
        implementation, residuals: of the operator in `pallas_kernels`; one of `implementations`, or
            None, and one of `residuals_kinds`.
    """

    kind: ClassVar[str] = "delta_net"
    equations: ClassVar[Equations] = Equations(
        recurrence="S_t = S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T",
        read_out="S_t q_t",
        parallel="chunks, WY form",
        source="Yang et al. 2024, arXiv:2406.06484",
    )
    implementations: ClassVar[tuple[str, ...]] = ("reference", "xla", "pallas", "triton")
    residuals_kinds: ClassVar[tuple[str, ...]] = RESIDUALS
    qk_activation: str = "silu"
    qk_norm: str = "l2"
    allow_neg_eigval: bool = False
    output_gate: bool = False
    implementation: str | None = None
    residuals: str = "recompute"

    def __post_init__(self):
        super().__post_init__()
        check_one_of(self, "qk_activation", tuple(ACTIVATIONS))
        check_one_of(self, "qk_norm", tuple(NORMS))
        check_one_of(self, "implementation", (None, *self.implementations))
        check_one_of(self, "residuals", self.residuals_kinds)

    def memory_flops(self, d_model: int, seq_len: int) -> float:
        """See base.py: read, correct, write, read out; the same for any length."""
        return self._state_flops(d_model, 8)

    def kernel_residual_bytes(
        self, d_model: int, rows: int, columns: int, arguments_kept: bool
    ) -> int:
        """See base.py. With "save", prediction errors are kept in the place of v."""
        if "pallas" not in self.implementations:
            return 0
        k, v = self.head_sizes(d_model)
        kept = residual_bytes(rows, columns, self.num_heads, k, v, self.residuals)
        needless = saves(self.residuals, k) and arguments_kept
        return kept - needless * 2 * rows * columns * self.num_heads * v


class DeltaNet(RecurrentMixer):
    """q, k: Linear -> conv -> SiLU -> L2 norm; v: Linear -> conv -> SiLU; beta: sigmoid(Linear);
    delta rule; RMSNorm per head; Linear.

    Recurrence S_t = S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T, read-out S_t q_t, state
    H K V numbers a layer. Source: Yang et al. 2024, arXiv:2406.06484.
    """

    def __init__(self, config: DeltaNetConfig, context: Context, *, rngs: nnx.Rngs, **qkv):
        super().__init__(
            config,
            context,
            output_gate=config.output_gate,
            qk_activation=config.qk_activation,
            qk_norm=config.qk_norm,
            v_activation="silu",
            rngs=rngs,
            **qkv,
        )

    def make_controls(self, context: Context, *, rngs: nnx.Rngs) -> None:
        """See recurrent.py."""
        self.beta_proj = linear(
            context.d_model,
            self.config.num_heads * self.qkv.writes,
            init_std=context.init_std,
            **context.kinds(),
            rngs=rngs,
        )

    def beta(self, x: Float[Array, "B T D"]) -> Float[Array, "B T H_writes"]:
        """Write strengths of every head (and write of a token)."""
        beta = jax.nn.sigmoid(self.beta_proj(x))
        return 2 * beta if self.config.allow_neg_eigval else beta

    def remember(self, x, q, k, v, *, memory, segment_ids):
        """See recurrent.py."""
        beta = self.beta(x)
        if is_one_step(x, memory, segment_ids):
            o, memory = delta_rule_step(memory, q[:, 0], k[:, 0], v[:, 0], beta[:, 0])
            return o[:, None], memory
        o, memory = self.apply_rule(q, k, v, beta, memory=memory, segment_ids=segment_ids)
        return read_out(o), memory

    def apply_rule(self, q, k, v, beta, *, memory, segment_ids):
        """The delta rule, over the current mesh if there is one: (output, final state)."""
        return over_mesh(delta_rule, delta_rule_sharded)(
            q,
            k,
            v,
            beta,
            initial_state=memory,
            segment_ids=segment_ids,
            chunk_size=self.config.chunk_size,
            implementation=self.config.implementation,
            residuals=self.config.residuals,
        )
