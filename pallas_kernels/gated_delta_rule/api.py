# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The public door of the gated delta rule: signature, checks, dispatch. No mathematics."""

from jaxtyping import Array, Float, Int

from pallas_kernels._common import checks, dispatch
from pallas_kernels._common.arguments import check_arguments, check_log_decay
from pallas_kernels.delta_rule.api import RESIDUALS, DeltaRuleOutput
from pallas_kernels.gated_delta_rule import kernel_support
from pallas_kernels.gated_delta_rule.chunked import gated_delta_rule_chunked
from pallas_kernels.gated_delta_rule.reference import gated_delta_rule_reference


def _reference(*args, scale, chunk_size, residuals):
    del chunk_size, residuals  # the definition has nothing of the kind
    return gated_delta_rule_reference(*args, scale=scale)


def _chunked(*args, scale, chunk_size, residuals):
    del residuals  # it keeps its inputs
    return gated_delta_rule_chunked(*args, scale=scale, chunk_size=chunk_size)


def _kernels(*args, **options):
    # Imported when used: Mosaic GPU takes half a second to import and is not everywhere.
    from pallas_kernels.gated_delta_rule.kernels import gated_delta_rule_kernels

    return gated_delta_rule_kernels(*args, **options)


# In order of preference.
IMPLEMENTATIONS = (
    dispatch.Implementation("pallas", _kernels, kernel_support.unsupported),
    dispatch.Implementation("xla", _chunked, lambda *args, **kwargs: None),
    dispatch.Implementation("reference", _reference, lambda *args, **kwargs: None),
)


def gated_delta_rule(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    g: Float[Array, "B T H"] | Float[Array, "B T H K"],
    beta: Float[Array, "B T H"],
    *,
    scale: float | None = None,
    initial_state: Float[Array, "B H K V"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    chunk_size: int = 64,
    residuals: str = "recompute",
    implementation: str | None = None,
) -> DeltaRuleOutput:
    """Runs the gated delta rule over a sequence.

    For each batch entry and head, t = 1..T (README.md, eq. 1):
        S~ = diag(exp(g_t)) S_{t-1},  S_t = S~ + beta_t k_t (v_t - S~^T k_t)^T,
        o_t = scale * S_t^T q_t.

    Args:
        q, k, v, beta, scale, initial_state, segment_ids: as in `delta_rule`.
        g: logarithm of the decay, <= 0 (not checked: a value), float32 (float64 for float64
            inputs): [B, T, H], one a head (Gated DeltaNet), or [B, T, H, K], one a channel of the
            keys (KDA). 0 is the plain delta rule; -inf erases.
        chunk_size: tokens a chunk of "xla", 16, 32, 64 or 128. Changes speed and rounding only;
            the kernels' chunks have 64 tokens whatever it is.
        residuals: what the backward pass of "pallas" finds ready beside its inputs, "recompute" or
            "save", as in `delta_rule`. The other implementations ignore it.
        implementation: "pallas" (Hopper GPUs, bfloat16 and float16, one decay a head, K <= 128,
            V <= 256), "xla" (chunkwise, any platform), "reference" (the definition, `lax.scan`
            over T), or None: the first that can run here, logged once.
    Returns:
        DeltaRuleOutput(output [B, T, H, V] in v.dtype, final_state [B, H, K, V]).
    Raises:
        ValueError: a rank, an axis or an option is not as above.
        TypeError: a dtype is not as above.
        NotImplementedError: the requested implementation cannot run here.
    Numerics: as `delta_rule`; no exponent is positive, so any decay is safe. RMS error of "xla"
        against the definition in float64: below 1e-5 for float32 and 1e-2 for bfloat16, outputs and
        every gradient (tests/pallas_kernels/test_gated_delta_rule.py). "pallas": the latter too,
        but 2e-2 in dg where the same few keys come again and hardly anything decays (README.md).
    Cost: 7 T K V + 4 T C (K + V) FLOP and little more per head; T / C sequential steps. One decay a
        channel: log2(C) more passes over q, k, g.
    Gradients: of q, k, v, g, beta, initial_state from both outputs; any order, both modes. "xla"
        keeps only its inputs for the backward pass. "pallas": first order, reverse mode; dg is 0
        where exp(g) is.
    Source: Yang, Kautz, Hatamizadeh 2025, arXiv:2412.06464; Kimi Team 2025, arXiv:2510.26692 (KDA);
        equations in README.md here.
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
    check_log_decay(g, "B T H", checked.sizes, q.dtype)
    args = (q, k, v, g, beta, checked.initial_state, checked.segments)
    options = {"scale": checked.scale, "chunk_size": chunk_size, "residuals": residuals}
    results = dispatch.call("gated_delta_rule", IMPLEMENTATIONS, implementation, *args, **options)
    return DeltaRuleOutput(*results)
