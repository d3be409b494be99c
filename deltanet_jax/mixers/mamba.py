# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Mamba's token mixer: a selective scan between projections, which is a whole block of Mamba's."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from deltanet_jax.config import check_at_least, check_one_of
from deltanet_jax.layers.linear import linear
from deltanet_jax.layers.short_conv import ShortConv
from deltanet_jax.layers.time_step import time_step_bias
from deltanet_jax.mixers.base import Context, Equations, MixerConfig, arguments, read_out
from deltanet_jax.mixers.recurrent import is_one_step
from deltanet_jax.sharding import over_mesh
from pallas_kernels import selective_scan, selective_scan_sharded, selective_scan_step
from pallas_kernels._common.chunking import CHUNK_SIZES
from pallas_kernels._common.precision import state_dtype


@dataclasses.dataclass(frozen=True)
class MambaConfig(MixerConfig):
    """Options of the Mamba mixer; the defaults are the paper's layer.

    Its layers have no feed-forward part beside them: `ModelConfig.mlp_hidden_size` 0 and twice as
    many layers are Mamba as published.

    Attributes:
        expand: channels E, as a multiple of d_model.
        state_size: numbers N that a channel remembers.
        time_step_rank: rank of the map from the input to the time steps; None is d_model / 16,
            rounded up.
        conv_size: width of the short convolution; 0 leaves it out.
        chunk_size: tokens a chunk of the scan.
    """

    kind: ClassVar[str] = "mamba"
    equations: ClassVar[Equations] = Equations(
        recurrence="S_t = exp(A dt_t) * S_{t-1} + (dt_t x_t) b_t^T, A < 0",
        read_out="S_t c_t + D x_t",
        parallel="chunks, side by side",
        source="Gu, Dao 2023, arXiv:2312.00752",
    )
    expand: int = 2
    state_size: int = 16
    time_step_rank: int | None = None
    conv_size: int = 4
    chunk_size: int = 32

    def __post_init__(self):
        for name in ("expand", "state_size", "time_step_rank"):
            check_at_least(self, name, 1)
        check_at_least(self, "conv_size", 0)
        check_one_of(self, "chunk_size", CHUNK_SIZES)

    def memory_flops(self, d_model: int, seq_len: int) -> float:
        """See base.py: decay of three operations, write of two, read-out of two, a number of the
        state; the same for any length."""
        return 3.0 * 7 * self.expand * d_model * self.state_size


class MambaState(NamedTuple):
    """conv: the convolution's state, or an empty tuple; memory: [B, N, E], float32 (or float64)."""

    conv: tuple | jax.Array
    memory: jax.Array


class Mamba(nnx.Module):
    """x: Linear -> conv with a bias -> SiLU; dt = softplus(x W_1 W_2 + dt_bias), b, c: Linear of
    x; selective scan; plus D x; times silu(u W_gate), u being the input; Linear.

    Recurrence S_t = exp(A dt_t) * S_{t-1} + (dt_t x_t) b_t^T with S [E, N], A = -exp(A_log), dt_t
    one number a channel; read-out S_t c_t + D x_t, state E N numbers a layer. Source: Gu, Dao 2023,
    arXiv:2312.00752, figure 3 and algorithm 2, with their initial values: A_nd = -n, D = 1, dt at
    a zero input log-uniform in [0.001, 0.1].
    """

    def __init__(self, config: MambaConfig, context: Context, *, rngs: nnx.Rngs):
        self.config = config
        self.memory_dtype = state_dtype(context.dtype)
        d_model, param_dtype = context.d_model, context.param_dtype
        size, states = config.expand * d_model, config.state_size
        self.rank = config.time_step_rank or -(-d_model // 16)
        kinds = {**context.kinds(), "rngs": rngs}
        self.in_proj = linear(d_model, size, init_std=context.init_std, **kinds)
        self.conv = ShortConv(size, config.conv_size, **kinds) if config.conv_size else None
        if self.conv is not None:
            self.conv_bias = nnx.Param(jnp.zeros((size,), param_dtype))
        controls = self.rank + 2 * states
        self.controls_proj = linear(size, controls, init_std=context.init_std, **kinds)
        # So wide that dt's dependence on x starts as strong for any rank (the published code).
        self.dt_proj = linear(self.rank, size, init_std=(3 * self.rank) ** -0.5, **kinds)
        self.dt_bias = nnx.Param(time_step_bias(size, param_dtype, rngs))
        rates = jnp.log(jnp.arange(1, states + 1, dtype=jnp.float32))
        rates = jnp.broadcast_to(rates[:, None], (states, size))
        self.A_log = nnx.Param(rates.astype(param_dtype))
        self.skip = nnx.Param(jnp.ones((size,), param_dtype))
        self.gate_proj = linear(d_model, size, init_std=context.init_std, **kinds)
        self.out_proj = linear(size, d_model, init_std=context.out_init_std, **kinds)

    def init_state(self, batch_size: int, max_length: int) -> MambaState:
        """An empty memory; `max_length` does not matter to a recurrence."""
        del max_length
        shape = (batch_size, *self.A_log.shape[-2:])  # without the axis of a model's periods
        conv = () if self.conv is None else self.conv.init_state(batch_size)
        return MambaState(conv, jnp.zeros(shape, self.memory_dtype))

    def time_steps(self, low_rank: Float[Array, "B T R"]) -> Float[Array, "B T E"]:
        """dt, in the memory's dtype."""
        bias = self.dt_bias[...].astype(self.memory_dtype)
        logits = self.dt_proj(low_rank).astype(self.memory_dtype)
        return jax.nn.softplus(logits + bias[None, None])

    def __call__(
        self,
        u: Float[Array, "B T D"],
        *,
        segment_ids: Int[Array, "B T"] | None = None,
        state: MambaState | None = None,
    ) -> tuple[Float[Array, "B T D_out"], MambaState | None]:
        """See base.py."""
        conv, memory = (None, None) if state is None else state
        x = self.in_proj(u)
        if self.conv is not None:
            x, conv = self.conv(x, segment_ids=segment_ids, state=conv)
            x = x + self.conv_bias[...].astype(x.dtype)[None, None]
        x = jax.nn.silu(x)
        low_rank, b, c = jnp.split(
            self.controls_proj(x), (self.rank, self.rank + self.config.state_size), axis=-1
        )
        x, b, c = arguments(x, b, c)
        a = -jnp.exp(self.A_log[...].astype(self.memory_dtype))
        dt = self.time_steps(low_rank)
        if is_one_step(u, memory, segment_ids):
            y, memory = selective_scan_step(memory, x[:, 0], dt[:, 0], a, b[:, 0], c[:, 0])
            y = y[:, None]
        else:
            y, memory = over_mesh(selective_scan, selective_scan_sharded)(
                x,
                dt,
                a,
                b,
                c,
                initial_state=memory,
                segment_ids=segment_ids,
                chunk_size=self.config.chunk_size,
            )
            y = read_out(y)
        y = y + self.skip[...].astype(y.dtype)[None, None] * x
        y = self.out_proj(y * jax.nn.silu(self.gate_proj(u)))
        return y, None if state is None else MambaState(() if conv is None else conv, memory)
