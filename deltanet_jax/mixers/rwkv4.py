# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""RWKV-4's two halves of a block, each a mixer of its own, as both look at the token before.

RWKV-4 as published is the pattern (RWKV4Config(), RWKV4ChannelMixConfig()) with
`ModelConfig.mlp_hidden_size` 0 and `norm` "layer" (and one more norm, of the embeddings).
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from deltanet_jax.config import check_at_least
from deltanet_jax.layers.linear import linear
from deltanet_jax.layers.token_shift import TokenShift
from deltanet_jax.mixers.base import Context, Equations, MixerConfig, arguments, read_out
from deltanet_jax.mixers.recurrent import is_one_step
from pallas_kernels import WKVState, wkv, wkv_empty_state, wkv_step
from pallas_kernels._common.precision import state_dtype

SOURCE = "Peng et al. 2023, arXiv:2305.13048"


@dataclasses.dataclass(frozen=True)
class RWKV4Config(MixerConfig):
    """RWKV-4's time mix has no options."""

    kind: ClassVar[str] = "rwkv4"
    equations: ClassVar[Equations] = Equations(
        recurrence="a_t = e^-w * a_{t-1} + e^k_t * v_t, b_t = e^-w * b_{t-1} + e^k_t",
        read_out="sigmoid(r_t) * (a_{t-1} + e^(u + k_t) * v_t) / (b_{t-1} + e^(u + k_t))",
        parallel="chunks, side by side",
        source=SOURCE,
    )

    def memory_flops(self, d_model: int, seq_len: int) -> float:
        """See base.py: both sums decay and grow, are read and divided; the same for any length."""
        return 3.0 * 12 * d_model


class RWKV4State(NamedTuple):
    """shift: the token before, [B, 1, D]; memory: the sums."""

    shift: jax.Array
    memory: WKVState


class RWKV4(nnx.Module):
    """r, k, v: Linear of mixtures of x_t and x_{t-1}; wkv; times sigmoid(r); Linear.

    Recurrence a_t = e^-w * a_{t-1} + e^k_t * v_t, b_t likewise without v, channel by channel;
    read-out (a_{t-1} + e^(u + k_t) * v_t) / (b_{t-1} + e^(u + k_t)); state 3 D numbers a layer (the
    sums' maximal exponent is the third) and the token before. Source: Peng et al. 2023,
    arXiv:2305.13048, eqs. 11 to 18, with their initial values (of the middle layer, in all).
    """

    def __init__(self, config: RWKV4Config, context: Context, *, rngs: nnx.Rngs):
        self.config = config
        self.dtype, self.memory_dtype = context.dtype, state_dtype(context.dtype)
        size, param_dtype = context.d_model, context.param_dtype
        self.shift = TokenShift(
            size, {"r": (0.25, 0.0), "k": (0.5, 0.0), "v": (0.5, 0.15)}, **context.kinds()
        )
        kinds = {"init_std": context.init_std, **context.kinds(), "rngs": rngs}
        self.r_proj = linear(size, size, **kinds)
        self.k_proj = linear(size, size, **kinds)
        self.v_proj = linear(size, size, **kinds)
        self.out_proj = linear(size, size, **(kinds | {"init_std": context.out_init_std}))
        channels = jnp.arange(size, dtype=jnp.float32)
        speeds = -5 + 8 * (channels / max(size - 1, 1)) ** 1.35
        self.log_decay_rate = nnx.Param(speeds.astype(param_dtype))
        bonus = jnp.log(0.3) + 0.5 * ((channels + 1) % 3 - 1)
        self.bonus = nnx.Param(bonus.astype(param_dtype))

    def init_state(self, batch_size: int, max_length: int) -> RWKV4State:
        """Nothing before; `max_length` does not matter to a recurrence."""
        del max_length
        memory = wkv_empty_state(batch_size, self.shift.size, self.dtype)
        return RWKV4State(self.shift.init_state(batch_size), memory)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        segment_ids: Int[Array, "B T"] | None = None,
        state: RWKV4State | None = None,
    ) -> tuple[Float[Array, "B T D"], RWKV4State | None]:
        """See base.py."""
        shift, memory = (None, None) if state is None else state
        mixtures, shift = self.shift(x, segment_ids=segment_ids, state=shift)
        projections = (self.r_proj, self.k_proj, self.v_proj)
        r, k, v = (proj(y) for proj, y in zip(projections, mixtures, strict=True))
        r, k, v = arguments(r, k, v)
        w = jnp.exp(self.log_decay_rate[...].astype(self.memory_dtype))
        u = self.bonus[...].astype(self.memory_dtype)
        if is_one_step(x, memory, segment_ids):
            y, memory = wkv_step(memory, k[:, 0], v[:, 0], w, u)
            y = y[:, None]
        else:
            y, memory = wkv(k, v, w, u, initial_state=memory, segment_ids=segment_ids)
            y = read_out(y)
        y = self.out_proj(jax.nn.sigmoid(r) * y)
        return y, None if state is None else RWKV4State(shift, memory)


@dataclasses.dataclass(frozen=True)
class RWKV4ChannelMixConfig(MixerConfig):
    """Options of RWKV-4's channel mix.

    Attributes:
        widening: width of its hidden layer, as a multiple of d_model.
    """

    kind: ClassVar[str] = "rwkv4_channel_mix"
    equations: ClassVar[Equations] = Equations(
        recurrence="keeps x_t",
        read_out="sigmoid(r_t) * (W_v relu(k_t)^2), r_t and k_t of x_t and x_{t-1}",
        parallel="no recurrence",
        source=SOURCE,
    )
    widening: int = 4

    def __post_init__(self):
        check_at_least(self, "widening", 1)

    def memory_flops(self, d_model: int, seq_len: int) -> float:
        """See base.py: nothing beside its weights."""
        return 0.0


class RWKV4ChannelMix(nnx.Module):
    """sigmoid(r) * (relu(k)^2 W_out), r and k: Linear of mixtures of x_t and x_{t-1}.

    State: the token before. Source: Peng et al. 2023, arXiv:2305.13048, eqs. 19 to 21.
    """

    def __init__(self, config: RWKV4ChannelMixConfig, context: Context, *, rngs: nnx.Rngs):
        self.config = config
        size, hidden = context.d_model, config.widening * context.d_model
        self.shift = TokenShift(size, {"r": (0.5, 0.0), "k": (0.5, 0.0)}, **context.kinds())
        kinds = {"init_std": context.init_std, **context.kinds(), "rngs": rngs}
        self.r_proj = linear(size, size, **kinds)
        self.k_proj = linear(size, hidden, **kinds)
        self.out_proj = linear(hidden, size, **(kinds | {"init_std": context.out_init_std}))

    def init_state(self, batch_size: int, max_length: int) -> Float[Array, "B 1 D"]:
        """No token before."""
        del max_length
        return self.shift.init_state(batch_size)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        segment_ids: Int[Array, "B T"] | None = None,
        state: Float[Array, "B 1 D"] | None = None,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B 1 D"] | None]:
        """See base.py."""
        (r, k), last = self.shift(x, segment_ids=segment_ids, state=state)
        y = self.out_proj(jnp.square(jax.nn.relu(self.k_proj(k))))
        return jax.nn.sigmoid(self.r_proj(r)) * y, None if state is None else last
