# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The delta rule, with initial and final state and their cotangents on all sides.

"delta_rule" times 32,768 tokens against the fastest peers. "delta_rule_vs_recurrent" times the
chunkwise form against recurrent ones at the longest point of the paper's figure of speed-ups: model
width 2048, one sequence of 16,384 tokens.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.operation import (
    MODES,
    Arrays,
    Inputs,
    Operation,
    Peer,
    Reference,
    Shape,
    rms_error,
    timed_call,
)
from pallas_kernels import delta_rule
from pallas_kernels._common import triton_device
from pallas_kernels.delta_rule.workloads import make_inputs

CHUNK = 64  # tokens; what FLOP are counted with
HEADS = ((16, 128), (32, 64), (8, 256))  # H, K = V


def sizes(batch: int, length: int, heads: int, size: int) -> Shape:
    return {"B": batch, "T": length, "H": heads, "K": size, "V": size}


def inputs(key: jax.Array, shape: Shape) -> Inputs:
    """bfloat16 q, k, v, beta and a float32 state, standard normal cotangents of their dtypes."""
    keys = jax.random.split(key, 4)
    q, k, v, beta = make_inputs(keys[0], *shape.values(), jnp.bfloat16)
    size = [shape[axis] for axis in "BHKV"]
    state, dstate = (jax.random.normal(k, size, jnp.float32) for k in keys[1:3])
    dout = jax.random.normal(keys[3], v.shape, jnp.float32).astype(v.dtype)
    return Inputs((q, k, v, beta, state), (dout, dstate))


def run(q, k, v, beta, state, **options) -> Arrays:
    """The operator with a state in and out."""
    return tuple(delta_rule(q, k, v, beta, initial_state=state, **options))


