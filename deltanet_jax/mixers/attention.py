# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Softmax attention with rotary positions, grouped heads and an optional sliding window."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from deltanet_jax.config import check_at_least, check_positive
from deltanet_jax.layers.linear import linear
from deltanet_jax.layers.rotary import rotate
from deltanet_jax.mixers.base import Context, Equations, MixerConfig, head_dim, read_out
from pallas_kernels._common import dispatch
from pallas_kernels._common.segments import number_segments


@dataclasses.dataclass(frozen=True)
class AttentionConfig(MixerConfig):
    """Options of softmax attention.

    Attributes:
        num_heads: query heads.
        num_kv_heads: key and value heads, a divisor of num_heads (grouped-query attention);
            None is num_heads.
        head_dim: size of a head; None is d_model / num_heads. Even, for the rotation.
        window: tokens a token sees, itself included; None is all before it.
        rope_base: base of the rotary frequencies (Su et al. 2021, arXiv:2104.09864).
    """

    kind: ClassVar[str] = "attention"
    equations: ClassVar[Equations] = Equations(
        recurrence="keeps every k_t, v_t (of a window)",
        read_out="V softmax(K q_t / sqrt(d))",
        parallel="products over all pairs of tokens",
        source="Vaswani et al. 2017, arXiv:1706.03762",
    )
    num_heads: int = 8
    num_kv_heads: int | None = None
    head_dim: int | None = None
    window: int | None = None
    rope_base: float = 10_000.0

    def __post_init__(self):
        for name in ("num_heads", "num_kv_heads", "head_dim", "window"):
            check_at_least(self, name, 1)
        if self.num_heads % (self.num_kv_heads or 1):
            raise ValueError(
                f"num_kv_heads: wanted a divisor of num_heads = {self.num_heads}, "
                f"got {self.num_kv_heads}"
            )
        check_positive(self, "rope_base")

    def memory_flops(self, d_model: int, seq_len: int) -> float:
        """See base.py: scores of, and sums over, the tokens that a token sees."""
        size = head_dim(d_model, self.num_heads, self.head_dim, "head_dim")
        window = min(self.window or seq_len, seq_len)
        seen = window - window * (window - 1) / (2 * seq_len)  # mean of min(t, window)
        return 12.0 * self.num_heads * size * seen


class AttentionState(NamedTuple):
    """The key-value cache: a ring of the last W tokens, W = min(window, max_length).

    A token at position p is kept at p mod W, so that a further one overwrites the oldest.

    Attributes:
        k, v: [B, W, G, head size], keys already rotated.
        positions: [B, W] int32 of the cached tokens; -1 marks an empty or foreign entry.
        next_position: [B] int32.
    """

    k: jax.Array
    v: jax.Array
    positions: jax.Array
    next_position: jax.Array


def _cudnn_unsupported(q, *, masked: bool) -> str | None:
    if jax.default_backend() != "gpu":
        return f"the default backend is {jax.default_backend()!r}, not 'gpu'"
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"cuDNN attention takes bfloat16 or float16, got {q.dtype}"
    if q.shape[-1] % 8 or q.shape[-1] > 256:
        return f"cuDNN attention takes head sizes that 8 divides, up to 256; got {q.shape[-1]}"
    if masked:
        return "segments and cached keys need a mask"
    return None


IMPLEMENTATIONS = (
    dispatch.Implementation("cudnn", jax.nn.dot_product_attention, _cudnn_unsupported),
    dispatch.Implementation("xla", jax.nn.dot_product_attention, lambda q, *, masked: None),
)


