# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""RWKV's token shift: every token beside the one before it (Peng et al. 2023)."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from pallas_kernels._common.segments import number_segments


class TokenShift(nnx.Module):
    """x -> mix_n * x_t + (1 - mix_n) * x_{t-1} for every name n, x_0 = 0 in every segment.

    The state is the last token, [B, 1, D]. Source: Peng et al. 2023, arXiv:2305.13048, eqs. 11 to
    15. Their initial values depend on the layer; here all layers start as the middle one does.

    Attributes:
        mix_r, mix_k, ...: [D], those that `powers` names, starting as (d / D)^power + its offset.
    """

    def __init__(self, size: int, powers: dict[str, tuple[float, float]], *, dtype, param_dtype):
        self.size, self.dtype, self.names = size, dtype, tuple(powers)
        position = jnp.arange(size, dtype=jnp.float32) / size
        for name, (power, offset) in powers.items():
            mix = (position**power + offset).astype(param_dtype)
            setattr(self, f"mix_{name}", nnx.Param(mix))

    def init_state(self, batch_size: int) -> Float[Array, "B 1 D"]:
        """No token before."""
        return jnp.zeros((batch_size, 1, self.size), self.dtype)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        segment_ids: Int[Array, "B T"] | None,
        state: Float[Array, "B 1 D"] | None,
    ) -> tuple[list[Float[Array, "B T D"]], Float[Array, "B 1 D"]]:
        """(a mixture for every name, the state after x); `state` is of the row's first segment."""
        x = x.astype(self.dtype)
        before = self.init_state(x.shape[0]) if state is None else state
        earlier = jnp.concatenate([before, x[:, :-1]], axis=1)
        if segment_ids is not None:
            starts = jnp.diff(number_segments(segment_ids), axis=1, prepend=0) != 0
            earlier = jnp.where(starts[:, :, None], 0, earlier)

        def mixture(name: str):
            mix = getattr(self, f"mix_{name}")[...].astype(x.dtype)[None, None]
            return mix * x + (1 - mix) * earlier

        return [mixture(name) for name in self.names], x[:, -1:]
