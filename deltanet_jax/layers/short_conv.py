# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The short depthwise causal convolution, segment-aware and with a decoding state."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from pallas_kernels._common.segments import number_segments


class ShortConv(nnx.Module):
    """y_t = sum_{j<W} weight_j * x_{t-j}, each channel on its own; taps stop at segment starts.

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
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B P D"]]:
        """Returns (y, the state after x). `state` continues the row's first segment."""
        batch_size, length, _ = x.shape
        past = self.width - 1
        x = x.astype(self.dtype)
        # Sums, also of the weight's gradient, in float32: 16 bits lose 1e-2 of it.
        wide = jnp.promote_types(self.dtype, jnp.float32)
        weight = self.weight[...].astype(wide)
        if state is None:
            state = self.init_state(batch_size)
        extended = jnp.concatenate([state, x], axis=1)
        # The state is zero where it isn't of the first segment, so it may share that segment's id.
        ids = None
        if segment_ids is not None:
            ids = jnp.pad(number_segments(segment_ids), ((0, 0), (past, 0)))[:, :, None]

        y = jnp.zeros(x.shape, wide)
        for back in range(self.width):
            tap = slice(past - back, past - back + length)
            term = extended[:, tap].astype(wide) * weight[back][None, None, :]
            if ids is not None and back > 0:
                term = jnp.where(ids[:, tap] == ids[:, past:], term, 0)
            y = y + term

        tail = extended[:, length:]
        if ids is not None:
            tail = jnp.where(ids[:, length:] == ids[:, -1:], tail, 0)
        return y.astype(self.dtype), tail
