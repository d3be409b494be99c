# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The serial passes: states forward, their cotangents in reverse. README.md, eqs. 10, 12, 20-23.

Written transposed, a pass needs no shared memory of its own: a warpgroup keeps 64 value rows of
S^T (or dS^T) in its accumulators, and what one product yields is the next one's operand A, in
registers. All that streams through shared memory is operand B. With B = diag(beta) and
kernel_prepare.py's tiles, (-N)^T and P:

    forward    E^T = V^T - S^T K^T             D^T = E^T + (E^T B) (-N)^T        U^T = D^T B
               O^T = scale (S^T Q^T + U^T P^T)                                   S^T += U^T K
    reverse    dU^T = dO^T P + dS^T K^T        dX^T = dU^T + (dU^T B) (-N)       dV^T = dX^T B
               dbeta = column sums of dX^T D^T                     dS^T += dO^T Q - dV^T K

The reverse pass runs in units of `scale` (it sees O / scale): neither Q nor dO is ever multiplied
by it; what it stores for others but dS is multiplied.

Segments: tokens that do not see the incoming state have reads = 0, those that do not reach the
outgoing one writes = 0, and the state crosses the chunk only where keeps = 1. A decay
(kernel_decay.py) multiplies by other numbers in the same three places.
"""

import functools
from typing import NamedTuple

import jax
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from pallas_kernels.delta_rule import kernel_prepare, kernel_serial
from pallas_kernels.delta_rule.kernel_decay import Decays
from pallas_kernels.delta_rule.kernel_prepare import (
    CHUNK,
    WGMMA,
    Tiles,
    add_matmul,
    add_matmuls,
    beta_row,
    load_row,
    round_and_multiply,
    tile_names,
)
from pallas_kernels.delta_rule.kernel_serial import BLOCK_V, serial_kernel
from pallas_kernels.delta_rule.kernel_support import FEW_HEADS, WIDE
from pallas_kernels.delta_rule.kernel_tiles import split

BLOCK = (BLOCK_V, CHUNK)


def warpgroups_of(value_size: int) -> int:
    """Two blocks of values a program share its loads and its maker's work."""
    return 2 if value_size % (2 * BLOCK_V) == 0 else 1


def _columns(x_C):
    return lax.broadcast_in_dim(x_C, BLOCK, (1,))


def _beta(tiles):
    return _columns(beta_row(tiles))


def _only(x, tiles, mark):
    """x [64, C] where a token has the mark (0 reads, 1 writes), else 0; all of x without marks.
    Times the token's decay, from the chunk's start or to its end."""
    if "decays" in tiles:
        x = x * _columns(load_row(tiles["decays"].at[mark], 1))
    if "marks" not in tiles:
        return x
    return jnp.where(_columns(load_row(tiles["marks"].at[mark], 1)) > 0, x, 0.0)


def _pass_on(carry, tiles):
    """What of the carried matrix crosses the chunk."""
    if "decays" in tiles:
        crosses = load_row(tiles["decays"].at[2], 0)
        carry = carry * lax.broadcast_in_dim(crosses, carry.shape, (0,))
    if "marks" not in tiles:
        return carry
    keeps = lax.broadcast_in_dim(load_row(tiles["marks"].at[2], 0), carry.shape, (0,))
    return jnp.where(keeps > 0, carry, 0.0)


def _add_correction(x, x_beta, tiles, dtype, *, in_parts, transposed=False):
    """x + x_beta (-N)^T (transposed: -N), both factors in two parts if `in_parts`."""

    def tile(name):
        return tiles[name].T if transposed else tiles[name]

    if not in_parts:
        return add_matmul(x, (x_beta.astype(dtype), tile("correction")))
    # Not x_beta - rounded: the compiler would make the product with beta part of the difference,
    # here and not in kernel_backward.py, and the same row would not have the same bits in both.
    rounded, rest = split(x_beta, dtype)
    pairs = (rounded, "correction"), (rounded, "remainder"), (rest, "correction")
    return add_matmul(x, *((factor, tile(name)) for factor, name in pairs))


def _errors(tiles, read, inside, dtype):
    """D^T and U^T [64, C], float32, of a chunk; `read` is S^T K^T."""
    v = plgpu.load(tiles["v"].at[:, inside].T, layout=WGMMA, optimized=False)
    beta = _beta(tiles)
    error = v.astype(jnp.float32) - _only(read, tiles, 0)
    in_parts = kernel_prepare.SPLIT_FORWARD
    d = _add_correction(error, error * beta, tiles, dtype, in_parts=in_parts)
    return d, d * beta


def _operands(beta, tiles, marks, decays, makes=False, **arrays):
    """Operands of `serial_kernel`; `tiles` and `arrays` map names to tiles and to arrays; `makes`:
    tiles are made on the way."""
    operands = {
        name: (x, "values" if name in ("v", "do", "d") else "keys") for name, x in arrays.items()
    }
    operands |= {name: (x, "tiles") for name, x in tiles.items()}
    if decays is None:
        operands["beta"] = (beta, "row")
    else:
        operands["decays"] = (decays.rows, "rows")
        operands |= {"sums": (decays.sums, "rows")} if makes else {}
    return operands if marks is None else operands | {"marks": (marks, "marks")}


