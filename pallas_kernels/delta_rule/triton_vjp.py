# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels as one differentiable function: padding, order of kernels, residuals.

    forward     correction, prepare, forward (with the outputs; those of few heads have a kernel
                of their own)
    backward    correction, prepare, forward without outputs, reverse, gradients
    few tokens  the recurrence; its backward pass is the one above

Residuals are the inputs; with residuals="save" also what the forward pass came by, named
`names.RESIDUALS` for policies of `jax.checkpoint`. A custom_vjp: no forward mode, no second order.
Nothing is added up by atomic operations: same inputs, same bits.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import triton.language as tl
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from pallas_kernels._common import chunking, names, triton_device, triton_launch
from pallas_kernels.delta_rule import triton_support
from pallas_kernels.delta_rule.kernel_support import FEW_HEADS, KEY_SIZES
from pallas_kernels.delta_rule.triton_correction import correction_kernel
from pallas_kernels.delta_rule.triton_parallel import gradients_kernel, output_kernel
from pallas_kernels.delta_rule.triton_passes import forward_kernel, reverse_kernel
from pallas_kernels.delta_rule.triton_prepare import prepare_kernel
from pallas_kernels.delta_rule.triton_recurrent import recurrent_kernel

DTYPES = {"bfloat16": tl.bfloat16, "float16": tl.float16, "float32": tl.float32}
# Of products of float32 numbers: operands as sums of tf32 numbers; never tf32 alone.
PRECISION = "tf32x3"
# With 16-bit inputs, operands computed in float32 are multiplied as sums of two 16-bit numbers
# (README.md, Numerics): N in W and D0; the state in D; the state's cotangent in dU, N and B dU in
# dX. Without the last dV and dbeta miss 1e-2 where keys repeat; the second changes nothing there.
SPLIT_PREPARE = True
SPLIT_FORWARD = False
SPLIT_REVERSE = True


class _Options(NamedTuple):
    scale: float
    save: bool
    capability: int
    recurrent: bool = False  # whatever the length


class _Chunks(NamedTuple):
    """What depends on a chunk's tokens alone; [B, H, N, ...] in the inputs' dtype."""

    w: jax.Array
    d0: jax.Array
    scores: jax.Array
    correction: jax.Array
    lost: jax.Array  # by rounding the correction; empty where it is not needed


class _Kept(NamedTuple):
    """What the backward pass needs of a forward pass beside the inputs."""

    chunks: _Chunks  # without d0
    d: jax.Array  # [B, H, N, C, V]
    states: jax.Array  # [B, H, N, K, V], before every chunk


class _Problem:
    """Sizes, dtypes and how kernels are called for inputs of these shapes."""

    def __init__(self, q, v, segments, options):
        self.batch, self.length, self.heads, self.key_size = q.shape
        self.value_size = v.shape[-1]
        self.dtype = q.dtype
        self.options = options
        self.chunk = triton_support.chunk_tokens(q.dtype.itemsize)
        self.chunks = chunking.num_chunks(self.length, self.chunk)
        self.segmented = segments is not None

    def array(self, *sizes, dtype=None):
        return jax.ShapeDtypeStruct((self.batch, *sizes), dtype or self.dtype)

    @property
    def state(self):
        return self.array(self.heads, self.key_size, self.value_size, dtype=jnp.float32)

    def tiles(self, *sizes):
        return self.array(self.heads, self.chunks, *sizes)

    def call(self, kernel, *arguments, out, parallel, **constants):
        """Calls a kernel whose grid is (blocks B H) or, `parallel`, (blocks B H, N)."""
        name = kernel.fn.__name__.removesuffix("_kernel")
        few = self.batch * self.heads <= FEW_HEADS
        tile = triton_support.tile(
            name, self.key_size, self.dtype.itemsize, self.options.capability, few
        )
        sizes = {"H": self.heads, "K": self.key_size, "V": self.value_size, "C": self.chunk}
        sizes |= {"BK": tile.block_k, "BV": tile.block_v}
        policy = {"DTYPE": DTYPES[self.dtype.name], "PRECISION": PRECISION}
        known = sizes | policy | {"SEGMENTS": self.segmented} | constants
        taken = {k: v for k, v in known.items() if k in kernel.arg_names}
        blocks = 1  # of a (batch row, head) side by side
        if name == "gradients":
            blocks = self.key_size // tile.block_k
        elif name not in ("correction", "prepare"):
            blocks = self.value_size // tile.block_v
        grid = (blocks * self.batch * self.heads, *([self.chunks] if parallel else []))
        return triton_launch.launch(
            kernel,
            *arguments,
            out=out,
            grid=grid,
            tile=tile,
            capability=self.options.capability,
            **taken,
        )


