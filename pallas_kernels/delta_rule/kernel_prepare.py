# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Mosaic GPU kernel of everything that is parallel over chunks: corrections and scores of all.

Here too: the few shared-memory and tensor-core idioms that all the kernels use.
"""

from typing import NamedTuple

import jax
import jax.experimental.pallas as pl
import jax.experimental.pallas.mosaic_gpu as plgpu
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from pallas_kernels._common import chunking
from pallas_kernels._common.segments import chunk_masks
from pallas_kernels.delta_rule import kernel_correction
from pallas_kernels.delta_rule.kernel_correction import CHUNK, store_correction
from pallas_kernels.delta_rule.kernel_decay import Decays
from pallas_kernels.delta_rule.kernel_support import WIDE

WGMMA = plgpu.Layout.WGMMA

# Operands computed in float32 that are multiplied as sums of two 16-bit floats, a rounding and the
# rounding of what it leaves, so that tokens whose keys repeat keep their digits (README.md,
# Numerics). Costs 3 % of forward and backward together with K = 128, 17 % with K = 256.
SPLIT_FORWARD = True  # N and B E
SPLIT_REVERSE = True  # N and B dU
SPLIT_COTANGENT = True  # dS, in K dS


class Tiles(NamedTuple):
    """What depends on a chunk's tokens alone (README.md, eqs. 19 and 21), 16 bits.

    Attributes:
        correction: (-N)^T.
        scores: P.
        remainder: what rounding (-N)^T to 16 bits left; None if no product asks for it.
    """

    correction: Float[Array, "B H N C C"]
    scores: Float[Array, "B H N C C"]
    remainder: Float[Array, "B H N C C"] | None = None


def tile_names(split: bool) -> tuple[str, ...]:
    """The fields of Tiles that are made."""
    return Tiles._fields if split else Tiles._fields[:2]


def segment_marks(segments: Int[Array, "B T"]) -> Float[Array, "B N 4 C"]:
    """What a chunk's tokens may see, from `number_segments`: rows of reads, writes, keeps (0 or 1)
    and starts.

    The first three are ChunkMasks' (keeps, one value a chunk, is repeated); a token's start is the
    first token of the chunk that is of its segment.
    """
    masks = chunk_masks(segments, CHUNK)
    ids = chunking.split_segments(segments, CHUNK)
    reads, writes, keeps = (
        jnp.broadcast_to(x.reshape(*ids.shape[:2], -1), ids.shape)
        for x in (masks.reads, masks.writes, masks.keeps)
    )
    starts = jnp.argmax(masks.same[:, :, 0], axis=-1)
    marks = jnp.stack([reads, writes, keeps, starts], axis=2)
    return jnp.swapaxes(marks, 0, 1).astype(jnp.float32)


def smem(shape, dtype):
    """A shared-memory tile as TMA writes and wgmma reads it, swizzled over its last axis."""
    swizzle = min(128, shape[-1] * jnp.dtype(dtype).itemsize)
    elements = swizzle // jnp.dtype(dtype).itemsize
    transforms = (plgpu.TilingTransform((8, elements)), plgpu.SwizzleTransform(swizzle))
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def matmul(shape, *pairs):
    """Sum of the products of (a, b) pairs, in float32 registers."""

    def body(acc):
        for a, b in pairs:
            plgpu.wgmma(acc, a, b)
        return acc[...]

    return pl.run_scoped(body, plgpu.ACC(shape, jnp.float32))


def add_matmul(x, *pairs):
    """x plus the products of (a, b) pairs, accumulated where x is."""
    return add_matmuls((x, *pairs))[0]


def add_matmuls(*sums):
    """x plus the products of (a, b) pairs for each (x, pair, ...) of `sums`, side by side."""

    def body(accs):
        for acc, (_, *pairs) in zip(accs, sums, strict=True):
            for a, b in pairs:
                plgpu.wgmma(acc, a, b)

    return pl.run_state(body)([plgpu.ACC.init(x) for x, *_ in sums])


def round_and_multiply(x, dtype, *operands, each=None, split=False):
    """x, rounded to `dtype`, times each of `operands`, [64, n] float32; and the rounded x.

    Roundings of a wide x are made 64 columns at a time, so that they take few registers; they are
    not returned (None) but given to `each(rounded, columns)`.
    """
    rows, width = x.shape
    step = width if width <= WIDE else 64

    def body(*accs):
        for start in range(0, width, step):
            columns = pl.ds(start, step)
            part = x if step == width else x[:, start : start + step]
            rounded = part.astype(dtype)
            factors = [rounded]
            if split:
                factors.append((part - rounded.astype(jnp.float32)).astype(dtype))
            for factor in factors:
                for acc, operand in zip(accs, operands, strict=True):
                    plgpu.wgmma(acc, factor, operand.at[columns])
            if step < width:
                if each is not None:
                    each(rounded, columns)
                plgpu.wgmma_wait(0)
        return [acc[...] for acc in accs], rounded if step == width else None

    shapes = [plgpu.ACC((rows, operand.shape[1]), jnp.float32) for operand in operands]
    return pl.run_scoped(body, *shapes)


def load_row(ref, axis):
    """A [64] row, along axis `axis` of a [64, 64] array in wgmma's layout."""
    return plgpu.load(ref, layout=WGMMA.reduce(1 - axis), optimized=False)


def _indices():
    """Row and column of every entry of a [64, 64] array."""
    return tuple(
        plgpu.broadcasted_iota(jnp.int32, (CHUNK, CHUNK), axis, layout=WGMMA) for axis in (0, 1)
    )


