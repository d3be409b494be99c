# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Hyena's token mixer: a gated convolution as long as the sequence; of outer products, with heads.

Filters are no recurrence of fixed size, so the decoding state is the whole past.
"""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from deltanet_jax.config import check_at_least
from deltanet_jax.layers.implicit_filter import ImplicitFilter
from deltanet_jax.layers.linear import linear
from deltanet_jax.layers.projection import QKVProjection
from deltanet_jax.mixers.base import (
    Context,
    Equations,
    MixerConfig,
    arguments,
    head_dim,
    read_out,
)
from deltanet_jax.mixers.recurrent import is_one_step
from pallas_kernels._common.precision import state_dtype
from pallas_kernels._common.segments import number_segments


@dataclasses.dataclass(frozen=True)
class HyenaConfig(MixerConfig):
    """Options of the Hyena mixer of order 2.

    Attributes:
        num_heads: filters. None: as many as channels, which is Hyena; fewer are multi-head Hyena
            (Massaroli et al. 2023, arXiv:2310.18780, section 4), d_model / num_heads times as much
            work.
        conv_size: width of the short convolutions before q, k, v; 0 leaves them out.
        filter_length: positions are measured as shares of it; longer sequences extrapolate.
        filter_hidden: width of the filters' network.
        filter_bands: frequencies of its positional features.
    """

    kind: ClassVar[str] = "hyena"
    equations: ClassVar[Equations] = Equations(
        recurrence="keeps every k_t, v_t",
        read_out="sum_{i <= t} h_{t-i} v_i k_i^T q_t",
        parallel="FFT; with segments a sum over all pairs of tokens",
        source="Poli et al. 2023, arXiv:2302.10866",
    )
    num_heads: int | None = None
    conv_size: int = 3
    filter_length: int = 2048
    filter_hidden: int = 64
    filter_bands: int = 16

    def __post_init__(self):
        for name in ("num_heads", "filter_length", "filter_hidden", "filter_bands"):
            check_at_least(self, name, 1)
        check_at_least(self, "conv_size", 0)

    def memory_flops(self, d_model: int, seq_len: int) -> float:
        """See base.py: a transform there and one back, each 2.5 n log2(n) for n = 2 seq_len real
        numbers, of every product of k and v; the filters' own are not counted."""
        products = d_model * d_model // (self.num_heads or d_model)
        return 3.0 * products * (2 * 2.5 * 2 * math.log2(2 * seq_len) + 3)


class HyenaState(NamedTuple):
    """The past, up to `max_length` tokens; values of earlier segments are zero.

    Attributes:
        convs: states of the q, k, v convolutions.
        k, v: [B, max_length, H, head size].
        next_position: int32, the same for all rows.
    """

    convs: tuple
    k: jax.Array
    v: jax.Array
    next_position: jax.Array


