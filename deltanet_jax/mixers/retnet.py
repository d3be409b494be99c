# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""RetNet's token mixer: a memory with a fixed decay a head, and rotary positions."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from deltanet_jax.config import check_positive
from deltanet_jax.layers.rotary import rotate
from deltanet_jax.mixers.base import Context, Equations
from deltanet_jax.mixers.decaying import DecayingMixer
from deltanet_jax.mixers.recurrent import RecurrentConfig


@dataclasses.dataclass(frozen=True)
class RetNetConfig(RecurrentConfig):
    """Options of the RetNet mixer beside `RecurrentConfig`'s; the defaults are the paper's layer.

    Attributes:
        rope_base: base of the rotary frequencies.
    """

    kind: ClassVar[str] = "retnet"
    equations: ClassVar[Equations] = Equations(
        recurrence="S_t = gamma S_{t-1} + v_t k_t^T",
        read_out="S_t q_t",
        parallel="chunks",
        source="Sun et al. 2023, arXiv:2307.08621",
    )
    v_width: ClassVar[float] = 2.0
    conv_size: int = 0
    rope_base: float = 10_000.0

    def __post_init__(self):
        super().__post_init__()
        check_positive(self, "rope_base")

    def memory_flops(self, d_model: int, seq_len: int) -> float:
        """See base.py: decay, write, read out; the same for any length."""
        return self._state_flops(d_model, 5)


class RetNetMemory(NamedTuple):
    """state: [B, H, K, V]; next_position: [B] int32, of the next token in its row."""

    state: jax.Array
    next_position: jax.Array


class RetNet(DecayingMixer):
    """q, k: Linear (with a convolution: -> conv -> SiLU) -> rotary positions; v: Linear (likewise);
    retention; RMSNorm per head (the published code's group norm); times silu(x W_gate); Linear.

    Recurrence S_t = gamma_h S_{t-1} + v_t k_t^T with gamma_h = 1 - 2^(-5 - h), h = 0..H-1, read-out
    S_t q_t, state H K V numbers a layer, V = 2 d_model / H. Source: Sun et al. 2023,
    arXiv:2307.08621.
    """

    def __init__(self, config: RetNetConfig, context: Context, *, rngs: nnx.Rngs):
        super().__init__(config, context, rngs=rngs)
        if self.qkv.head_k_dim % 2:
            raise ValueError(
                f"head_k_dim: wanted an even size to rotate, got {self.qkv.head_k_dim}"
            )

    def init_memory(self, batch_size: int) -> RetNetMemory:
        """See recurrent.py."""
        return RetNetMemory(super().init_memory(batch_size), jnp.zeros((batch_size,), jnp.int32))

    def log_decay(self) -> Float[Array, "H"]:
        """log gamma of every head."""
        heads = jnp.arange(self.config.num_heads, dtype=self.memory_dtype)
        return jnp.log1p(-(2.0 ** (-5.0 - heads)))

    def remember(self, x, q, k, v, *, memory, segment_ids):
        """See recurrent.py."""
        batch, length, _ = x.shape
        positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch, length))
        if memory is not None:
            positions = positions + memory.next_position[:, None]
        q, k = (rotate(y, positions, self.config.rope_base) for y in (q, k))
        g = jnp.broadcast_to(self.log_decay(), (batch, length, self.config.num_heads))
        state = None if memory is None else memory.state
        o, state = self.attend(q, k, v, g, memory=state, segment_ids=segment_ids)
        return o, RetNetMemory(state, positions[:, -1] + 1)
