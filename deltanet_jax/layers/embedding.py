# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Looking up rows of an embedding, with a gradient that GPUs compute fast and in one order.

The gradient of a lookup is a sum over the places where a token stands. As a scatter it is made of
atomic additions on a GPU, in 16 bits and in no fixed order. Here it is made of products and
gathers, with sums in float32: over a mesh one product with one-hot rows of the vocabulary, which
the mesh cuts up; on one device `sums_of_rows`, in which those rows have CHUNK columns whatever
the vocabulary.
"""

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float, Int

CHUNK = 256  # places whose sums are one product


def lookup(table: Float[Array, "V D"], tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
    """table[tokens]; ids outside 0 .. V - 1 are the caller's mistake, as with `jnp.take`.

    Differentiable in both modes to any order; see above for how on a GPU.
    """
    if jax.default_backend() != "gpu":
        return jnp.take(table, tokens, axis=0)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return _rows_p.bind(table, tokens)
    return _lookup_over_mesh(table, tokens)


@jax.custom_jvp
def _lookup_over_mesh(table, tokens):
    return jnp.take(table, tokens, axis=0)


@_lookup_over_mesh.defjvp
def _lookup_over_mesh_jvp(primals, tangents):
    table, tokens = primals
    dtable, _ = tangents

    @jax.checkpoint  # the one-hot rows are made where they are used, not kept from the forward pass
    def product(dtable, tokens):
        return jax.nn.one_hot(tokens, table.shape[0], dtype=dtable.dtype) @ dtable

    return _lookup_over_mesh(table, tokens), product(dtable, tokens)


def sums_of_rows(
    rows: Float[Array, "N D"], tokens: Int[Array, " N"], size: int
) -> Float[Array, "size D"]:
    """For every id below `size`, the sum of the rows at which it stands among `tokens`.

    Places are sorted by id and cut into chunks. In a chunk the sums of its ids, numbered from 0,
    are a product with one-hot rows; an id that began in chunks before adds their sums, of which
    the last of each chunk are put together by one product more.

    Args:
        rows: of a float dtype.
        tokens: ids in 0 .. size - 1.
        size: how many ids there are.
    Returns:
        Sums, made in float32 (float64 of float64), in the dtype of `rows`.
    """
    count = -(-len(tokens) // CHUNK)
    missing = count * CHUNK - len(tokens)
    ids = jnp.pad(tokens, (0, missing), constant_values=size)  # sorted to the end, never asked for
    order = jnp.argsort(ids)
    ids = ids[order].reshape(count, CHUNK)
    rows = jnp.pad(rows, ((0, missing), (0, 0)))[order].reshape(count, CHUNK, -1)
    dtype = jnp.promote_types(rows.dtype, jnp.float32)
    exact = {"preferred_element_type": dtype, "precision": jax.lax.Precision.HIGHEST}

    begins = jnp.pad(ids[:, 1:] != ids[:, :-1], ((0, 0), (1, 0)))
    number = jnp.cumsum(begins, axis=1)  # of an id within its chunk
    of_number = jax.nn.one_hot(number, CHUNK, dtype=rows.dtype)
    sums = jnp.einsum("mcr,mcd->mrd", of_number, rows, **exact)

    last = ids[:, -1]
    last_sums = sums[jnp.arange(count), number[:, -1]]
    # Before chunk m, id i has the last sums of chunks j < m that end with it: all in between do.
    before = (jnp.tri(count, k=-1, dtype=bool) & (ids[:, :1] == last[None])).astype(dtype)
    carried = jnp.einsum("mj,jd->md", before, last_sums, **exact)
    sums = sums.at[:, 0].add(carried)  # the first id of a chunk is its number 0

    flat = ids.reshape(-1)
    places = jnp.arange(len(flat))
    ends = jnp.append(flat[1:] != flat[:-1], True) & (flat < size)
    # Where an id stands for the last time; the others are written nowhere, each to another place.
    end = (
        jnp.full(size, -1)
        .at[jnp.where(ends, flat, size + places)]
        .set(places, mode="drop", unique_indices=True)
    )
    found = sums.reshape(-1, sums.shape[-1])[(end // CHUNK) * CHUNK + number.reshape(-1)[end]]
    return jnp.where((end >= 0)[:, None], found, 0).astype(rows.dtype)


# --- the linear map: a custom_vjp would refuse forward mode ---------------------------------------

_rows_p = Primitive("embedding_rows")


def _take(table, tokens):
    return jnp.take(table, tokens, axis=0)


def _abstract_eval(table, tokens):
    return jax.core.ShapedArray((*tokens.shape, *table.shape[1:]), table.dtype)


def _transpose(cotangent, table, tokens):
    if isinstance(cotangent, ad.Zero):
        return ad.Zero(table.aval), None
    rows = cotangent.reshape(-1, cotangent.shape[-1])
    return sums_of_rows(rows, tokens.reshape(-1), table.aval.shape[0]), None


def _batch(operands, dims):
    (table, tokens), (table_dim, tokens_dim) = operands, dims
    if tokens_dim is None:  # columns of one table, so that ids are sorted once
        table = jnp.moveaxis(table, table_dim, 1)
        rows = _rows_p.bind(table.reshape(len(table), -1), tokens)
        return rows.reshape(*tokens.shape, *table.shape[1:]), tokens.ndim
    size = tokens.shape[tokens_dim]
    tokens = jnp.moveaxis(tokens, tokens_dim, 0)
    if table_dim is None:
        return _rows_p.bind(table, tokens), 0
    table = jnp.moveaxis(table, table_dim, 0)  # one below the other, with ids of their own
    first = jnp.arange(size).reshape(size, *[1] * (tokens.ndim - 1)) * table.shape[1]
    return _rows_p.bind(table.reshape(-1, table.shape[-1]), tokens + first), 0


_rows_p.def_impl(jax.jit(_take))
_rows_p.def_abstract_eval(_abstract_eval)
mlir.register_lowering(_rows_p, mlir.lower_fun(_take, multiple_results=False))
ad.defjvp(_rows_p, lambda tangent, table, tokens: _rows_p.bind(tangent, tokens), None)
ad.primitive_transposes[_rows_p] = _transpose
batching.primitive_batchers[_rows_p] = _batch
