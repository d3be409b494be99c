# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""A recurrence over tokens with `lax.scan`: what the definitions of operators are written in."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def scan_tokens(
    token: Callable[..., tuple[jax.Array, jax.Array]],
    initial_state: Float[Array, "B H K V"],
    inputs: Sequence[Float[Array, "B T H ..."]],
    segments: Int[Array, "B T"] | None,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Runs (state, output_t) = token(state, *inputs_t) from t = 1 to T.

    `inputs` are cast to the state's dtype. `segments` numbers each row's segments from 0 (0 = the
    one `initial_state` belongs to); the state is zero where one starts.

    Returns (outputs in the state's dtype, final state).
    """
    batch, length = inputs[0].shape[:2]
    if segments is None:
        segments = jnp.zeros((batch, length), jnp.int32)
    # The state entering token t belongs to the segment of token t - 1.
    starts = jnp.diff(segments, axis=1, prepend=0) != 0

    def step(state_BHKV, inputs):
        starts_B, *inputs = inputs
        return token(jnp.where(starts_B[:, None, None, None], 0, state_BHKV), *inputs)

    time_first = [jnp.moveaxis(x.astype(initial_state.dtype), 1, 0) for x in inputs]
    final_state, output_TBHV = jax.lax.scan(
        step, initial_state, (jnp.moveaxis(starts, 1, 0), *time_first)
    )
    return jnp.moveaxis(output_TBHV, 0, 1), final_state
