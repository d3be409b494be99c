# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Linear -> short convolution -> activation -> norm: how recurrent mixers make q, k, v."""

from collections.abc import Callable

import jax
from flax import nnx
from jaxtyping import Array, Float, Int

from deltanet_jax.layers.linear import linear
from deltanet_jax.layers.norm import l1_norm, l2_norm
from deltanet_jax.layers.short_conv import ShortConv, activate_and_normalize
from pallas_kernels.short_conv.api import ACTIVATIONS as FUSED_ACTIVATIONS

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
    "elu_plus_one": lambda x: jax.nn.elu(x) + 1,
    "identity": lambda x: x,
}
NORMS: dict[str, Callable[[jax.Array], jax.Array]] = {"l2": l2_norm, "l1": l1_norm}


class HeadProjection(nnx.Module):
    """x [B, T, D] -> [B, T, H, head_dim]. `conv_size` 0 leaves the convolution out, `norm` None
    the norm of heads.

    The state is the convolution's, or an empty tuple without one.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        head_dim: int,
        *,
        conv_size: int,
        activation: str,
        norm: str | None = None,
        init_std: float,
        dtype,
        param_dtype,
        rngs: nnx.Rngs,
    ):
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.activation = activation
        self.norm = norm
        size = num_heads * head_dim
        kinds = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.proj = linear(d_model, size, init_std=init_std, **kinds)
        self.conv = ShortConv(size, conv_size, **kinds) if conv_size else None

    def init_state(self, batch_size: int):
        return () if self.conv is None else self.conv.init_state(batch_size)

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        segment_ids: Int[Array, "B T"] | None,
        state,
    ) -> tuple[Float[Array, "B T H K"], object]:
        y = self.proj(x)
        new_state = ()
        activation, norm = self.activation, self.norm
        # With what of the rest can be done in the same pass.
        options = {}
        if activation in FUSED_ACTIVATIONS:
            options["activation"], activation = activation, "identity"
            if norm == "l2":
                options["norm_size"], norm = self.head_dim, None
        if self.conv is not None:
            y, new_state = self.conv(y, segment_ids=segment_ids, state=state, **options)
        elif "norm_size" in options:
            y = activate_and_normalize(y, **options)
        else:
            activation = self.activation
        y = ACTIVATIONS[activation](y)
        y = y.reshape(*y.shape[:2], self.num_heads, self.head_dim)
        return y if norm is None else NORMS[norm](y), new_state


class QKVProjection(nnx.Module):
    """Queries, keys and values of H heads; the state is the three convolutions'.

    Attributes:
        head_k_dim, head_v_dim: sizes K and V of a head.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        head_k_dim: int,
        head_v_dim: int,
        *,
        qk_activation: str,
        v_activation: str,
        qk_norm: str | None = None,
        **options,
    ):
        self.head_k_dim, self.head_v_dim = head_k_dim, head_v_dim

        def heads(head_dim: int, activation: str, norm: str | None = None) -> HeadProjection:
            return HeadProjection(
                d_model, num_heads, head_dim, activation=activation, norm=norm, **options
            )

        self.q_heads = heads(head_k_dim, qk_activation, qk_norm)
        self.k_heads = heads(head_k_dim, qk_activation, qk_norm)
        self.v_heads = heads(head_v_dim, v_activation)

    def init_state(self, batch_size: int) -> tuple:
        return tuple(h.init_state(batch_size) for h in (self.q_heads, self.k_heads, self.v_heads))

    def __call__(
        self,
        x: Float[Array, "B T D"],
        *,
        segment_ids: Int[Array, "B T"] | None,
        state: tuple | None,
    ) -> tuple[jax.Array, jax.Array, jax.Array, tuple]:
        """(q [B, T, H, K], k [B, T, H, K], v [B, T, H, V], new state)."""
        old = (None, None, None) if state is None else state
        q, q_state = self.q_heads(x, segment_ids=segment_ids, state=old[0])
        k, k_state = self.k_heads(x, segment_ids=segment_ids, state=old[1])
        v, v_state = self.v_heads(x, segment_ids=segment_ids, state=old[2])
        return q, k, v, (q_state, k_state, v_state)
