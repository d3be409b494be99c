# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Additive linear attention: the memory that DeltaNet corrects instead of adding to."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from deltanet_jax.config import check_at_least, check_one_of
from deltanet_jax.layers.linear import linear
from deltanet_jax.layers.norm import rms_norm
from deltanet_jax.layers.projection import QKVProjection
from deltanet_jax.mixers.base import Context, MixerConfig, head_dim, read_out
from pallas_kernels import linear_attention
from pallas_kernels._common.chunking import CHUNK_SIZES
from pallas_kernels._common.precision import state_dtype


@dataclasses.dataclass(frozen=True)
class LinearAttentionConfig(MixerConfig):
    """Options of additive linear attention.

    Attributes:
        num_heads: heads H.
        head_k_dim, head_v_dim: sizes K and V of a head; None is d_model / num_heads.
        conv_size: width of short convolutions before q, k, v; 0 (as published) leaves them out.
        feature_map: "elu_plus_one" (Katharopoulos et al.), "relu", "silu" or "identity".
        normalize: divide the read-out by q_t . sum_i k_i; needs a positive feature map.
        output_norm: RMSNorm per head on the read-out, the modern replacement of `normalize`.
        chunk_size: tokens a chunk of the parallel form.
    """

    kind: ClassVar[str] = "linear_attention"
    num_heads: int = 8
    head_k_dim: int | None = None
    head_v_dim: int | None = None
    conv_size: int = 0
    feature_map: str = "elu_plus_one"
    normalize: bool = True
    output_norm: bool = False
    chunk_size: int = 64

    def __post_init__(self):
        check_at_least(self, "num_heads", 1)
        check_at_least(self, "conv_size", 0)
        check_one_of(self, "feature_map", ("elu_plus_one", "relu", "silu", "identity"))
        check_one_of(self, "chunk_size", CHUNK_SIZES)
        if self.normalize and self.feature_map != "elu_plus_one":
            raise ValueError(
                "normalize: wanted feature_map = 'elu_plus_one' (a normaliser must be positive), "
                f"got {self.feature_map!r}"
            )

    def memory_flops(self, d_model: int, seq_len: int) -> float:
        """See base.py: write, read out; the same for any length."""
        k = head_dim(d_model, self.num_heads, self.head_k_dim, "head_k_dim")
        v = head_dim(d_model, self.num_heads, self.head_v_dim, "head_v_dim")
        return 12.0 * self.num_heads * k * (v + self.normalize)


class LinearAttentionState(NamedTuple):
    """convs: states of the q, k, v convolutions; memory: [B, H, K, V (+ 1 with a normaliser)]."""

    convs: tuple
    memory: jax.Array


class LinearAttention(nnx.Module):
    """Recurrence S_t = S_{t-1} + k_t v_t^T, read-out S_t^T q_t (over q_t . sum k_i).

    State H K V numbers a layer (H K more with the normaliser). Source: Katharopoulos et al. 2020,
    arXiv:2006.16236.
    """

    def __init__(self, config: LinearAttentionConfig, context: Context, *, rngs: nnx.Rngs):
        self.config = config
        self.memory_dtype = state_dtype(context.dtype)
        self.qkv = QKVProjection(
            context.d_model,
            config.num_heads,
            head_dim(context.d_model, config.num_heads, config.head_k_dim, "head_k_dim"),
            head_dim(context.d_model, config.num_heads, config.head_v_dim, "head_v_dim"),
            conv_size=config.conv_size,
            qk_activation=config.feature_map,
            v_activation="silu" if config.conv_size else "identity",
            init_std=context.init_std,
            **context.kinds(),
            rngs=rngs,
        )
        heads, head_v_dim = config.num_heads, self.qkv.head_v_dim
        kinds = {**context.kinds(), "rngs": rngs}
        self.out_norm = (
            rms_norm(head_v_dim, eps=context.norm_eps, **kinds) if config.output_norm else None
        )
        self.out_proj = linear(
            heads * head_v_dim, context.d_model, init_std=context.out_init_std, **kinds
        )

    def init_state(self, batch_size: int, max_length: int) -> LinearAttentionState:
        """An empty memory; `max_length` does not matter to a recurrence."""
        del max_length
        value_size = self.qkv.head_v_dim + int(self.config.normalize)
        memory = (batch_size, self.config.num_heads, self.qkv.head_k_dim, value_size)
        return LinearAttentionState(
            self.qkv.init_state(batch_size), jnp.zeros(memory, self.memory_dtype)
        )

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        segment_ids: Int[Array, "B T"] | None = None,
        state: LinearAttentionState | None = None,
    ) -> tuple[Float[Array, "B T D"], LinearAttentionState | None]:
        """See base.py."""
        old = None if state is None else state.convs
        q, k, v, convs = self.qkv(x, segment_ids=segment_ids, state=old)
        if self.config.normalize:  # the normaliser is one more value that is always 1
            v = jnp.concatenate([v, jnp.ones((*v.shape[:3], 1), v.dtype)], axis=-1)
        o, memory = linear_attention(
            q,
            k,
            v,
            initial_state=None if state is None else state.memory,
            segment_ids=segment_ids,
            chunk_size=self.config.chunk_size,
        )
        o = read_out(o)
        if self.config.normalize:
            o = o[..., :-1] / (o[..., -1:] + 1e-6)
        if self.out_norm is not None:
            o = self.out_norm(o)
        y = self.out_proj(o.reshape(*o.shape[:2], -1))
        return y, None if state is None else LinearAttentionState(convs, memory)