def _split(problem, wanted: bool) -> bool:
    return wanted and problem.dtype.itemsize == 2


def _prepare(problem, q, k, v, beta, segments) -> _Chunks:
    size = problem.chunk
    remainder = _split(problem, SPLIT_PREPARE or SPLIT_REVERSE)
    correction, lost = problem.call(
        correction_kernel,
        *(k, beta, segments, problem.length),
        out=[problem.tiles(size, size), problem.tiles(size, size * remainder)],
        parallel=True,
        INVERSE=PRECISION,
        REMAINDER=remainder,
    )
    w, d0, scores = problem.call(
        prepare_kernel,
        *(q, k, v, beta, segments, correction, lost, problem.length),
        out=[problem.tiles(size, n) for n in (problem.key_size, problem.value_size, size)],
        parallel=True,
        SPLIT=_split(problem, SPLIT_PREPARE),
    )
    return _Chunks(w, d0, scores, correction, lost)


def _pass(problem, q, k, v, beta, segments, state, chunks, *, output: bool, save: bool):
    """(output, D, states, final state); what was not asked for is empty."""
    nothing = problem.array(0)
    kept = [
        problem.tiles(problem.chunk, problem.value_size),
        problem.tiles(problem.key_size, problem.value_size),
    ]
    return problem.call(
        forward_kernel,
        *(q, k, beta, segments, chunks.w, chunks.d0, chunks.scores, state),
        *(problem.length, problem.options.scale),
        out=[v if output else nothing, *(kept if save else [nothing] * 2), problem.state],
        parallel=False,
        SPLIT=_split(problem, SPLIT_FORWARD),
        OUTPUT=output,
        SAVE=save,
    )


def _outputs(problem, q, v, beta, segments, chunks, d, states):
    (output,) = problem.call(
        output_kernel,
        *(q, beta, segments, chunks.scores, d, states),
        *(problem.length, problem.options.scale),
        out=[v],
        parallel=True,
    )
    return output


def _reverse(problem, q, k, beta, segments, chunks, do, dfinal_state):
    """(dX, cotangents after every chunk, that of the initial state)."""
    dx, dstates = (
        problem.tiles(size, problem.value_size) for size in (problem.chunk, problem.key_size)
    )
    return problem.call(
        reverse_kernel,
        *(q, k, beta, segments, chunks.w, chunks.scores, chunks.correction, chunks.lost),
        *(do, dfinal_state, problem.length, problem.options.scale),
        out=[dx, dstates, problem.state],
        parallel=False,
        SPLIT=_split(problem, SPLIT_REVERSE),
    )


def _parallel_gradients(problem, q, k, v, beta, segments, do, d, dx, states, dstates):
    """(dq, dk, dv, dbeta)."""
    return problem.call(
        gradients_kernel,
        *(q, k, beta, segments, do, d, dx, states, dstates),
        *(problem.length, problem.options.scale),
        out=[q, k, v, beta],
        parallel=True,
    )