def _used(tiles: Tiles | None, split, *names):
    """name -> tile of those among `tiles` that a pass reads."""
    names += ("remainder",) if split else ()
    return {} if tiles is None else {name: getattr(tiles, name) for name in names}


class Forward(NamedTuple):
    """What the forward pass leaves; entries that were not asked for are None."""

    output: Float[Array, "B T H V"] | None
    final_state: Float[Array, "B H K V"]
    d: Float[Array, "B T H V"] | None
    states: Float[Array, "B H N V K"] | None  # transposed, entering each chunk
    tiles: Tiles | None


def _forward_types(q, v, chunks, made, outputs, save):
    batch, _, heads, key_size = q.shape
    types = {}
    if outputs:
        types["o"] = (jax.ShapeDtypeStruct(v.shape, v.dtype), "values")
    if save:
        states = (batch, heads, chunks, v.shape[-1], key_size)
        types["d"] = (jax.ShapeDtypeStruct(v.shape, v.dtype), "values")
        types["states"] = (jax.ShapeDtypeStruct(states, v.dtype), "states")
        tile = jax.ShapeDtypeStruct((batch, heads, chunks, CHUNK, CHUNK), v.dtype)
        types |= dict.fromkeys(made, (tile, "tiles"))
    return types


def _made(save: bool) -> tuple[str, ...]:
    split = kernel_prepare.SPLIT_FORWARD or (save and kernel_prepare.SPLIT_REVERSE)
    return tile_names(split)


