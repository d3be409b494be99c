# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""DeltaNet's token mixer: the delta rule between projections."""

import dataclasses
import functools
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from deltanet_jax.config import check_at_least, check_one_of
from deltanet_jax.layers.linear import linear
from deltanet_jax.layers.norm import rms_norm
from deltanet_jax.layers.projection import ACTIVATIONS, NORMS, QKVProjection
from deltanet_jax.mixers.base import Context, MixerConfig, arguments, head_dim, read_out
from deltanet_jax.sharding import operator_axes
from pallas_kernels import delta_rule, delta_rule_sharded, delta_rule_step
from pallas_kernels._common.chunking import CHUNK_SIZES
from pallas_kernels._common.precision import state_dtype
from pallas_kernels.delta_rule.api import RESIDUALS
from pallas_kernels.delta_rule.kernel_support import residual_bytes


@dataclasses.dataclass(frozen=True)
class DeltaNetConfig(MixerConfig):
    """Options of the DeltaNet mixer; the defaults are the paper's layer.

    Attributes:
        num_heads: heads H.
        head_k_dim, head_v_dim: sizes K and V of a head; None is d_model / num_heads.
        conv_size: width of the short convolutions; 0 leaves them out.
        qk_activation: "silu", "relu", "elu_plus_one" or "identity", on queries and keys.
        qk_norm: "l2" or "l1", of queries and keys per head.
        allow_neg_eigval: beta in (0, 2) instead of (0, 1), so that the transition I - beta k k^T
            may have eigenvalues down to -1 (Grazzi et al. 2024, arXiv:2411.12537).
        output_gate: multiply the normalised read-out by silu(x W_gate).
        chunk_size, implementation, residuals: of `pallas_kernels.delta_rule`.
    """

    kind: ClassVar[str] = "delta_net"
    num_heads: int = 8
    head_k_dim: int | None = None
    head_v_dim: int | None = None
    conv_size: int = 4
    qk_activation: str = "silu"
    qk_norm: str = "l2"
    allow_neg_eigval: bool = False
    output_gate: bool = False
    chunk_size: int = 64
    implementation: str | None = None
    residuals: str = "recompute"

    def __post_init__(self):
        check_at_least(self, "num_heads", 1)
        check_at_least(self, "conv_size", 0)
        check_one_of(self, "qk_activation", tuple(ACTIVATIONS))
        check_one_of(self, "qk_norm", tuple(NORMS))
        check_one_of(self, "chunk_size", CHUNK_SIZES)
        check_one_of(self, "implementation", (None, "reference", "xla", "pallas", "triton"))
        check_one_of(self, "residuals", RESIDUALS)

    def memory_flops(self, d_model: int, seq_len: int) -> float:
        """See base.py: read, correct, write, read out; the same for any length."""
        k = head_dim(d_model, self.num_heads, self.head_k_dim, "head_k_dim")
        v = head_dim(d_model, self.num_heads, self.head_v_dim, "head_v_dim")
        return 24.0 * self.num_heads * k * v

    def kernel_residual_bytes(
        self, d_model: int, rows: int, columns: int, arguments_kept: bool
    ) -> int:
        """See base.py. With "save", prediction errors are kept in the place of v."""
        k = head_dim(d_model, self.num_heads, self.head_k_dim, "head_k_dim")
        v = head_dim(d_model, self.num_heads, self.head_v_dim, "head_v_dim")
        kept = residual_bytes(rows, columns, self.num_heads, k, v, self.residuals)
        needless = self.residuals == "save" and arguments_kept
        return kept - needless * 2 * rows * columns * self.num_heads * v


class DeltaNetState(NamedTuple):
    """What decoding carries: constant in the number of tokens read.

    Attributes:
        convs: states of the q, k, v convolutions, each [B, W - 1, H K or H V], or empty tuples.
        memory: the delta rule's state, [B, H, K, V], float32.
    """

    convs: tuple
    memory: jax.Array


