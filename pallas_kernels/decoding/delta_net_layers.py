# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""One token of one row through all layers of a DeltaNet with SwiGLU, in one launch."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from pallas_kernels._common import checks
from pallas_kernels.decoding.layers_plan import HEAD, SLOT_ROWS, Plan, Weights, pack, plan

DTYPES = ("bfloat16", "float16")
MAX_HIDDEN = 14336  # with the ring, shared memory holds no longer vectors


class LayerWeights(NamedTuple):
    """One layer's.

    Attributes:
        matrices: in one 16-bit dtype.
        mixer_scale, mlp_scale: [D], head_scale: [K], of the RMSNorms before the mixer and the MLP
            and of every head's output.
        taps: [W, 3 D], of the convolutions of q, k, v side by side; tap j multiplies the input j
            tokens back.
    """

    matrices: Weights
    mixer_scale: jax.Array
    head_scale: jax.Array
    mlp_scale: jax.Array
    taps: jax.Array


class PackedLayers(NamedTuple):
    """All layers' weights as the kernel reads them: `layers_plan.pack`'s stream of each, [*, 64],
    and the others stacked, [L, ...]. Made by `pack_layers`."""

    stream: jax.Array
    mixer_scale: jax.Array
    head_scale: jax.Array
    mlp_scale: jax.Array
    taps: jax.Array


class LayersState(NamedTuple):
    """Of all layers.

    Attributes:
        tails: [L, W - 1, 3 D], the projections of q, k, v before this token, oldest first, in the
            weights' dtype.
        memory: [L, H, K, V] float32.
    """

    tails: jax.Array
    memory: jax.Array


def programs() -> int:
    """One a multiprocessor of the first device: all of them run at the same time."""
    return jax.devices()[0].core_count


def unsupported(
    *, width: int, heads: int, key_size: int, value_size: int, hidden: int, taps: int, dtype
) -> str | None:
    """Why the kernel cannot run such layers here, or None. Sizes as in `delta_net_layers`."""
    device = jax.devices()[0]
    if device.platform != "gpu" or getattr(device, "compute_capability", None) != "9.0":
        return f"the kernel needs a Hopper GPU (compute capability 9.0), this is {device}"
    if jnp.dtype(dtype).name not in DTYPES:
        return f"the kernel takes {' and '.join(DTYPES)}, got {jnp.dtype(dtype).name}"
    if (key_size, value_size) != (HEAD, HEAD) or width != heads * HEAD:
        return (
            f"the kernel takes heads of K = V = {HEAD} that make up the width, got {heads} of "
            f"{key_size} and {value_size} for {width}"
        )
    if heads % 8 or heads > programs():
        return f"the kernel takes a multiple of 8 heads, at most {programs()}, got {heads}"
    if hidden % 256 or not 0 < hidden <= MAX_HIDDEN:
        return (
            f"the kernel takes an MLP as wide as a multiple of 256 up to {MAX_HIDDEN}, got {hidden}"
        )
    if taps < 2:
        return f"the kernel takes at least 2 taps, got {taps}"
    if (lines := plan(heads, hidden, programs()).slot_lines) > SLOT_ROWS:
        return f"the kernel takes {SLOT_ROWS} rows of a matrix a multiprocessor, these are {lines}"
    return None


def pack_layers(layers: Sequence[LayerWeights], how: Plan) -> PackedLayers:
    """What `delta_net_layers` takes, from every layer's weights; `how` of `layers_plan.plan`."""
    streams = [pack(how, layer.matrices) for layer in layers]
    others = (jnp.stack(arrays) for arrays in zip(*(layer[1:] for layer in layers), strict=True))
    return PackedLayers(jnp.concatenate(streams), *others)


def delta_net_layers(
    x: Float[Array, "B D"],
    layers: PackedLayers,
    state: LayersState,
    *,
    how: Plan,
    beta_scale: float = 1.0,
    norm_eps: float = 1e-6,
    scale: float | None = None,
) -> tuple[Float[Array, "B D"], LayersState]:
    """x through all layers, each with norm(a, g) = g a / sqrt(mean a^2 + norm_eps):
        z = first norm(x, mixer_scale);  o, state = delta_net_step(z, state);  x1 = x + out o;
        x = x1 + down (silu(gate u) * up u), u = norm(x1, mlp_scale).

    Args:
        x: [1, D], D = 128 H, in the stream's dtype.
        layers: `pack_layers` of `how`.
        state: before this token.
        how: whose programs must run at the same time: a GPU's multiprocessors at most.
        beta_scale: 1, or 2 with negative eigenvalues. As norm_eps and scale (K**-0.5 by default) a
            Python number, not traced.
    Returns:
        (x in its dtype, the state after this token).
    Raises:
        ValueError: an axis is not as above.
        TypeError: a dtype is not as above.
    Numerics: float32 inside, x between layers too; inputs of the products are rounded to the
        stream's dtype. No gradients.
    Cost: reads every weight once (up to 5 % more, where rows do not divide evenly), every state
        once, and writes it once.
    """
    num_layers, heads = state.memory.shape[:2]
    sizes = {"L": num_layers, "H": heads, "K": HEAD, "D": how.width, "C": 3 * how.width}
    sizes |= {"rows": num_layers * how.programs * how.lines, "TILE": layers.stream.shape[1]}
    sizes |= {"W": layers.taps.shape[1], "past": layers.taps.shape[1] - 1, "one": 1}
    checks.check_shape("x", x, "one D", sizes)
    checks.check_shape("stream", layers.stream, "rows TILE", sizes)
    checks.check_shape("memory", state.memory, "L H K K", sizes)
    checks.check_shape("tails", state.tails, "L past C", sizes)
    checks.check_same_dtype("x", x, "stream", layers.stream)
    checks.check_same_dtype("tails", state.tails, "stream", layers.stream)

    # Imported when used: it needs Mosaic GPU.
    from pallas_kernels.decoding import kernel_layers

    x_new, tails, memory = kernel_layers.run(
        how,
        *layers,
        x[0],
        *state,
        scale=float(HEAD**-0.5 if scale is None else scale),
        beta_scale=float(beta_scale),
        norm_eps=float(norm_eps),
    )
    return x_new.astype(x.dtype)[None], LayersState(tails, memory)
