# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""One token of gated linear attention, for decoding with a carried state."""

from jaxtyping import Array, Float

from pallas_kernels._common import checks
from pallas_kernels._common.arguments import check_log_decay
from pallas_kernels.gated_linear_attention.reference import token


def gated_linear_attention_step(
    state: Float[Array, "B H K V"],
    q: Float[Array, "B H K"],
    k: Float[Array, "B H K"],
    v: Float[Array, "B H V"],
    g: Float[Array, "B H K"] | Float[Array, "B H"],
    *,
    scale: float | None = None,
) -> tuple[Float[Array, "B H V"], Float[Array, "B H K V"]]:
    """Decays the state, adds one token to it and reads it (README.md eq. 1).

    Args:
        state: [B, H, K, V], float32 (float64 for float64 inputs): what `gated_linear_attention`
            returned as `final_state`, or zeros.
        q, k, v: query and key [B, H, K], value [B, H, V], of one floating dtype.
        g: log decay, <= 0, [B, H, K] or [B, H], in the state's dtype.
        scale: factor on the read-out; K**-0.5 by default.
    Returns:
        (output [B, H, V] in v.dtype, the new state).
    Raises:
        ValueError, TypeError: a shape or dtype is not as above; names the argument.
    Cost: 5 K V FLOP and one pass over the state per head.
    Source: Yang et al. 2023, arXiv:2312.06635.
    """
    sizes = checks.check_inputs("B H", q, k, v)
    check_log_decay(g, "B H", sizes, q.dtype)
    checks.check_state("state", state, sizes, q.dtype)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    inputs = (x.astype(state.dtype) for x in (q, k, v))
    state, read = token(state, *inputs, g[..., None] if g.ndim == 2 else g)
    return (scale * read).astype(v.dtype), state
