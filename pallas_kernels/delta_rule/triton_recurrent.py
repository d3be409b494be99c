# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Triton kernel of the recurrence: token by token, the state in registers all the while.

The fastest form for a few tokens, and what the paper's figure of speed-ups compares with.
"""

from typing import no_type_check

import triton
import triton.language as tl

from pallas_kernels._common.triton_tiles import tile


@triton.jit
@no_type_check
def recurrent_kernel(
    q, k, v, beta, segments, initial_state, length, scale,
    output, final_state,
    H: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BV: tl.constexpr, SEGMENTS: tl.constexpr,
):  # fmt: skip
    """Eq. 1 in float32. Grid (B H V / BV)."""
    bh, column = tl.program_id(0) // (V // BV), tl.program_id(0) % (V // BV) * BV
    row, head = bh // H, bh % H
    whole = tile(bh, 0, column, K, K, V, BV)
    state = tl.load(initial_state + whole)
    keys, values = tl.arange(0, K), column + tl.arange(0, BV)
    before = 0
    for t in range(length):
        token = row.to(tl.int64) * length + t
        if SEGMENTS:
            segment = tl.load(segments + token)
            state = tl.where(segment == before, state, 0.0)
            before = segment
        place = token * H + head
        k_t = tl.load(k + place * K + keys).to(tl.float32)
        q_t = tl.load(q + place * K + keys).to(tl.float32)
        v_t = tl.load(v + place * V + values).to(tl.float32)
        beta_t = tl.load(beta + place).to(tl.float32)
        error = v_t - tl.sum(k_t[:, None] * state, axis=0)
        state += k_t[:, None] * (beta_t * error)[None, :]
        out = scale * tl.sum(q_t[:, None] * state, axis=0)
        tl.store(output + place * V + values, out.to(output.dtype.element_ty))
    tl.store(final_state + whole, state)