def _run(q, k, v, beta, state, segments, options):
    """Outputs, final state and, with options.save, what the backward pass needs."""
    problem = _Problem(q, v, segments, options)
    segments = beta if segments is None else segments  # a pointer that is not followed
    if problem.length <= triton_support.FEW_TOKENS or options.recurrent:
        arguments = (q, k, v, beta, segments, state, problem.length, options.scale)
        out = [v, problem.state]
        return *problem.call(recurrent_kernel, *arguments, out=out, parallel=False), None
    chunks = _prepare(problem, q, k, v, beta, segments)
    at_once = triton_support.outputs_on_the_way(
        problem.batch * problem.heads, problem.key_size, problem.dtype.itemsize
    )
    save = options.save or not at_once
    output, d, states, final_state = _pass(
        problem, q, k, v, beta, segments, state, chunks, output=at_once, save=save
    )
    if not at_once:
        output = _outputs(problem, q, v, beta, segments, chunks, d, states)
    kept = _Kept(chunks._replace(d0=None), d, states) if options.save else None
    return output, final_state, kept


def _gradients(q, k, v, beta, state, segments, kept, do, dfinal_state, options):
    problem = _Problem(q, v, segments, options)
    ids = beta if segments is None else segments
    if kept is None:
        chunks = _prepare(problem, q, k, v, beta, ids)
        _, d, states, _ = _pass(problem, q, k, v, beta, ids, state, chunks, output=False, save=True)
        kept = _Kept(chunks, d, states)
    chunks, d, states = kept
    dx, dstates, dinitial_state = _reverse(problem, q, k, beta, ids, chunks, do, dfinal_state)
    gradients = _parallel_gradients(problem, q, k, v, beta, ids, do, d, dx, states, dstates)
    return *gradients, dinitial_state


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _delta_rule(q, k, v, beta, initial_state, segments, options):
    options = options._replace(save=False)
    return _forward(q, k, v, beta, initial_state, segments, options)[0]


def _forward(q, k, v, beta, initial_state, segments, options):
    args = q, k, v, beta, initial_state, segments
    run = triton_launch.batched(functools.partial(_run, options=options))
    output, final_state, kept = run(*args)
    return (output, final_state), (args, checkpoint_name(kept, names.RESIDUALS))


def _backward(options, residuals, cotangents):
    args, kept = residuals
    run = triton_launch.batched(functools.partial(_gradients, options=options))
    return *run(*args, kept, *cotangents), None


_delta_rule.defvjp(_forward, _backward)


def delta_rule_triton(
    q: Float[Array, "B T H K"],
    k: Float[Array, "B T H K"],
    v: Float[Array, "B T H V"],
    beta: Float[Array, "B T H"],
    initial_state: Float[Array, "B H K V"],
    segments: Int[Array, "B T"] | None,
    *,
    scale: float,
    chunk_size: int,
    sequence_pieces: int | None = None,
    residuals: str = "recompute",
    capability: int | None = None,
    recurrent: bool = False,
) -> tuple[Float[Array, "B T H V"], Float[Array, "B H K V"]]:
    """The delta rule in Triton; what it takes, triton_support.py says.

    `capability` is the GPU's compute capability, 80 for 8.0; that of the first device by default.
    With `recurrent` outputs are made token by token whatever the length, as those of few tokens
    are anyway; the backward pass is the same.
    """
    del chunk_size, sequence_pieces  # these kernels' chunks go by the dtype; rows stay whole
    if 0 in v.shape or 0 in q.shape:
        return jnp.zeros_like(v), initial_state
    key_size, value_size = q.shape[-1], v.shape[-1]
    wide_key = next(size for size in KEY_SIZES if size >= key_size)
    block = triton_support.VALUE_BLOCK
    wide_value = chunking.num_chunks(value_size, block) * block
    q, k = (chunking.pad_axes(x, {3: wide_key}) for x in (q, k))
    v = chunking.pad_axes(v, {3: wide_value})
    initial_state = chunking.pad_axes(initial_state, {2: wide_key, 3: wide_value})
    capability = capability or triton_device.capability()
    options = _Options(scale, residuals == "save", capability, recurrent)
    output, final_state = _delta_rule(q, k, v, beta, initial_state, segments, options)
    return output[..., :value_size], final_state[:, :, :key_size, :value_size]