class Attention(nnx.Module):
    """softmax(q k^T / sqrt(K)) v over the tokens before (within the window), by
    `jax.nn.dot_product_attention`: cuDNN for 16-bit types on GPUs, XLA elsewhere.

    State: 2 W G K numbers a layer, W the window or the whole past. Source: Vaswani et al. 2017;
    grouped heads Ainslie et al. 2023, arXiv:2305.13245.
    """

    def __init__(self, config: AttentionConfig, context: Context, *, rngs: nnx.Rngs):
        self.config = config
        self.dtype = context.dtype
        self.head_dim = head_dim(context.d_model, config.num_heads, config.head_dim, "head_dim")
        if self.head_dim % 2:
            raise ValueError(f"head_dim: wanted an even size to rotate, got {self.head_dim}")
        self.num_kv_heads = config.num_kv_heads or config.num_heads
        kinds = {**context.kinds(), "rngs": rngs}
        q_size, kv_size = config.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        self.q_proj = linear(context.d_model, q_size, init_std=context.init_std, **kinds)
        self.k_proj = linear(context.d_model, kv_size, init_std=context.init_std, **kinds)
        self.v_proj = linear(context.d_model, kv_size, init_std=context.init_std, **kinds)
        self.out_proj = linear(q_size, context.d_model, init_std=context.out_init_std, **kinds)

    def init_state(self, batch_size: int, max_length: int) -> AttentionState:
        """An empty cache for up to `max_length` tokens in all; tokens beyond it would be lost."""
        size = min(self.config.window or max_length, max_length)
        cache = jnp.zeros((batch_size, size, self.num_kv_heads, self.head_dim), self.dtype)
        return AttentionState(
            k=cache,
            v=cache,
            positions=jnp.full((batch_size, size), -1, jnp.int32),
            next_position=jnp.zeros((batch_size,), jnp.int32),
        )

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        segment_ids: Int[Array, "B T"] | None = None,
        state: AttentionState | None = None,
    ) -> tuple[Float[Array, "B T D_out"], AttentionState | None]:
        """See base.py."""
        batch_size, length, _ = x.shape
        q, k, v = (
            proj(x).reshape(batch_size, length, -1, self.head_dim)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (batch_size, length))
        if state is not None:
            positions = positions + state.next_position[:, None]
        q = rotate(q, positions, self.config.rope_base)
        k = rotate(k, positions, self.config.rope_base)

        if state is not None and length == 1 and segment_ids is None:
            return self._decode(q, k, v, positions, state)
        masked = segment_ids is not None or state is not None
        chosen = dispatch.choose("attention", IMPLEMENTATIONS, None, q, masked=masked)
        if not masked:
            window = None if self.config.window is None else (self.config.window - 1, 0)
            # cuDNN's gradient refuses odd lengths; no token sees one after it.
            if chosen.name == "cudnn" and length % 2:
                q, k, v = (jnp.pad(a, ((0, 0), (0, 1), (0, 0), (0, 0))) for a in (q, k, v))
            o = chosen.run(
                q, k, v, is_causal=True, local_window_size=window, implementation=chosen.name
            )[:, :length]
            return self.out_proj(read_out(o).reshape(batch_size, length, -1)), None

        if segment_ids is None:
            segments = jnp.zeros((batch_size, length), jnp.int32)
        else:
            segments = number_segments(segment_ids)
        key_positions, key_segments = positions, segments
        if state is not None:
            k = jnp.concatenate([state.k, k], axis=1)
            v = jnp.concatenate([state.v, v], axis=1)
            key_positions = jnp.concatenate([state.positions, positions], axis=1)
            # The cache holds the row's first segment, number 0.
            cached = jnp.zeros(state.positions.shape, jnp.int32)
            key_segments = jnp.concatenate([cached, segments], axis=1)

        distance = positions[:, :, None] - key_positions[:, None, :]
        visible = (distance >= 0) & (key_positions[:, None, :] >= 0)
        visible &= segments[:, :, None] == key_segments[:, None, :]
        if self.config.window is not None:
            visible &= distance < self.config.window
        o = chosen.run(q, k, v, mask=visible[:, None], implementation=chosen.name)
        y = self.out_proj(read_out(o).reshape(batch_size, length, -1))
        if state is None:
            return y, None

        own = key_segments == segments[:, -1:]
        key_positions = jnp.where(own, key_positions, -1)
        return y, _keep_last(state, k, v, key_positions, positions[:, -1:])

    def _decode(self, q, k, v, positions, state: AttentionState):
        """One token a row: written into the ring, which holds all that it sees."""
        rows = jnp.arange(q.shape[0])
        slots = positions[:, 0] % state.k.shape[1]

        def put(cache, new):  # rows differ, so no two writes meet
            return cache.at[rows, slots].set(new, unique_indices=True, mode="promise_in_bounds")

        state = AttentionState(
            k=put(state.k, k[:, 0]),
            v=put(state.v, v[:, 0]),
            positions=put(state.positions, positions[:, 0]),
            next_position=positions[:, 0] + 1,
        )
        visible = (state.positions >= 0)[:, None, None, :]
        o = jax.nn.dot_product_attention(q, state.k, state.v, mask=visible, implementation="xla")
        return self.out_proj(read_out(o).reshape(q.shape[0], 1, -1)), state


def _keep_last(
    state: AttentionState,
    k: Float[Array, "B S G K"],
    v: Float[Array, "B S G K"],
    key_positions: Int[Array, "B S"],
    last: Int[Array, "B 1"],
) -> AttentionState:
    """The ring after a call: of `state`'s W entries and the new ones after them, [B, S] in all, the
    last W up to position `last`, each in its slot."""
    size = state.k.shape[1]
    slots = jnp.arange(size, dtype=jnp.int32)[None]
    newest = last - (last - slots) % size  # position that belongs into each slot
    new = newest - state.next_position[:, None]
    source = jnp.where(new >= 0, size + new, slots)

    def pick(x):
        index = source.reshape(*source.shape, *[1] * (x.ndim - 2))
        return jnp.take_along_axis(x, index, axis=1)

    return AttentionState(pick(k), pick(v), pick(key_positions), last[:, 0] + 1)
