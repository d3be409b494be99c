# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The public door of the gated delta rule: signature, checks, dispatch. No mathematics."""

from jaxtyping import Array, Float, Int

from pallas_kernels._common import dispatch
from pallas_kernels._common.arguments import check_arguments, check_log_decay
from pallas_kernels.delta_rule.api import DeltaRuleOutput
from pallas_kernels.gated_delta_rule.chunked import gated_delta_rule_chunked
from pallas_kernels.gated_delta_rule.reference import gated_delta_rule_reference


def _reference(*args, scale, chunk_size):
    del chunk_size  # the definition has none
    return gated_delta_rule_reference(*args, scale=scale)


# In order of preference.
IMPLEMENTATIONS = (
    dispatch.Implementation("xla", gated_delta_rule_chunked, lambda *args, **kwargs: None),
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
        chunk_size: tokens a chunk of "xla", 16, 32, 64 or 128. Changes speed and rounding only.
        implementation: "reference" (the definition, `lax.scan` over T), "xla" (chunkwise, any
            platform), or None: the first that can run here, logged once.
    Returns:
        DeltaRuleOutput(output [B, T, H, V] in v.dtype, final_state [B, H, K, V]).
    Raises:
        ValueError: a rank, an axis or an option is not as above.
        TypeError: a dtype is not as above.
    Numerics: as `delta_rule`; no exponent is positive, so any decay is safe. RMS error of "xla"
        against the definition in float64: below 1e-5 for float32 and 1e-2 for bfloat16, outputs and
        every gradient (tests/pallas_kernels/test_gated_delta_rule.py).
    Cost: 7 T K V + 4 T C (K + V) FLOP and little more per head; T / C sequential steps. One decay a
        channel: log2(C) more passes over q, k, g.
    Gradients: of q, k, v, g, beta, initial_state from both outputs; any order, both modes. "xla"
        keeps only its inputs for the backward pass.
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
    check_log_decay(g, "B T H", checked.sizes, q.dtype)
    args = (q, k, v, g, beta, checked.initial_state, checked.segments)
    options = {"scale": checked.scale, "chunk_size": chunk_size}
    chosen = dispatch.choose("gated_delta_rule", IMPLEMENTATIONS, implementation, *args, **options)
    return DeltaRuleOutput(*dispatch.jitted(chosen.run, **options)(*args))