def makes_tiles(q, v, beta, marks, decays, *, save: bool) -> bool:
    """Whether the forward pass can make tiles on its way: the state must leave it the room."""
    if q.shape[-1] > WIDE:
        return False
    operands = _operands(beta, {}, marks, decays, True, q=q, k=q, v=v)
    types = _forward_types(q, v, beta.shape[-1] // CHUNK, _made(save), True, save)
    count = warpgroups_of(v.shape[-1])
    return kernel_serial.plan(operands, types, count, _made(save)) is not None


def forward(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    beta: Float[Array, "B H T2"],
    tiles: Tiles | None,
    marks: Float[Array, "B N 4 C"] | None,
    decays: Decays | None,
    initial_state: Float[Array, "B H K V"],
    *,
    scale: float,
    outputs: bool = True,
    save: bool = False,
) -> Forward:
    """The forward pass.

    Args:
        tiles: from `prepare`, or None: made here.
        marks: `segment_marks`, if rows have segments.
        decays: if the state decays.
        outputs: compute outputs.
        save: keep what the backward pass wants: D, the states and, if made here, tiles.
    """
    dtype = v.dtype
    made = _made(save) if tiles is None else ()
    all_written = marks is None and decays is None

    def body(tiles, carry, inside, store):
        columns = [tiles["k"].T] + ([tiles["q"].T] if outputs else [])
        keep = functools.partial(store, "states") if save else None
        (read, *output), state = round_and_multiply(carry, dtype, *columns, each=keep)
        if save and state is not None:
            store("states", state)
        d, u = _errors(tiles, read, inside, dtype)
        written = u.astype(dtype)
        writes = written if all_written else _only(u, tiles, 1).astype(dtype)
        sums = [(_pass_on(carry, tiles), (writes, tiles["k"]))]
        if outputs:
            sums.append((_only(output[0], tiles, 0), (written, tiles["scores"].T)))
        carry, *output = add_matmuls(*sums)
        if outputs:
            store("o", (scale * output[0]).astype(dtype))
        if save:
            store("d", d.astype(dtype))
        return carry

    arrays = {"q": q} if outputs or made else {}
    names = ("correction", "scores") if outputs else ("correction",)
    used = _used(tiles, kernel_prepare.SPLIT_FORWARD, *names)
    types = _forward_types(q, v, beta.shape[-1] // CHUNK, made, outputs, save)
    stored, final_state = serial_kernel(
        body,
        _operands(beta, used, marks, decays, bool(made), k=k, v=v, **arrays),
        initial_state,
        types,
        warpgroups=1 if _few(q) else warpgroups_of(v.shape[-1]),
        made=made,
    )
    if made and save:
        tiles = Tiles(*(stored[name] for name in made))
    return Forward(stored.get("o"), final_state, stored.get("d"), stored.get("states"), tiles)


def _few(q) -> bool:
    return q.shape[0] * q.shape[2] <= FEW_HEADS


def transition(
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    beta: Float[Array, "B H T2"],
    tiles: Tiles,
    marks: Float[Array, "B N 4 C"] | None,
    decays: Decays | None,
) -> tuple[Float[Array, "B H K K"], Float[Array, "B H K V"]]:
    """M and R such that the state after the last token is M S + R, for any initial state S.

    One pass over [R, M] as a state of V + K columns, which starts as [0, I]; past its V columns, v
    loads as zeros.
    """
    batch, _, heads, key_size = k.shape
    value_size = v.shape[-1]
    dtype = k.dtype

    def body(tiles, carry, inside, store):
        (read,), _ = round_and_multiply(carry, dtype, tiles["k"].T)
        _, u = _errors(tiles, read, inside, dtype)
        writes = _only(u, tiles, 1).astype(dtype)
        return add_matmul(_pass_on(carry, tiles), (writes, tiles["k"]))

    if value_size == BLOCK_V:
        # The copy engine's descriptor drops an axis of one tile, and with it what is past its end.
        v = jnp.pad(v, ((0, 0), (0, 0), (0, 0), (0, BLOCK_V)))
    start = jnp.eye(key_size, value_size + key_size, k=value_size, dtype=jnp.float32)
    used = _used(tiles, kernel_prepare.SPLIT_FORWARD, "correction")
    _, final = serial_kernel(
        body,
        _operands(beta, used, marks, decays, k=k, v=v),
        jnp.broadcast_to(start, (batch, heads, *start.shape)),
        {},
        warpgroups=warpgroups_of(value_size + key_size),
    )
    return final[..., value_size:], final[..., :value_size]


class Cotangents(NamedTuple):
    """What the reverse pass leaves; dv, dbeta and dstates are None if not asked for."""

    dv: Float[Array, "B T H V"] | None
    dbeta: Float[Array, "B H T2"] | None
    dstates: Float[Array, "B H N V K"] | None  # over scale, transposed, leaving each chunk
    dinitial_state: Float[Array, "B H K V"]


def cotangents(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    do: Float[Array, "B T H V"],
    d: Float[Array, "B T H V"] | None,
    beta: Float[Array, "B H T2"],
    tiles: Tiles,
    marks: Float[Array, "B N 4 C"] | None,
    decays: Decays | None,
    dfinal_state: Float[Array, "B H K V"],
    *,
    scale: float,
) -> Cotangents:
    """The reverse pass; without `d`, dinitial_state is all."""
    dtype = do.dtype
    batch, heads, key_size, value_size = dfinal_state.shape

    def body(tiles, carry, inside, store):
        do_t = tiles["do"].at[:, inside].T
        do_reads = do_t
        keep = None if d is None else functools.partial(store, "dstates")
        (du,), dstate = round_and_multiply(
            carry, dtype, tiles["k"].T, each=keep, split=kernel_prepare.SPLIT_COTANGENT
        )
        if not (marks is None and decays is None):
            do_reads = plgpu.load(do_t, layout=WGMMA, optimized=False).astype(jnp.float32)
            do_reads = _only(do_reads, tiles, 0).astype(dtype)
        du = add_matmul(_only(du, tiles, 1), (do_t, tiles["scores"]))
        beta = _beta(tiles)
        in_parts = kernel_prepare.SPLIT_REVERSE
        dx = _add_correction(du, du * beta, tiles, dtype, in_parts=in_parts, transposed=True)
        dv = dx * beta
        minus_dv = _only(-dv, tiles, 0).astype(dtype)
        carry = _pass_on(carry, tiles)
        carry = add_matmul(carry, (do_reads, tiles["q"]), (minus_dv, tiles["k"]))
        if d is not None:
            errors = plgpu.load(tiles["d"].at[:, inside].T, layout=WGMMA, optimized=False)
            store("dv", (scale * dv).astype(dtype))
            store("dbeta", scale * dx * errors.astype(jnp.float32))
            if dstate is not None:
                store("dstates", dstate)
        return carry

    arrays = {"q": q, "k": k, "do": do}
    types = {}
    if d is not None:
        arrays["d"] = d
        states = (batch, heads, beta.shape[-1] // CHUNK, value_size, key_size)
        sums = (batch, heads, value_size // (BLOCK_V // kernel_serial.SUMS), beta.shape[-1])
        types = {
            "dv": (jax.ShapeDtypeStruct(do.shape, dtype), "values"),
            "dbeta": (jax.ShapeDtypeStruct(sums, jnp.float32), "sums"),
            "dstates": (jax.ShapeDtypeStruct(states, dtype), "states"),
        }
    used = _used(tiles, kernel_prepare.SPLIT_REVERSE, "correction", "scores")
    stored, dinitial_state = serial_kernel(
        body,
        _operands(beta, used, marks, decays, **arrays),
        dfinal_state,
        types,
        warpgroups=1 if _few(q) else warpgroups_of(value_size),
        reverse=True,
        unit=scale,
    )
    dbeta = stored.get("dbeta")
    if dbeta is not None:  # always added in this order, that of kernel_backward.py
        blocks = dbeta.reshape(batch, heads, -1, kernel_serial.SUMS, dbeta.shape[-1])
        dbeta = sum(
            sum(blocks[:, :, j, i] for i in range(kernel_serial.SUMS))
            for j in range(blocks.shape[2])
        )
    return Cotangents(stored.get("dv"), dbeta, stored.get("dstates"), dinitial_state)
