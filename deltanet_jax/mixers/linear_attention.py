# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Additive linear attention: the memory that DeltaNet corrects instead of adding to."""

import dataclasses
import functools
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx

from deltanet_jax.config import check_one_of
from deltanet_jax.mixers.base import Context, Equations, read_out
from deltanet_jax.mixers.recurrent import RecurrentConfig, RecurrentMixer
from deltanet_jax.sharding import over_mesh
from pallas_kernels import gated_linear_attention_sharded, linear_attention


@dataclasses.dataclass(frozen=True)
class LinearAttentionConfig(RecurrentConfig):
    """Options of additive linear attention beside `RecurrentConfig`'s.

    Attributes:
        conv_size: 0, as published, by default.
        feature_map: "elu_plus_one" (Katharopoulos et al.), "relu", "silu" or "identity".
        normalize: divide the read-out by q_t . sum_i k_i; needs a positive feature map.
        output_norm: RMSNorm per head on the read-out, the modern replacement of `normalize`.
    """

    kind: ClassVar[str] = "linear_attention"
    equations: ClassVar[Equations] = Equations(
        recurrence="S_t = S_{t-1} + v_t phi(k_t)^T",
        read_out="S_t phi(q_t) / (sum_i phi(k_i) . phi(q_t))",
        parallel="chunks",
        source="Katharopoulos et al. 2020, arXiv:2006.16236",
    )
    conv_size: int = 0
    feature_map: str = "elu_plus_one"
    normalize: bool = True
    output_norm: bool = False

    def __post_init__(self):
        super().__post_init__()
        check_one_of(self, "feature_map", ("elu_plus_one", "relu", "silu", "identity"))
        if self.normalize and self.feature_map != "elu_plus_one":
            raise ValueError(
                "normalize: wanted feature_map = 'elu_plus_one' (a normaliser must be positive), "
                f"got {self.feature_map!r}"
            )

    def memory_flops(self, d_model: int, seq_len: int) -> float:
        """See base.py: write, read out; the same for any length."""
        k, v = self.head_sizes(d_model)
        return 12.0 * self.num_heads * k * (v + self.normalize)


class LinearAttention(RecurrentMixer):
    """Recurrence S_t = S_{t-1} + k_t v_t^T, read-out S_t^T q_t (over q_t . sum k_i).

    State H K V numbers a layer (H K more with the normaliser). Source: Katharopoulos et al. 2020,
    arXiv:2006.16236.
    """

    def __init__(self, config: LinearAttentionConfig, context: Context, *, rngs: nnx.Rngs):
        super().__init__(
            config,
            context,
            output_norm=config.output_norm,
            qk_activation=config.feature_map,
            v_activation="silu" if config.conv_size else "identity",
            rngs=rngs,
        )

    def init_memory(self, batch_size: int):
        """See recurrent.py; the normaliser is one more value."""
        memory = super().init_memory(batch_size)
        return jnp.pad(memory, ((0, 0),) * 3 + ((0, int(self.config.normalize)),))

    def remember(self, x, q, k, v, *, memory, segment_ids):
        """See recurrent.py."""
        if self.config.normalize:  # the normaliser is one more value that is always 1
            v = jnp.concatenate([v, jnp.ones((*v.shape[:3], 1), v.dtype)], axis=-1)
        sharded = functools.partial(gated_linear_attention_sharded, g=None)
        o, memory = over_mesh(linear_attention, sharded)(
            q,
            k,
            v,
            initial_state=memory,
            segment_ids=segment_ids,
            chunk_size=self.config.chunk_size,
        )
        o = read_out(o)
        if self.config.normalize:
            o = o[..., :-1] / (o[..., -1:] + 1e-6)
        return o, memory
