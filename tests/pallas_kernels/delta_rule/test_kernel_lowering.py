# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The Hopper kernels lower for CUDA on a machine without a GPU, and say why they cannot run there.

Lowering catches unsupported operations, layouts that cannot be inferred, wgmma's shape rules and
too much shared memory. Values are checked on the GPU: test_kernel_gpu.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

from pallas_kernels._common.segments import number_segments
from pallas_kernels.delta_rule import (
    kernel_passes,
    kernel_prepare,
    kernel_support,
    kernel_vjp,
)
from pallas_kernels.delta_rule.api import delta_rule
from pallas_kernels.delta_rule.kernel_vjp import delta_rule_kernels
from tests.helpers.triton_lowering import check_lowers, needs_jax_triton

H200 = AbstractMesh((), (), abstract_device=AbstractDevice("NVIDIA H200", 132, "gpu"))
MANY = kernel_passes.FEW_HEADS + 1  # heads times batch where tiles are made on the way


def arguments(batch, length, heads, key_size, value_size, dtype):
    def array(*shape, dtype=dtype):
        return jax.ShapeDtypeStruct(shape, dtype)

    keys = array(batch, length, heads, key_size)
    values = array(batch, length, heads, value_size)
    state = array(batch, heads, key_size, value_size, dtype=jnp.float32)
    return (keys, keys, values, array(batch, length, heads), state), (values, state)


def outputs_and_gradients(args, cotangents, segments, options):
    run = functools.partial(delta_rule_kernels, scale=0.1, chunk_size=64, **options)
    outputs, vjp = jax.vjp(lambda *args: run(*args, segments), *args)
    return outputs, vjp(cotangents)


@pytest.mark.parametrize(
    ("shape", "dtype", "segmented", "options"),
    [
        pytest.param((2, 200, 2, 128, 128), "bfloat16", False, {}, id="few_heads"),
        pytest.param((MANY, 64, 1, 128, 128), "bfloat16", False, {}, id="many_heads"),
        pytest.param(
            (MANY, 130, 1, 48, 200), "float16", True, {"residuals": "save"}, id="segments_saved"
        ),
        pytest.param((1, kernel_vjp.LONG, 1, 64, 64), "bfloat16", True, {}, id="in_pieces"),
        pytest.param(
            (1, 1, 1, 256, 64), "float16", False, {}, id="one_token_wide", marks=pytest.mark.slow
        ),
    ],
)
def test_lowers_for_cuda(shape, dtype, segmented, options):
    args, cotangents = arguments(*shape, dtype)
    segments = jax.ShapeDtypeStruct(shape[:2], jnp.int32) if segmented else None
    run = jax.jit(functools.partial(outputs_and_gradients, options=options))
    with jax.sharding.use_abstract_mesh(H200):
        traced = run.trace(args, cotangents, segments)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "mosaic_gpu" in text
    outputs, gradients = traced.out_info
    assert [x.shape for x in outputs] == [x.shape for x in cotangents]
    assert [(x.shape, x.dtype) for x in gradients] == [(x.shape, x.dtype) for x in args]


@pytest.mark.slow
def test_lowers_for_cuda_under_vmap():
    """Members of a sweep side by side: as many launches, their grids with one axis more."""
    args, cotangents = arguments(2, 64, 2, 64, 64, "bfloat16")

    def launches(transform, *axis):
        stacked = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((*axis, *x.shape), x.dtype), (args, cotangents)
        )
        run = functools.partial(outputs_and_gradients, segments=None, options={})
        with jax.sharding.use_abstract_mesh(H200):
            traced = jax.jit(transform(run)).trace(*stacked)
            return traced.lower(lowering_platforms=("cuda",)).as_text().count("mosaic_gpu")

    assert launches(jax.vmap, 3) == launches(lambda run: run) > 0


