# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of gated linear attention as one differentiable function.

    forward     prepare, pass, read
    backward    prepare, pass, pass in reverse, read in reverse (dv), gradients

Residuals are the inputs. A custom_vjp: no forward mode, no second order. Nothing is added up by
atomic operations: same inputs, same bits.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import triton.language as tl
from jaxtyping import Array, Float, Int

from pallas_kernels._common import chunking, triton_device, triton_launch
from pallas_kernels.gated_linear_attention import triton_support
from pallas_kernels.gated_linear_attention.triton_gradients import gradients_kernel
from pallas_kernels.gated_linear_attention.triton_passes import pass_kernel, read_kernel
from pallas_kernels.gated_linear_attention.triton_prepare import prepare_kernel


class _Precision(NamedTuple):
    """Operands of products of inputs, and of those with states: dtype, and which tensor cores."""

    dtype: tl.dtype
    precision: str
    state_dtype: tl.dtype
    state_precision: str


# States are sums over all tokens: float16 may not hold them.
PRECISIONS = {
    "bfloat16": _Precision(tl.bfloat16, "ieee", tl.bfloat16, "ieee"),
    "float16": _Precision(tl.float16, "ieee", tl.float32, "tf32"),
    "float32": _Precision(tl.float32, "tf32x3", tl.float32, "tf32x3"),
}


class _Options(NamedTuple):
    scale: float
    capability: int


class _Chunks(NamedTuple):
    """What prepare_kernel makes."""

    reads: jax.Array
    writes: jax.Array
    scores: jax.Array
    crosses: jax.Array


class _Problem:
    """Sizes, dtypes and how kernels are called for inputs of these shapes."""

    def __init__(self, q, v, g, segments, options):
        self.batch, self.length, self.heads, self.key_size = q.shape
        self.value_size = v.shape[-1]
        self.dtype = q.dtype
        self.options = options
        self.chunk = triton_support.chunk_tokens(q.dtype.itemsize)
        self.chunks = chunking.num_chunks(self.length, self.chunk)
        self.segmented = segments is not None
        self.decay = "none" if g is None else "channel" if g.shape[-1] > 1 else "head"

    def tiles(self, *sizes, dtype=None):
        shape = (self.batch, self.heads, *sizes)
        return jax.ShapeDtypeStruct(shape, dtype or self.dtype)

    @property
    def state(self):
        return self.tiles(self.key_size, self.value_size, dtype=jnp.float32)

    @property
    def states(self):
        dtype = self.dtype if self.dtype == jnp.bfloat16 else jnp.float32
        return self.tiles(self.chunks, self.key_size, self.value_size, dtype=dtype)

    def tile(self, name):
        return triton_support.tile(name, self.key_size, self.dtype.itemsize, self.decay)

    def call(self, kernel, *arguments, out, parallel, **constants):
        """Calls a kernel whose grid is (blocks B H) or, `parallel`, (blocks B H, N)."""
        name = kernel.fn.__name__.removesuffix("_kernel")
        tile = self.tile(name)
        known = {"H": self.heads, "K": self.key_size, "V": self.value_size, "C": self.chunk}
        known |= {"BK": tile.block_k, "BV": tile.block_v, "LEVELS": self.chunk.bit_length() - 1}
        known |= {k.upper(): v for k, v in PRECISIONS[self.dtype.name]._asdict().items()}
        known |= {
            "SINGLE": self.dtype.itemsize == 4,
            "DECAY": self.decay,
            "SEGMENTS": self.segmented,
        } | constants
        blocks = {
            "prepare": 1,
            "pass": self.value_size // max(tile.block_v, 1),
            "read": self.value_size // max(tile.block_v, 1),
            "gradients": self.key_size // max(tile.block_k, 1),
        }[name]
        return triton_launch.launch(
            kernel,
            *arguments,
            out=out,
            grid=(blocks * self.batch * self.heads, *([self.chunks] if parallel else [])),
            tile=tile,
            capability=self.options.capability,
            **{k: v for k, v in known.items() if k in kernel.arg_names},
        )


def _prepare(problem, q, k, g, segments) -> _Chunks:
    size = problem.chunk
    out = [
        *(q, k),
        problem.tiles(problem.chunks, size, size),
        problem.tiles(problem.chunks, problem.key_size, dtype=jnp.float32),
    ]
    arguments = (q, k, g, segments, problem.length, problem.options.scale)
    return _Chunks(*problem.call(prepare_kernel, *arguments, out=out, parallel=True))


