# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The public door of the delta rule: signature, checks, defaults, dispatch. No mathematics."""

from typing import NamedTuple

import jax
from jaxtyping import Array, Float, Int

from pallas_kernels._common import checks, dispatch
from pallas_kernels._common.arguments import check_arguments
from pallas_kernels.delta_rule import kernel_support, triton_support
from pallas_kernels.delta_rule.reference import delta_rule_reference
from pallas_kernels.delta_rule.vjp import delta_rule_chunked


class DeltaRuleOutput(NamedTuple):
    """What `delta_rule` returns.

    Attributes:
        output: [B, T, H, V], dtype of v.
        final_state: [B, H, K, V], float32 (float64 for float64 inputs), after the last token.
    """

    output: jax.Array
    final_state: jax.Array


def _reference(*args, scale, chunk_size, sequence_pieces, residuals):
    del chunk_size, sequence_pieces, residuals  # the definition has nothing of the kind
    return delta_rule_reference(*args, scale=scale)


def _chunked(*args, scale, chunk_size, sequence_pieces, residuals):
    del sequence_pieces, residuals  # one scan over chunks; it keeps its inputs
    return delta_rule_chunked(*args, scale=scale, chunk_size=chunk_size)


def _kernels(*args, **options):
    # Imported when used: Mosaic GPU takes half a second to import and is not everywhere.
    from pallas_kernels.delta_rule.kernel_vjp import delta_rule_kernels

    return delta_rule_kernels(*args, **options)


def _triton(*args, **options):
    # Imported when used: jax-triton is an extra and cannot be imported without a GPU.
    from pallas_kernels.delta_rule.triton_vjp import delta_rule_triton

    return delta_rule_triton(*args, **options)


RESIDUALS = ("recompute", "save")

# In order of preference.
IMPLEMENTATIONS = (
    dispatch.Implementation("pallas", _kernels, kernel_support.unsupported),
    dispatch.Implementation("triton", _triton, triton_support.unsupported, triton_support.avoided),
    dispatch.Implementation("xla", _chunked, lambda *args, **kwargs: None),
    dispatch.Implementation("reference", _reference, lambda *args, **kwargs: None),
)


def delta_rule(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    beta: Float[Array, "B T H"],
    *,
    scale: float | None = None,
    initial_state: Float[Array, "B H K V"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    chunk_size: int = 64,
    sequence_pieces: int | None = None,
    residuals: str = "recompute",
    implementation: str | None = None,
) -> DeltaRuleOutput:
    """Runs the delta rule over a sequence.

    For each batch entry and head, t = 1..T (README.md, eq. 1):
        S_t = S_{t-1} + beta_t k_t (v_t - S_{t-1}^T k_t)^T,    o_t = scale * S_t^T q_t.

    Args:
        q: queries, [B, T, H, K]. q, k, v and beta share one dtype of float32, bfloat16, float16,
            float64 (under x64). Any T >= 0; K != V is fine.
        k: keys, [B, T, H, K]. Expected to have unit L2 norm along K; not normalised here.
        v: values, [B, T, H, V].
        beta: write strengths, [B, T, H], in [0, 1], up to 2 with negative eigenvalues. 0 leaves
            the state as it is.
        scale: factor on the read-out; K**-0.5 by default. A Python number, not traced.
        initial_state: [B, H, K, V], float32 (float64 for float64 inputs); zeros by default.
        segment_ids: [B, T] integers; a change of id along a row is a boundary that neither state
            nor output crosses. `initial_state` belongs to a row's first segment, `final_state` to
            its last. One segment a row by default.
        chunk_size: tokens a chunk of "xla", 16, 32, 64 or 128. Changes speed and rounding only;
            the kernels' chunks have 64 tokens whatever it is.
        sequence_pieces: into how many pieces "pallas" cuts a long row of few heads, to go through
            them side by side; a divisor of T / 64. None chooses: 1 below 32,768 tokens (16,384 with
            K > 128) or above 16 heads. 1 gives the bits of the row's parts run one after the other.
            The other implementations cut nothing and ignore it.
        residuals: what the backward pass of "pallas" and "triton" finds ready beside its inputs:
            "recompute", little, or "save", what the forward pass came by: of "pallas" 2 V + K V /
            32 + 384 bytes a token and head, of "triton" with 16-bit inputs 2 K more. Same bits; in
            the others, and in "pallas" with K > 128, where "recompute" is the faster, it changes
            nothing.
        implementation: "reference" (the definition, `lax.scan` over T), "xla" (chunkwise, any
            platform), "pallas" (a Hopper GPU; bfloat16 or float16, K and V up to 256), "triton"
            (GPUs of compute capability 8.0, 8.6, 8.9 and 9.0 with jax-triton; any but float64, K up
            to 256), or None: the first that can run here, logged once; "triton" only on 8.x.
    Returns:
        DeltaRuleOutput(output [B, T, H, V] in v.dtype, final_state [B, H, K, V]).
    Raises:
        ValueError: a rank, an axis or an option (chunk_size, sequence_pieces, residuals,
            implementation) is not as above.
        TypeError: a dtype is not as above.
        NotImplementedError: the requested implementation cannot run here; the message says why.
    Numerics: sums and state in float32, products of bfloat16/float16 inputs on operands of that
        type. RMS error of "xla" against the definition in float64: below 1e-5 for float32 and 1e-2
        for bfloat16, outputs and every gradient (tests/pallas_kernels/delta_rule/test_chunked.py).
        "pallas": below 1e-2 for bfloat16 (keys that repeat, beta up to 2 and segments included) and
        1e-3 for float16 (test_kernel_gpu.py there).
    Cost: 6 T K V + 4 T C (K + V) FLOP and little more per head; T / C sequential steps.
    Gradients: of q, k, v, beta, initial_state from both outputs; any order, reverse and (through
        "reference" and "xla") forward mode. "xla" keeps only its inputs for the backward pass.
        "pallas" and "triton": first order, reverse mode; what they keep, kernel_vjp.py and
        triton_vjp.py say.
    Source: Yang et al. 2024, arXiv:2406.06484, sections 2.2 and 3; equations in README.md here.
    """
    checked = check_arguments(
        q,
        k,
        v,
        beta,
        scale=scale,
        initial_state=initial_state,
        segment_ids=segment_ids,
        chunk_size=chunk_size,
    )
    checks.check_choice("residuals", residuals, RESIDUALS)
    if sequence_pieces is not None:
        checks.check_positive_integer("sequence_pieces", sequence_pieces)

    args = (q, k, v, beta, checked.initial_state, checked.segments)
    options = {
        "scale": checked.scale,
        "chunk_size": chunk_size,
        "sequence_pieces": sequence_pieces,
        "residuals": residuals,
    }
    results = dispatch.call("delta_rule", IMPLEMENTATIONS, implementation, *args, **options)
    return DeltaRuleOutput(*results)