class DeltaNet(nnx.Module):
    """q, k: Linear -> conv -> SiLU -> L2 norm; v: Linear -> conv -> SiLU; beta: sigmoid(Linear);
    delta rule; RMSNorm per head; Linear.

    Recurrence S_t = S_{t-1} (I - beta_t k_t k_t^T) + beta_t v_t k_t^T, read-out S_t q_t, state
    H K V numbers a layer. Source: Yang et al. 2024, arXiv:2406.06484, section 3.4.
    """

    def __init__(self, config: DeltaNetConfig, context: Context, *, rngs: nnx.Rngs):
        self.config = config
        self.memory_dtype = state_dtype(context.dtype)
        self.qkv = QKVProjection(
            context.d_model,
            config.num_heads,
            head_dim(context.d_model, config.num_heads, config.head_k_dim, "head_k_dim"),
            head_dim(context.d_model, config.num_heads, config.head_v_dim, "head_v_dim"),
            conv_size=config.conv_size,
            qk_activation=config.qk_activation,
            qk_norm=config.qk_norm,
            v_activation="silu",
            init_std=context.init_std,
            **context.kinds(),
            rngs=rngs,
        )
        heads, head_v_dim = config.num_heads, self.qkv.head_v_dim
        kinds = {**context.kinds(), "rngs": rngs}
        self.beta_proj = linear(context.d_model, heads, init_std=context.init_std, **kinds)
        value_size = heads * head_v_dim
        self.gate_proj = (
            linear(context.d_model, value_size, init_std=context.init_std, **kinds)
            if config.output_gate
            else None
        )
        self.out_norm = rms_norm(head_v_dim, eps=context.norm_eps, **kinds)
        self.out_proj = linear(value_size, context.d_model, init_std=context.out_init_std, **kinds)

    def init_state(self, batch_size: int, max_length: int) -> DeltaNetState:
        """An empty memory; `max_length` does not matter to a recurrence."""
        del max_length
        memory = (batch_size, self.config.num_heads, self.qkv.head_k_dim, self.qkv.head_v_dim)
        return DeltaNetState(self.qkv.init_state(batch_size), jnp.zeros(memory, self.memory_dtype))

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        segment_ids: Int[Array, "B T"] | None = None,
        state: DeltaNetState | None = None,
    ) -> tuple[Float[Array, "B T D"], DeltaNetState | None]:
        """See base.py."""
        q, k, v, beta, convs = self.project(x, segment_ids=segment_ids, state=state)
        if state is not None and x.shape[1] == 1 and segment_ids is None:
            o, memory = delta_rule_step(state.memory, q[:, 0], k[:, 0], v[:, 0], beta[:, 0])
            o = o[:, None]
        else:
            axes = operator_axes()
            q, k, v = arguments(q, k, v)
            run = delta_rule if axes is None else functools.partial(delta_rule_sharded, **axes)
            o, memory = run(
                q,
                k,
                v,
                beta,
                initial_state=None if state is None else state.memory,
                segment_ids=segment_ids,
                chunk_size=self.config.chunk_size,
                implementation=self.config.implementation,
                residuals=self.config.residuals,
            )
        o = self.out_norm(read_out(o))
        if self.gate_proj is not None:
            o = o * jax.nn.silu(self.gate_proj(x)).reshape(o.shape)
        y = self.out_proj(o.reshape(*o.shape[:2], -1))
        return y, None if state is None else DeltaNetState(convs, memory)

    def project(
        self,
        x: Float[Array, "B T D"],
        *,
        segment_ids: Int[Array, "B T"] | None = None,
        state: DeltaNetState | None = None,
    ):
        """The operator's arguments q, k, v, beta for inputs x, and the convolutions' new states."""
        old = None if state is None else state.convs
        q, k, v, convs = self.qkv(x, segment_ids=segment_ids, state=old)
        beta = jax.nn.sigmoid(self.beta_proj(x))
        if self.config.allow_neg_eigval:
            beta = 2 * beta
        return q, k, v, beta, convs