def _after_start(marks_ref, axis):
    """[64, 64]: whether an entry's token of the other axis is not before the start of the segment
    of its token of `axis`."""
    start = lax.broadcast_in_dim(load_row(marks_ref.at[3], axis), (CHUNK, CHUNK), (axis,))
    return _indices()[1 - axis] >= start.astype(jnp.int32)


def lower_mask(marks_ref, *, strict):
    """[64, 64]: the (strictly) lower triangle, within segments if `marks_ref` is given."""
    row, column = _indices()
    below = row > column if strict else row >= column
    return below if marks_ref is None else below & _after_start(marks_ref, 0)


def _same_segment(marks_ref):
    """[64, 64]: whether both tokens are of one segment. The later one's start decides."""
    row, column = _indices()
    return lower_mask(marks_ref, strict=False) | ((row < column) & _after_start(marks_ref, 1))


def beta_row(tiles):
    """A chunk's betas, a column's."""
    return load_row(tiles["decays"].at[3] if "decays" in tiles else tiles["beta"], 1)


def decay_between(sums_ref):
    """[64, 64]: the decay between two tokens, whichever is the later one."""
    sums, minus_sums = (
        lax.broadcast_in_dim(load_row(sums_ref.at[axis], axis), (CHUNK, CHUNK), (axis,))
        for axis in (0, 1)
    )
    return jnp.exp2(-jnp.abs(sums + minus_sums))


def make_tiles(q_s, k_s, beta_C, marks_ref, sums_ref, split_s, tiles):
    """Makes a chunk's tiles from shared memory; commit it before anything else reads them.

    Args:
        q_s, k_s: the chunk's queries and keys.
        beta_C: its betas, `beta_row`.
        marks_ref: its `segment_marks`, or None.
        sums_ref: of its `Decays`, or None.
        split_s: `kernel_correction.scratch`.
        tiles: name -> [64, 64] tile in shared memory.
    """
    square = (CHUNK, CHUNK)
    scores = matmul(square, (q_s, k_s.T))
    if sums_ref is not None:
        scores = scores * decay_between(sums_ref)
    scores = jnp.where(lower_mask(marks_ref, strict=False), scores, 0.0)
    tiles["scores"][...] = scores.astype(q_s.dtype)
    gram = matmul(square, (k_s, k_s.T))
    if sums_ref is not None:
        gram = gram * decay_between(sums_ref)
    if marks_ref is not None:
        gram = jnp.where(_same_segment(marks_ref), gram, 0.0)
    corrections = [tiles[name] for name in ("correction", "remainder") if name in tiles]
    store_correction(gram, beta_C, split_s, *corrections)


def prepare(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    beta: Float[Array, "B H T2"],
    marks: Float[Array, "B N 4 C"] | None = None,
    decays: Decays | None = None,
) -> Tiles:
    """The tiles of all chunks.

    Grid [N, H, B]; one program, of one warpgroup, owns one chunk of one head. Shared memory: q, k
    and staging; everything else is in registers. Tails are zeros: TMA fills what lies past T.

    Args:
        q, k: bfloat16 or float16; K a multiple of 64.
        beta: padded with zeros to whole chunks.
        marks: `segment_marks`, if rows have segments.
        decays: if states decay.
    Returns:
        in q's dtype.
    """
    batch, length, heads, key_size = q.shape
    chunks = beta.shape[-1] // CHUNK
    dtype = q.dtype
    names = tile_names(SPLIT_FORWARD or SPLIT_REVERSE)
    sums = None if decays is None else decays.sums
    operands = {"q": q, "k": k, "beta": beta, "marks": marks, "sums": sums}
    operands = {name: x for name, x in operands.items() if x is not None}

    def kernel(*refs):
        in_refs = dict(zip(operands, refs, strict=False))
        q_ref, k_ref, beta_ref = refs[:3]
        out_refs = refs[-len(names) :]
        b, h, n = (lax.axis_index(name) for name in "bhn")
        tokens = pl.ds(n * CHUNK, CHUNK)

        def scoped(q_s, k_s, out_s, split_s, loaded):
            plgpu.copy_gmem_to_smem(k_ref.at[b, tokens, h], k_s, loaded)
            plgpu.copy_gmem_to_smem(q_ref.at[b, tokens, h], q_s, loaded)
            beta_C = load_row(beta_ref.at[b, h, tokens], 1)
            plgpu.barrier_wait(loaded)
            tiles = {name: out_s.at[i] for i, name in enumerate(names)}
            marks_ref = None if marks is None else in_refs["marks"].at[b, n]
            sums_ref = None if decays is None else in_refs["sums"].at[b, h, n]
            make_tiles(q_s, k_s, beta_C, marks_ref, sums_ref, split_s, tiles)
            plgpu.commit_smem()
            for name, ref in zip(names, out_refs, strict=True):
                plgpu.copy_smem_to_gmem(tiles[name], ref.at[b, h, n])
            plgpu.wait_smem_to_gmem(0)

        pl.run_scoped(
            scoped,
            smem((CHUNK, key_size), dtype),
            smem((CHUNK, key_size), dtype),
            smem((len(names), CHUNK, CHUNK), dtype),
            kernel_correction.scratch(),
            plgpu.Barrier(num_arrivals=2),
        )

    tile = jax.ShapeDtypeStruct((batch, heads, chunks, CHUNK, CHUNK), dtype)
    tiles = plgpu.kernel(
        kernel,
        out_type=(tile,) * len(names),
        grid=(chunks, heads, batch),
        grid_names=("n", "h", "b"),
    )(*operands.values())
    return Tiles(*tiles)
