# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What GLA and RetNet share: gated linear attention between the projections of recurrent.py."""

from flax import nnx

from deltanet_jax.mixers.base import Context, read_out
from deltanet_jax.mixers.recurrent import RecurrentConfig, RecurrentMixer, is_one_step
from deltanet_jax.sharding import over_mesh
from pallas_kernels import (
    gated_linear_attention,
    gated_linear_attention_sharded,
    gated_linear_attention_step,
)


class DecayingMixer(RecurrentMixer):
    """q, k, v: Linear, with a convolution: Linear -> conv -> SiLU; always with an output gate."""

    def __init__(self, config: RecurrentConfig, context: Context, *, rngs: nnx.Rngs):
        activation = "silu" if config.conv_size else "identity"
        super().__init__(
            config,
            context,
            output_gate=True,
            qk_activation=activation,
            v_activation=activation,
            rngs=rngs,
        )

    def attend(self, q, k, v, g, *, memory, segment_ids):
        """Gated linear attention with log decays g: (read-outs, final state)."""
        if is_one_step(q, memory, segment_ids):
            o, memory = gated_linear_attention_step(memory, *(y[:, 0] for y in (q, k, v, g)))
            return o[:, None], memory
        o, memory = over_mesh(gated_linear_attention, gated_linear_attention_sharded)(
            q,
            k,
            v,
            g,
            initial_state=memory,
            segment_ids=segment_ids,
            chunk_size=self.config.chunk_size,
        )
        return read_out(o), memory
