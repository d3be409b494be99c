# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Additive linear attention, chunkwise: the delta rule without the correction, for comparison."""

from jaxtyping import Array, Float, Int

from pallas_kernels._common import dispatch
from pallas_kernels._common.arguments import check_arguments
from pallas_kernels.gated_linear_attention import api
from pallas_kernels.gated_linear_attention.chunked import forward

# In order of preference: gated linear attention's without a decay.
IMPLEMENTATIONS = (
    *(i for i in api.IMPLEMENTATIONS if i.name == "triton"),
    dispatch.Implementation("xla", forward, lambda *args, **kwargs: None),
)


def linear_attention(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    *,
    scale: float | None = None,
    initial_state: Float[Array, "B H K V"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
    chunk_size: int = 64,
    implementation: str | None = None,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Runs S_t = S_{t-1} + k_t v_t^T, o_t = scale * S_t^T q_t over a sequence.

    Args:
        q, k: queries and keys after the feature map, [B, T, H, K].
        v: values, [B, T, H, V]. q, k, v share one of float32, bfloat16, float16, float64.
        scale, initial_state, segment_ids, chunk_size: as in `delta_rule`.
        implementation: "triton", "xla" or None, as in `gated_linear_attention`.
    Returns:
        (output [B, T, H, V] in v.dtype, final state [B, H, K, V] in float32, or float64).
    Raises:
        ValueError, TypeError: a shape, dtype or option is not as above; names the argument.
        NotImplementedError: the requested implementation cannot run here; the message says why.
    Cost: 4 T K V + 2 T C (K + V) FLOP per head; T / C sequential steps. Gradients by autodiff,
        which stores one state a chunk.
    Source: Katharopoulos et al. 2020, arXiv:2006.16236; chunkwise: Yang et al. 2024,
        arXiv:2406.06484, section 2.1.
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
    args = (q, k, v, None, checked.initial_state, checked.segments)
    options = {"scale": checked.scale, "chunk_size": chunk_size}
    return dispatch.call("linear_attention", IMPLEMENTATIONS, implementation, *args, **options)
