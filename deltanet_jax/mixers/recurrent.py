# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What mixers with a matrix memory [H, K, V] share: projections, memory, norm, gate, output.

A member says how the memory changes and is read (`remember`), and adds the weights it needs for
that (`make_controls`).
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from deltanet_jax.config import check_at_least, check_one_of
from deltanet_jax.layers.linear import linear
from deltanet_jax.layers.norm import rms_norm
from deltanet_jax.layers.projection import QKVProjection
from deltanet_jax.mixers.base import Context, MixerConfig, arguments, head_dim
from pallas_kernels._common.chunking import CHUNK_SIZES
from pallas_kernels._common.precision import state_dtype


@dataclasses.dataclass(frozen=True)
class RecurrentConfig(MixerConfig):
    """Options of every mixer with a matrix memory.

    Attributes:
        k_width, v_width: keys and values of all heads by default, as multiples of d_model.
        num_heads: heads H.
        head_k_dim, head_v_dim: sizes K and V of a head; None is the width / num_heads.
        conv_size: width of the short convolutions before q, k, v; 0 leaves them out.
        chunk_size: tokens a chunk of the parallel form.
    """

    k_width: ClassVar[float] = 1.0
    v_width: ClassVar[float] = 1.0
    num_heads: int = 8
    head_k_dim: int | None = None
    head_v_dim: int | None = None
    conv_size: int = 4
    chunk_size: int = 64

    def __post_init__(self):
        for name in ("num_heads", "head_k_dim", "head_v_dim"):
            check_at_least(self, name, 1)
        check_at_least(self, "conv_size", 0)
        check_one_of(self, "chunk_size", CHUNK_SIZES)

    def head_sizes(self, d_model: int) -> tuple[int, int]:
        """K and V. Raises ValueError where a default isn't whole."""
        return (
            head_dim(self.k_width * d_model, self.num_heads, self.head_k_dim, "head_k_dim"),
            head_dim(self.v_width * d_model, self.num_heads, self.head_v_dim, "head_v_dim"),
        )

    def _state_flops(self, d_model: int, operations: int) -> float:
        """`operations` forward per number of the memory, twice as many backward."""
        k, v = self.head_sizes(d_model)
        return 3.0 * operations * self.num_heads * k * v


class RecurrentState(NamedTuple):
    """What decoding carries: constant in the number of tokens read.

    Attributes:
        convs: states of the q, k, v convolutions, each [B, W - 1, features], or empty tuples.
        memory: `init_memory`'s: [B, H, K, V], float32 (float64 for float64), or arrays around it.
    """

    convs: tuple
    memory: Any


class RecurrentMixer(nnx.Module):
    """q, k, v: Linear -> conv -> activation; memory; norm per head; gate; Linear.

    `qkv` are options of `QKVProjection`. `output_norm` is an RMSNorm over V whose weight the heads
    share, `output_gate` a factor gate_activation(x W_gate) after it.
    """

    gate_activation = staticmethod(jax.nn.silu)

    def __init__(
        self,
        config: RecurrentConfig,
        context: Context,
        *,
        output_norm: bool = True,
        output_gate: bool = False,
        rngs: nnx.Rngs,
        **qkv,
    ):
        self.config = config
        self.memory_dtype = state_dtype(context.dtype)
        kinds = {**context.kinds(), "rngs": rngs}
        k_dim, v_dim = config.head_sizes(context.d_model)
        self.qkv = QKVProjection(
            context.d_model,
            config.num_heads,
            k_dim,
            v_dim,
            conv_size=config.conv_size,
            init_std=context.init_std,
            **kinds,
            **qkv,
        )
        self.make_controls(context, rngs=rngs)
        size = config.num_heads * v_dim
        self.gate_proj = self.make_gate(context, rngs=rngs) if output_gate else None
        self.out_norm = rms_norm(v_dim, eps=context.norm_eps, **kinds) if output_norm else None
        self.out_proj = linear(size, context.d_model, init_std=context.out_init_std, **kinds)

    def make_controls(self, context: Context, *, rngs: nnx.Rngs) -> None:
        """Makes the weights of `remember`; none by default."""

    def make_gate(self, context: Context, *, rngs: nnx.Rngs) -> nnx.Module:
        """The map to the output gate's logits."""
        size = self.config.num_heads * self.qkv.head_v_dim
        return linear(
            context.d_model, size, init_std=context.init_std, **context.kinds(), rngs=rngs
        )

    def init_memory(self, batch_size: int) -> Any:
        """The empty memory."""
        shape = (batch_size, self.config.num_heads, self.qkv.head_k_dim, self.qkv.head_v_dim)
        return jnp.zeros(shape, self.memory_dtype)

    def remember(
        self,
        x: Float[Array, "B T D"],
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        *,
        memory: Any,
        segment_ids: Int[Array, "B T"] | None,
    ) -> tuple[jax.Array, Any]:
        """(read-outs [B, T, H, V], the memory after the last token); `memory` None is empty."""
        raise NotImplementedError(f"{type(self).__name__}.remember")

    def init_state(self, batch_size: int, max_length: int) -> RecurrentState:
        """An empty memory; `max_length` does not matter to a recurrence."""
        del max_length
        return RecurrentState(self.qkv.init_state(batch_size), self.init_memory(batch_size))

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        segment_ids: Int[Array, "B T"] | None = None,
        state: RecurrentState | None = None,
    ) -> tuple[Float[Array, "B T D_out"], RecurrentState | None]:
        """See base.py."""
        convs, memory = (None, None) if state is None else state
        q, k, v, convs = self.qkv(x, segment_ids=segment_ids, state=convs)
        q, k, v = arguments(q, k, v)
        o, memory = self.remember(x, q, k, v, memory=memory, segment_ids=segment_ids)
        if self.out_norm is not None:
            o = self.out_norm(o)
        if self.gate_proj is not None:
            o = o * self.gate_activation(self.gate_proj(x)).reshape(o.shape)
        y = self.out_proj(o.reshape(*o.shape[:2], -1))
        return y, None if state is None else RecurrentState(convs, memory)


def is_one_step(x: jax.Array, memory: Any, segment_ids: jax.Array | None) -> bool:
    """A single token continues a memory: what operators' steps are for."""
    return memory is not None and x.shape[1] == 1 and segment_ids is None