def _pass(problem, x, y, crosses, state, *, reverse: bool):
    """(states, the last one)."""
    return problem.call(
        pass_kernel,
        *(x, y, crosses, state, problem.length),
        out=[problem.states, problem.state],
        parallel=False,
        REVERSE=reverse,
    )


def _read(problem, x, y, scores, states, *, reverse: bool):
    (output,) = problem.call(
        read_kernel,
        *(x, y, scores, states, problem.length),
        out=[y],
        parallel=True,
        REVERSE=reverse,
    )
    return output


def _pointers(q, g, segments):
    """`g` and `segments`, or pointers that are not followed."""
    return q if g is None else g, q if segments is None else segments


def _run(q, k, v, g, state, segments, options):
    """(output, final state)."""
    problem = _Problem(q, v, g, segments, options)
    chunks = _prepare(problem, q, k, *_pointers(q, g, segments))
    states, final_state = _pass(problem, chunks.writes, v, chunks.crosses, state, reverse=False)
    output = _read(problem, chunks.reads, v, chunks.scores, states, reverse=False)
    return output, final_state


def _gradients(q, k, v, g, state, segments, do, dfinal_state, options):
    """Of q, k, v, g and the initial state."""
    problem = _Problem(q, v, g, segments, options)
    decays, ids = _pointers(q, g, segments)
    chunks = _prepare(problem, q, k, decays, ids)
    states, _ = _pass(problem, chunks.writes, v, chunks.crosses, state, reverse=False)
    dstates, dstate = _pass(problem, chunks.reads, do, chunks.crosses, dfinal_state, reverse=True)
    dv = _read(problem, chunks.writes, do, chunks.scores, dstates, reverse=True)
    parts = {
        "none": 0,
        "head": problem.key_size // problem.tile("gradients").block_k,
        "channel": problem.key_size,
    }
    dg = jax.ShapeDtypeStruct((*q.shape[:3], parts[problem.decay]), jnp.float32)
    dq, dk, dg = problem.call(
        gradients_kernel,
        *(q, k, v, decays, ids, chunks.crosses, do, states, dstates),
        *(problem.length, options.scale),
        out=[q, k, dg],
        parallel=True,
    )
    if problem.decay == "head":
        dg = dg.sum(axis=-1, keepdims=True)
    return dq, dk, dv, None if g is None else dg, dstate


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _attention(q, k, v, g, initial_state, segments, options):
    run = triton_launch.batched(functools.partial(_run, options=options))
    return run(q, k, v, g, initial_state, segments)


def _forward(*args):
    *args, options = args
    return _attention(*args, options), args


def _backward(options, args, cotangents):
    run = triton_launch.batched(functools.partial(_gradients, options=options))
    return *run(*args, *cotangents), None


_attention.defvjp(_forward, _backward)


def gated_linear_attention_triton(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    g: Float[Array, "B T H K_or_1"] | None,
    initial_state: Float[Array, "B H K V"],
    segments: Int[Array, "B T"] | None,
    *,
    scale: float,
    chunk_size: int,
    capability: int | None = None,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """Linear attention in Triton; what it takes, triton_support.py says. `g` None is no decay.

    `capability` is the GPU's compute capability, 80 for 8.0; that of the first device by default.
    """
    del chunk_size  # these kernels' chunks go by the dtype
    if 0 in v.shape or 0 in q.shape:
        return jnp.zeros_like(v), initial_state
    key_size, value_size = q.shape[-1], v.shape[-1]
    wide_key = next(size for size in triton_support.KEY_SIZES if size >= key_size)
    block = triton_support.VALUE_BLOCK
    wide_value = chunking.num_chunks(value_size, block) * block
    q, k = (chunking.pad_axes(x, {3: wide_key}) for x in (q, k))
    v = chunking.pad_axes(v, {3: wide_value})
    if g is not None and g.shape[-1] > 1:
        g = chunking.pad_axes(g, {3: wide_key})
    initial_state = chunking.pad_axes(initial_state, {2: wide_key, 3: wide_value})
    options = _Options(scale, capability or triton_device.capability())
    output, final_state = _attention(q, k, v, g, initial_state, segments, options)
    return output[..., :value_size], final_state[:, :, :key_size, :value_size]