class Hyena(nnx.Module):
    """q, k, v: Linear -> conv; o_t = sum_{i <= t} h_{t-i} v_i (k_i . q_t) in every head; Linear.

    h is one implicit filter a head (layers/implicit_filter.py). With one channel a head this is
    q * (h convolved with k * v), Hyena of order 2. State: every k, v before, 2 D numbers a token; a
    decoded token costs a pass over them. Source: Poli et al. 2023, arXiv:2302.10866; with heads
    Massaroli et al. 2023, arXiv:2310.18780. Linear maps and convolutions are without biases.
    """

    def __init__(self, config: HyenaConfig, context: Context, *, rngs: nnx.Rngs):
        self.config = config
        self.dtype, self.wide = context.dtype, state_dtype(context.dtype)
        self.num_heads = config.num_heads or context.d_model
        self.head_dim = head_dim(context.d_model, self.num_heads, None, "num_heads")
        kinds = {**context.kinds(), "rngs": rngs}
        self.qkv = QKVProjection(
            context.d_model,
            self.num_heads,
            self.head_dim,
            self.head_dim,
            conv_size=config.conv_size,
            qk_activation="identity",
            v_activation="identity",
            init_std=context.init_std,
            **kinds,
        )
        self.filter = ImplicitFilter(
            self.num_heads,
            config.filter_length,
            hidden=config.filter_hidden,
            bands=config.filter_bands,
            dtype=context.dtype,
            rngs=rngs,
        )
        size = context.d_model
        self.out_proj = linear(size, size, init_std=context.out_init_std, **kinds)

    def init_state(self, batch_size: int, max_length: int) -> HyenaState:
        """An empty past of up to `max_length` tokens in all; tokens beyond it would be lost."""
        past = jnp.zeros((batch_size, max_length, self.num_heads, self.head_dim), self.dtype)
        return HyenaState(self.qkv.init_state(batch_size), past, past, jnp.zeros((), jnp.int32))

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        segment_ids: Int[Array, "B T"] | None = None,
        state: HyenaState | None = None,
    ) -> tuple[Float[Array, "B T D"], HyenaState | None]:
        """See base.py."""
        length = x.shape[1]
        convs = None if state is None else state.convs
        q, k, v, convs = self.qkv(x, segment_ids=segment_ids, state=convs)
        q, k, v = arguments(q, k, v)
        segments = None if segment_ids is None else number_segments(segment_ids)
        if state is None:
            o = self._read(q, k, v, segments)
        else:
            start = state.next_position
            k, v = (_put(new, old, start) for new, old in ((k, state.k), (v, state.v)))
            if segments is not None:  # what was there before is of segment 0
                segments = _put(segments, jnp.zeros(k.shape[:2], segments.dtype), start)
            if is_one_step(x, state, segment_ids):
                o = self._read_one(q, k, v, start)
            else:
                o = self._read(_put(q, jnp.zeros_like(k), start), k, v, segments)
                o = jax.lax.dynamic_slice_in_dim(o, start, length, axis=1)
            if segments is not None:
                last = jax.lax.dynamic_slice_in_dim(segments, start + length - 1, 1, axis=1)
                v = jnp.where((segments == last)[:, :, None, None], v, 0)
            state = HyenaState(convs, k, v, start + length)
        return self.out_proj(read_out(o.astype(self.dtype)).reshape(x.shape)), state

    def _read(self, q, k, v, segments) -> Float[Array, "B T H V"]:
        q, k, v = (y.astype(self.wide) for y in (q, k, v))
        taps = self.filter(q.shape[1])
        return _by_fft(q, k, v, taps) if segments is None else _by_lags(q, k, v, taps, segments)

    def _read_one(self, q, k, v, position) -> Float[Array, "B 1 H V"]:
        q, k, v = (y.astype(self.wide) for y in (q, k, v))
        distance = position - jnp.arange(k.shape[1])
        taps = self.filter(k.shape[1])[jnp.maximum(distance, 0)]
        taps = jnp.where((distance >= 0)[:, None], taps, 0)
        scores = taps[None] * jnp.einsum("bohk,bthk->bth", q, k)
        return jnp.einsum("bth,bthv->bhv", scores, v)[:, None]


def _put(new, old, start):
    return jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), start, axis=1)


def _by_fft(q, k, v, taps) -> Float[Array, "B T H V"]:
    """One convolution for every channel of the keys, one at a time: memory as for one."""
    length, size = q.shape[1], 2 * q.shape[1]
    transformed = jnp.fft.rfft(taps, size, axis=0)[None, :, :, None]

    @jax.checkpoint
    def channel(q, k):
        products = jnp.fft.rfft(k[..., None] * v, size, axis=1)
        convolved = jnp.fft.irfft(products * transformed, size, axis=1)[:, :length]
        return q[..., None] * convolved

    if q.shape[-1] == 1:
        return channel(q[..., 0], k[..., 0])

    def add(o, inputs):
        return o + channel(*inputs), None

    return jax.lax.scan(add, jnp.zeros_like(v), tuple(jnp.moveaxis(y, -1, 0) for y in (q, k)))[0]


def _by_lags(q, k, v, taps, segments) -> Float[Array, "B T H V"]:
    """One distance at a time, within segments, which a transform cannot keep apart: T passes."""
    length = q.shape[1]

    def back(y, lag):
        """y_{t - lag}, the row's last ones where there is none."""
        return jnp.roll(y, lag, axis=1)

    @jax.checkpoint
    def contribution(lag, tap):
        seen = (segments == back(segments, lag)) & (jnp.arange(length) >= lag)[None]
        scores = jnp.sum(q * back(k, lag), axis=-1) * tap[None, None]
        return jnp.where(seen[:, :, None], scores, 0)[..., None] * back(v, lag)

    def add(o, inputs):
        return o + contribution(*inputs), None

    return jax.lax.scan(add, jnp.zeros_like(v), (jnp.arange(length), taps))[0]
