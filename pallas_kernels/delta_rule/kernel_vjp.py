# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The Hopper kernels as one differentiable function: padding, order of kernels, residuals.

Residuals are the inputs, as in vjp.py; chunk states are recomputed, and so are inverses and scores
where the serial kernel makes them on its way (with few heads a kernel of its own does, and they
are kept: 256 bytes a token and head). A custom_vjp: kernels have no forward mode and no second
order; "xla" has both.

A long row with few heads is cut into pieces that are gone through side by side. A piece maps its
incoming state S to M S + R, exactly; M is what it does to the identity with v = 0, R what it does
to zero. From M and R of all pieces follows each one's true incoming state, and M^T does the same
for cotangents. Residuals are then also the pieces' M and incoming states (small).
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from pallas_kernels._common import chunking
from pallas_kernels.delta_rule import kernel_gradients, kernel_prepare, kernel_serial
from pallas_kernels.delta_rule.kernel_prepare import CHUNK
from pallas_kernels.delta_rule.kernel_support import KEY_SIZES

PIECES = 4
LONG = 32768  # tokens from which a row of few heads is cut into pieces


def _pad(x: jax.Array, sizes: dict[int, int]) -> jax.Array:
    """Zero-pads the given axes to the given sizes."""
    widths = [(0, sizes.get(axis, size) - size) for axis, size in enumerate(x.shape)]
    return jnp.pad(x, widths) if any(w != (0, 0) for w in widths) else x


def _pad_beta(beta: Float[Array, "B T H"]) -> Float[Array, "B H T2"]:
    length = chunking.num_chunks(beta.shape[1], CHUNK) * CHUNK
    return jnp.swapaxes(_pad(beta.astype(jnp.float32), {1: length}), 1, 2)


def _pieces(length: int, heads: int) -> int:
    """Into how many pieces a row is cut, to be gone through side by side.

    Worth it (the row is gone through twice) only for few heads and many tokens. Not a function of
    the batch: the same row gives the same bits in any batch.
    """
    return PIECES if length % (PIECES * CHUNK) == 0 and length >= LONG and heads <= 16 else 1