def flop(shape: Shape, mode: str) -> int:
    """Of matrix products over chunks of C = 64 tokens, full tiles: 6 C K V + 4 C^2 (K + V) a chunk
    and head forward, 14 C K V + 10 C^2 (K + V) backward, given each chunk's state and inverse."""
    batch, length, heads, k, v = shape.values()
    chunks = -(-length // CHUNK) * batch * heads
    forward = 6 * CHUNK * k * v + 4 * CHUNK**2 * (k + v)
    backward = 14 * CHUNK * k * v + 10 * CHUNK**2 * (k + v)
    return (
        chunks
        * {
            "forward": forward,
            "vjp": backward,
            "forward_and_vjp": forward + backward,
        }[mode]
    )


def _recurrence(operator: Callable[..., Arrays], *args: jax.Array) -> Arrays:
    """The definition, 1024 tokens a call, so that autodiff keeps the states of one call only."""
    *inputs, state = args
    v = inputs[2]
    length = v.shape[1]
    pieces = length // 1024 if length % 1024 == 0 else 1

    def cut(x):  # [B, T, ...] -> [pieces, B, T / pieces, ...]
        return jnp.moveaxis(x.reshape(x.shape[0], pieces, -1, *x.shape[2:]), 1, 0)

    @jax.checkpoint
    def piece(state, tokens):
        output, state = operator(*tokens, state, implementation="reference")
        return state, output

    state, output = jax.lax.scan(piece, state, tuple(cut(x) for x in inputs))
    return jnp.moveaxis(output, 0, 1).reshape(v.shape), state


def make_reference(operator: Callable[..., Arrays]) -> Callable[[Inputs], Reference]:
    """Of `operator`, a delta rule that takes q, k, v, ..., the state and `implementation`: the
    chunkwise form in float32, checked on one batch row and two heads against the recurrence in
    float64. Batch rows and heads do not see each other, so the slice is exact."""
    # Not timed, so not tuned: seconds of compiling.
    jit = functools.partial(jax.jit, compiler_options={"xla_gpu_autotune_level": 0})
    chunkwise = functools.partial(operator, implementation="xla")
    recurrence = functools.partial(_recurrence, operator)
    return functools.partial(
        _reference, *(jit(timed_call(f, "forward_and_vjp")) for f in (chunkwise, recurrence))
    )


def _reference(chunkwise_results, recurrent_results, inputs: Inputs) -> Reference:
    def tokens(x):  # of [B, T, H, ...]
        return np.asarray(x[:1, :, :2].astype(jnp.float32), np.float64)

    def state(x):  # of [B, H, K, V]
        return np.asarray(x[:1, :2], np.float64)

    args, cotangents = inputs.args, inputs.cotangents
    float32 = jax.tree.map(lambda x: x.astype(jnp.float32), inputs)
    results = chunkwise_results(float32)
    with jax.enable_x64(True):
        part = Inputs(
            (*(jnp.asarray(tokens(x)) for x in args[:-1]), jnp.asarray(state(args[-1]))),
            (jnp.asarray(tokens(cotangents[0])), jnp.asarray(state(cotangents[1]))),
        )
        wanted = [np.asarray(x) for x in recurrent_results(part)]
    kinds = (tokens, state, *[tokens] * (len(args) - 1), state)
    error = max(rms_error(kind(x), y) for kind, x, y in zip(kinds, results, wanted, strict=True))
    return Reference(results, "chunkwise, float32", "recurrence, float64, 1 row, 2 heads", error)


def _of_ours(**options) -> Peer:
    """One of our implementations beside the best one."""
    modes = ("forward_and_vjp",) if "residuals" in options else MODES
    return Peer(lambda: functools.partial(run, **options), framework="jax", modes=modes)


def _triton_recurrent():
    if not triton_device.installed() or triton_device.capability() is None:
        raise ImportError(f"needs an NVIDIA GPU and jax-triton: {triton_device.INSTALL}")
    from pallas_kernels.delta_rule.triton_vjp import delta_rule_triton

    def run(*args):
        scale = args[0].shape[-1] ** -0.5
        return delta_rule_triton(*args, None, scale=scale, chunk_size=CHUNK, recurrent=True)

    return run


def _fla(name: str):
    def load():
        import fla.ops.delta_rule

        function = getattr(fla.ops.delta_rule, name)
        return lambda q, k, v, beta, state: function(
            q, k, v, beta, initial_state=state, output_final_state=True
        )

    return load


def _flashinfer():
    import torch
    from flashinfer.gdn_prefill import chunk_gated_delta_rule

    @functools.cache
    def ends(batch, length):
        return torch.arange(batch + 1, device="cuda") * length

    def run(q, k, v, beta, state):
        if not k.shape[-1] == v.shape[-1] == 128:
            raise NotImplementedError("flashinfer: K = V = 128 only")
        return chunk_gated_delta_rule(
            *(q, k, v, None, beta),
            initial_state=state,
            output_final_state=True,
            cu_seqlens=ends(state.shape[0], q.shape[0] // state.shape[0]),
        )

    return run


def _give_flashinfer(args: tuple) -> tuple:
    """It takes packed sequences [B T, H, ...], beta in float32 and states [B, H, V, K]."""
    *tokens, state = args
    q, k, v, beta = (x.flatten(0, 1) for x in tokens)
    return q, k, v, beta.float(), state.transpose(-1, -2).contiguous()


def _take_flashinfer(mode: str, results: tuple) -> tuple:
    del mode  # it has the forward only
    output, state = results
    return output.unflatten(0, (state.shape[0], -1)), state.transpose(-1, -2)


DELTA_RULE = Operation(
    name="delta_rule",
    axes="BTHKV",
    shapes=tuple(
        sizes(batch, 32768 // batch, heads, size)
        for heads, size in HEADS
        for batch in (16, 8, 4, 2, 1)
    ),
    reduced_shapes=(sizes(2, 128, 2, 64),),
    modes=("forward", "forward_and_vjp"),
    make_inputs=inputs,
    implementations={
        name: functools.partial(run, implementation=name) for name in ("pallas", "xla")
    },
    outputs=("output", "final_state"),
    arguments=("q", "k", "v", "beta", "initial_state"),
    reference=make_reference(run),
    flop=flop,
    peers={
        "pallas_save": _of_ours(implementation="pallas", residuals="save"),
        "fla": Peer(_fla("chunk_delta_rule")),
        "flashinfer": Peer(
            _flashinfer, modes=("forward",), give=_give_flashinfer, take=_take_flashinfer
        ),
    },
)

DELTA_RULE_VS_RECURRENT = dataclasses.replace(
    DELTA_RULE,
    name="delta_rule_vs_recurrent",
    shapes=tuple(sizes(1, 16384, 2048 // size, size) for size in (64, 128, 256)),
    peers={
        "fla_recurrent": Peer(_fla("fused_recurrent_delta_rule")),
        "triton": _of_ours(implementation="triton"),
        "triton_recurrent": Peer(_triton_recurrent, framework="jax", modes=("forward",)),
        "scan": _of_ours(implementation="reference"),
    },
)

# What GPUs before Hopper run, here on one that also has the faster kernels.
DELTA_RULE_TRITON = dataclasses.replace(
    DELTA_RULE,
    name="delta_rule_triton",
    peers={
        "triton": _of_ours(implementation="triton"),
        "triton_save": _of_ours(implementation="triton", residuals="save"),
        "fla": DELTA_RULE.peers["fla"],
    },
)
