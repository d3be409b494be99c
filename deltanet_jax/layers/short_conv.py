# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The short depthwise causal convolution as a layer: its weight and its decoding state."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from deltanet_jax.sharding import over_mesh
from pallas_kernels import short_conv, short_conv_sharded
from pallas_kernels._common.segments import number_segments


def _operator():
    return over_mesh(short_conv, short_conv_sharded)


def activate_and_normalize(
    x: Float[Array, "B T D"], *, activation: str = "identity", norm_size: int | None = None
) -> Float[Array, "B T D"]:
    """What `pallas_kernels.short_conv` does after the convolution, in one pass: with one tap, 1."""
    one = jnp.ones((1, x.shape[-1]), jnp.float32)
    return _operator()(x, one, activation=activation, norm_size=norm_size)


class ShortConv(nnx.Module):
    """y_t = sum_{j<W} weight_j * x_{t-j}, each channel on its own; taps stop at segment starts.

    Activation and L2 norm after it are the operator's, so that they cost no further pass.

    Attributes:
        weight: [W, D]; weight[j] multiplies the input j tokens back.

    The state is the last P = W - 1 inputs, [B, P, D], zero where there were none or where they
    belong to an earlier segment than the last token's.
    """

    def __init__(self, size: int, width: int, *, dtype, param_dtype, rngs: nnx.Rngs):
        self.size = size
        self.width = width
        self.dtype = dtype
        bound = width**-0.5  # fan-in of a depthwise convolution is its width
        self.weight = nnx.Param(
            jax.random.uniform(rngs.params(), (width, size), param_dtype, -bound, bound)
        )

    def init_state(self, batch_size: int) -> Float[Array, "B P D"]:
        """No past."""
        return jnp.zeros((batch_size, self.width - 1, self.size), self.dtype)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        segment_ids: Int[Array, "B T"] | None = None,
        state: Float[Array, "B P D"] | None = None,
        **options,
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B P D"]]:
        """Returns (y, the state after x). `state` continues the row's first segment.

        `options` are `pallas_kernels.short_conv`'s activation, norm_size, norm_eps.
        """
        length, past = x.shape[1], self.width - 1
        x = x.astype(self.dtype)
        weight = self.weight[...]
        # The state is zero where it isn't of the first segment, so it may share that segment's id.
        before = self.init_state(x.shape[0]) if state is None else state
        extended = jnp.concatenate([before, x], axis=1)
        ids = None
        if segment_ids is not None:
            ids = jnp.pad(number_segments(segment_ids), ((0, 0), (past, 0)))

        if state is None:
            y = _operator()(x, weight, segment_ids=segment_ids, **options)
        elif length == 1 and ids is None:  # nothing but what the one output needs
            wide = jnp.promote_types(self.dtype, jnp.float32)
            taps = weight[::-1][None].astype(wide)
            y = jnp.sum(extended.astype(wide) * taps, axis=1, keepdims=True).astype(self.dtype)
            y = activate_and_normalize(y, **options)
        else:  # decoding: few tokens
            y = short_conv(extended, weight, segment_ids=ids, implementation="xla", **options)
            y = y[:, past:]

        tail = extended[:, length:]
        if ids is not None:
            tail = jnp.where((ids[:, length:] == ids[:, -1:])[:, :, None], tail, 0)
        return y, tail