def _cut(x: Float[Array, "B T *D"], pieces: int) -> Float[Array, "B2 T2 *D"]:
    """[B, T, ...] -> [B P, T / P, ...]."""
    return x.reshape(x.shape[0] * pieces, x.shape[1] // pieces, *x.shape[2:])


def _tiles(q, k, beta, pieces):
    """Inverses and scores, where the serial kernel does not make them on its way."""
    few = q.shape[0] * q.shape[2] <= kernel_serial.FEW_HEADS
    return kernel_prepare.prepare(q, k, beta) if few or pieces > 1 else None


def _through_pieces(transitions, additions, state, *, reverse=False):
    """The state that enters every piece: state <- M state + R, in the order of the pieces.

    transitions [B P, H, K, K], additions [B P, H, K, V], state [B, H, K, V]; in reverse, the
    cotangent that enters every piece from behind, state <- M^T state + R.
    """
    batch = state.shape[0]
    m, r = (x.reshape(batch, -1, *x.shape[1:]) for x in (transitions, additions))
    pieces = m.shape[1]
    subscripts = "bhji,bhjv->bhiv" if reverse else "bhij,bhjv->bhiv"
    entering = [state]
    for i in range(pieces - 1):
        n = pieces - 1 - i if reverse else i
        moved = jnp.einsum(subscripts, m[:, n], entering[-1], precision="highest")
        entering.append(moved + r[:, n])
    if reverse:
        entering.reverse()
    return jnp.stack(entering, axis=1).reshape(r.shape[0] * pieces, *state.shape[1:])


def _prepare(q, k, v, beta, initial_state):
    """Cuts rows into pieces; returns them, tiles, the pieces' transitions and first states."""
    pieces = _pieces(*q.shape[1:3])
    q, k, v = (_cut(x, pieces) for x in (q, k, v))
    beta = _pad_beta(_cut(beta, pieces))
    tiles = _tiles(q, k, beta, pieces)
    transitions, states = None, initial_state
    if pieces > 1:
        transitions, additions = kernel_serial.transition(k, v, beta, tiles[0])
        states = _through_pieces(transitions, additions, initial_state)
    return (q, k, v, beta), tiles, transitions, states


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _delta_rule(q, k, v, beta, initial_state, scale):
    return _forward(q, k, v, beta, initial_state, scale)[0]


def _forward(q, k, v, beta, initial_state, scale):
    cut, tiles, transitions, states = _prepare(q, k, v, beta, initial_state)
    output, final_state = kernel_serial.forward(*cut, tiles, states, scale=scale)
    # Of every row, the state after its last piece.
    final_state = final_state.reshape(q.shape[0], -1, *final_state.shape[1:])[:, -1]
    residuals = (q, k, v, beta), tiles, transitions, states
    return (output.reshape(v.shape), final_state), residuals


def _backward(scale, residuals, cotangents):
    inputs, tiles, transitions, states = residuals
    do, dfinal_state = cotangents
    pieces = states.shape[0] // do.shape[0]
    q, k, v, do = (_cut(x, pieces) for x in (*inputs[:3], do))
    beta = _pad_beta(_cut(inputs[3], pieces))
    dstates = dfinal_state / scale
    u, states, tiles = kernel_serial.states(q, k, v, beta, tiles, states)
    if pieces > 1:
        nothing = jnp.zeros((q.shape[0], *dfinal_state.shape[1:]), jnp.float32)
        *_, additions = kernel_serial.cotangents(
            q, k, do, beta, tiles, nothing, only_initial_state=True
        )
        dstates = _through_pieces(transitions, additions, dstates, reverse=True)
    dx, dstates, dinitial_state = kernel_serial.cotangents(q, k, do, beta, tiles, dstates)
    gradients = kernel_gradients.gradients(q, k, v, beta, do, u, dx, states, dstates, scale=scale)
    dq, dk, dv = (x.reshape(y.shape) for x, y in zip(gradients[:3], inputs[:3], strict=True))
    dbeta = jnp.swapaxes(gradients[3], 1, 2)[:, : q.shape[1]]
    dbeta = dbeta.reshape(inputs[3].shape).astype(inputs[3].dtype)
    dinitial_state = dinitial_state.reshape(-1, pieces, *dinitial_state.shape[1:])[:, 0]
    return dq, dk, dv, dbeta, scale * dinitial_state


_delta_rule.defvjp(_forward, _backward)


def delta_rule_kernels(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    beta: Float[Array, "B T H"],
    initial_state: Float[Array, "B H K V"],
    segments: Int[Array, "B T"] | None,
    *,
    scale: float,
    chunk_size: int,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """The delta rule on a Hopper GPU; what it takes, kernel_support.py says."""
    del segments, chunk_size
    if 0 in v.shape or 0 in q.shape:
        return jnp.zeros_like(v), initial_state
    key_size, value_size = q.shape[-1], v.shape[-1]
    wide_key = next(size for size in KEY_SIZES if size >= key_size)
    wide_value = chunking.num_chunks(value_size, 64) * 64
    # Loads past T read zeros, but the copy engine wants whole rows of its 8-row tiles.
    length = v.shape[1]
    even = chunking.num_chunks(length, 8) * 8
    q, k = (_pad(x, {1: even, 3: wide_key}) for x in (q, k))
    v, beta = _pad(v, {1: even, 3: wide_value}), _pad(beta, {1: even})
    initial_state = _pad(initial_state, {2: wide_key, 3: wide_value})
    output, final_state = _delta_rule(q, k, v, beta, initial_state, scale)
    return output[:, :length, :, :value_size], final_state[:, :, :key_size, :value_size]
