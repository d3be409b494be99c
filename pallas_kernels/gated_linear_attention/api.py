# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The public door of gated linear attention: signature, checks, dispatch. No mathematics."""

from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Int

from pallas_kernels._common import dispatch
from pallas_kernels._common.arguments import check_arguments, check_log_decay
from pallas_kernels.gated_linear_attention import triton_support
from pallas_kernels.gated_linear_attention.chunked import gated_linear_attention_chunked
from pallas_kernels.gated_linear_attention.reference import gated_linear_attention_reference


class LinearAttentionOutput(NamedTuple):
    """What linear attentions return.

    Attributes:
        output: [B, T, H, V], dtype of v.
        final_state: [B, H, K, V], float32 (float64 for float64 inputs), after the last token.
    """

    output: jax.Array
    final_state: jax.Array


def _reference(*args, scale, chunk_size):
    del chunk_size  # the definition has none
    return gated_linear_attention_reference(*args, scale=scale)


def _triton(*args, **options):
    # Imported when used: jax-triton is an extra and cannot be imported without a GPU.
    from pallas_kernels.gated_linear_attention.triton_vjp import gated_linear_attention_triton

    return gated_linear_attention_triton(*args, **options)


# In order of preference.
IMPLEMENTATIONS = (
    dispatch.Implementation("triton", _triton, triton_support.unsupported),
    dispatch.Implementation("xla", gated_linear_attention_chunked, lambda *args, **kwargs: None),
    dispatch.Implementation("reference", _reference, lambda *args, **kwargs: None),
)


def gated_linear_attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    g: Float[Array, "B T H K"] | Float[Array, "B T H"],
    *,
    scale: float | None = None,
    initial_state: Float[Array, "B H K V"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    chunk_size: int = 64,
    implementation: str | None = None,
) -> LinearAttentionOutput:
    """Runs linear attention with a decaying memory over a sequence.

    For each batch entry and head, t = 1..T (README.md, eq. 1):
        S_t = diag(exp(g_t)) S_{t-1} + k_t v_t^T,    o_t = scale * S_t^T q_t.

    Args:
        q, k, v: queries, keys [B, T, H, K] and values [B, T, H, V] of one dtype of float32,
            bfloat16, float16, float64 (under x64). Any T >= 0.
        g: logarithm of the decay, <= 0 (not checked: a value), float32 (float64 for float64
            inputs): [B, T, H, K], one a channel of the keys (GLA), or [B, T, H], one a head
            (RetNet), which is cheaper. -inf erases.
        scale, initial_state, segment_ids: as in `delta_rule`.
        chunk_size: tokens a chunk of "xla", 16, 32, 64 or 128. Changes speed and rounding only.
        implementation: "reference" (the definition, `lax.scan` over T), "xla" (chunkwise, any
            platform), "triton" (NVIDIA GPUs of compute capability 8.0, 8.6, 8.9 and 9.0 with
            jax-triton; any dtype but float64, K up to 256), or None: the fastest that can run
            here, logged once.
    Returns:
        LinearAttentionOutput(output [B, T, H, V] in v.dtype, final_state [B, H, K, V]).
    Raises:
        ValueError: a rank, an axis or an option is not as above.
        TypeError: a dtype is not as above.
        NotImplementedError: the requested implementation cannot run here; the message says why.
    Numerics: no exponent is positive, so any decay is safe. RMS error of "xla" against the
        definition in float64: below 1e-5 for float32 and 1e-2 for bfloat16, outputs and every
        gradient (tests/pallas_kernels/test_gated_linear_attention.py); "triton"
        likewise, 1e-3 for float16 (test_gated_linear_attention_triton.py there).
    Cost: 5 T K V + 2 T C (K + V) FLOP per head; T / C sequential steps, each a multiplication and
        an addition of the state. One decay a channel: log2(C) more passes over q, k, g.
    Gradients: of q, k, v, g, initial_state from both outputs; any order, both modes; of
        "triton" first order, reverse mode. "xla" and "triton" keep only their inputs for the
        backward pass.
    Source: Yang et al. 2023, arXiv:2312.06635 (GLA); Sun et al. 2023,
        arXiv:2307.08621 (RetNet); equations in README.md here.
    """
    checked = check_arguments(
        q,
        k,
        v,
        scale=scale,
        initial_state=initial_state,
        segment_ids=segment_ids,
        chunk_size=chunk_size,
    )
    check_log_decay(g, "B T H", checked.sizes, q.dtype)
    g = g[..., None] if g.ndim == 3 else g
    args = (q, k, v, g, checked.initial_state, checked.segments)
    options = {"scale": checked.scale, "chunk_size": chunk_size}
    results = dispatch.call(
        "gated_linear_attention", IMPLEMENTATIONS, implementation, *args, **options
    )
    return LinearAttentionOutput(*results)