@pytest.mark.slow
@needs_jax_triton
@pytest.mark.parametrize(
    ("shape", "dtype", "segmented", "capability", "calls"),
    [
        pytest.param((1, 130, 2, 48, 80), "bfloat16", True, 86, 9, id="few_heads"),
        pytest.param((MANY, 65, 1, 128, 128), "float16", False, 90, 8, id="many_heads"),
        pytest.param((1, 3, 1, 64, 64), "float32", False, 80, 6, id="few_tokens"),
    ],
)
def test_triton_lowers_for_cuda(shape, dtype, segmented, capability, calls):
    from pallas_kernels.delta_rule.triton_vjp import delta_rule_triton

    args, _ = arguments(*shape, dtype)
    segments = jnp.zeros(shape[:2], jnp.int32) if segmented else None
    options = {"scale": 0.1, "chunk_size": 64, "capability": capability}
    check_lowers(lambda *args: delta_rule_triton(*args, segments, **options), args, calls)


@pytest.mark.parametrize("reverse", [False, True])
def test_states_go_through_pieces_in_order(reverse):
    keys = jax.random.split(jax.random.key(0), 3)
    batch, pieces = 2, 3
    m = jax.random.normal(keys[0], (batch * pieces, 2, 4, 4))
    r = jax.random.normal(keys[1], (batch * pieces, 2, 4, 5))
    state = jax.random.normal(keys[2], (batch, 2, 4, 5))
    entering = kernel_vjp._through_pieces(m, r, state, reverse=reverse)
    for b in range(batch):
        expected = state[b]
        for n in reversed(range(pieces)) if reverse else range(pieces):
            i = b * pieces + n
            assert jnp.allclose(entering[i], expected, atol=1e-5)
            expected = (jnp.swapaxes(m[i], -1, -2) if reverse else m[i]) @ expected + r[i]


def test_marks_of_segments():
    """Boundaries at token 3, on the edge of the second chunk, and inside it."""
    ids = jnp.asarray(np.repeat([5, 7, 5, 6], [3, 61, 6, 30]))[None]
    marks = np.asarray(kernel_prepare.segment_marks(number_segments(ids)))
    assert marks.shape == (1, 2, 4, 64)
    (reads, writes, keeps, starts), later = marks[0]
    token = np.arange(64)
    assert (reads == (token < 3)).all() and (writes == (token >= 3)).all()
    assert not keeps.any()
    assert (starts == np.where(token < 3, 0, 3)).all()
    reads, writes, keeps, starts = later
    assert not reads.any() and not keeps.any()
    assert (writes == (token >= 6)).all()
    assert (starts == np.where(token < 6, 0, 6)).all()


@pytest.mark.parametrize("shape", [(2, 0, 2, 64, 64), (0, 5, 2, 64, 64)])
def test_nothing_to_do(shape):
    args, _ = arguments(*shape, jnp.bfloat16)
    args = [jnp.ones(x.shape, x.dtype) for x in args]
    output, final_state = delta_rule_kernels(*args, None, scale=1.0, chunk_size=64)
    assert output.shape == args[2].shape
    assert (final_state == args[4]).all()


def test_refused_without_a_hopper_gpu():
    if jax.default_backend() != "cpu":
        pytest.skip("this machine has an accelerator")
    args, _ = arguments(1, 5, 1, 64, 64, jnp.bfloat16)
    q, k, v, beta, _ = (jnp.ones(x.shape, x.dtype) for x in args)
    with pytest.raises(NotImplementedError, match="need a Hopper GPU"):
        delta_rule(q, k, v, beta, implementation="pallas")
    assert delta_rule(q, k, v, beta).output.shape == v.shape  # None chooses another


@pytest.mark.parametrize(
    ("batch", "key_size", "residuals", "a_token_and_head"),
    [
        (16, 128, "recompute", 0),
        (16, 128, "save", 2 * 128 + 128 * 128 // 32 + 384),  # D, the states, tiles
        (1, 128, "recompute", 384),  # few heads: tiles are there
        (16, 256, "recompute", 384),  # as with wide keys
        (16, 256, "save", 384),  # which keep no more
    ],
)
def test_what_is_kept(batch, key_size, residuals, a_token_and_head):
    kept = kernel_support.residual_bytes(batch, 64, 16, key_size, 128, residuals)
    assert kept == batch * 64 * 16 * a_token_and_head
