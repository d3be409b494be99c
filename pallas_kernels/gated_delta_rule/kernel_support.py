# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What the Hopper kernels take of the gated delta rule. Asking does not import Mosaic GPU."""

from pallas_kernels.delta_rule import kernel_support

MAX_KEY_SIZE = kernel_support.WIDE  # the decay's gradient takes dK's sums twice


def unsupported(
    q, k, v, g, beta, initial_state, segments, *, scale, chunk_size, residuals
) -> str | None:
    """Why the kernels cannot take these arguments here, or None."""
    if g.ndim == 4:
        return f"the kernels take one decay a head, [B, T, H], got {g.shape}"
    reason = kernel_support.unsupported(
        q,
        k,
        v,
        beta,
        initial_state,
        segments,
        scale=scale,
        chunk_size=chunk_size,
        sequence_pieces=None,
        residuals=residuals,
    )
    if reason is None and q.shape[-1] > MAX_KEY_SIZE:
        return f"the kernels take K <= {MAX_KEY_SIZE} with a decay, got {q.shape[-1]}"
    return reason
