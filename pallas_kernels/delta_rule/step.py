# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""One token of the delta rule, for decoding with a carried state."""

from jaxtyping import Array, Float

from pallas_kernels._common import checks
from pallas_kernels.delta_rule.reference import token


def delta_rule_step(
    state: Float[Array, "B H K V"],
    q: Float[Array, "B H K"],
    k: Float[Array, "B H K"],
    v: Float[Array, "B H V"],
    beta: Float[Array, "B H"],
    *,
    scale: float | None = None,
) -> tuple[Float[Array, "B H V"], Float[Array, "B H K V"]]:
    """Writes one token into the state and reads it (README.md eq. 1).

    Args:
        state: [B, H, K, V], float32 (float64 for float64 inputs): what `delta_rule` returned as
            `final_state`, or zeros.
        q, k: query and key, [B, H, K]; k is expected to have unit L2 norm, not normalised here.
        v: value, [B, H, V]. q, k, v, beta share one of float32, bfloat16, float16, float64.
        beta: write strength, [B, H], in [0, 1] (up to 2 with negative eigenvalues).
        scale: factor on the read-out; K**-0.5 by default.
    Returns:
        (output [B, H, V] in v.dtype, the new state).
    Raises:
        ValueError, TypeError: a shape or dtype is not as above; names the argument.
    Cost: 6 K V FLOP and two passes over the state per head.
    Source: Yang et al. 2024, arXiv:2406.06484, section 2.2.
    """
    checks.check_state("state", state, checks.check_inputs("B H", q, k, v, beta), q.dtype)

    scale = q.shape[-1] ** -0.5 if scale is None else scale
    state, read = token(state, *(x.astype(state.dtype) for x in (q, k, v, beta)))
    return (scale * read).astype(v.dtype), state
