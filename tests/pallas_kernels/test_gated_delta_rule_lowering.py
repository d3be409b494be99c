# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The gated delta rule's kernels without a GPU: lowering, what they are told, the gradient of g.

Values are checked on the GPU: test_gated_delta_rule_gpu.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import aot
from pallas_kernels import gated_delta_rule
from pallas_kernels.delta_rule import kernel_decay, kernel_prepare
from pallas_kernels.delta_rule.kernel_support import CHUNK, FEW_HEADS
from pallas_kernels.gated_delta_rule import kernel_support
from tests.helpers.compare import assert_close

SIZES = {"B": 1, "T": 2 * CHUNK, "H": 2, "K": 16, "V": 64}


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        pytest.param((2, 130, 2, 48, 80), "float16", id="few_heads"),
        pytest.param(
            (FEW_HEADS + 1, 64, 1, 128, 128), "bfloat16", id="many_heads", marks=pytest.mark.slow
        ),
    ],
)
def test_lowers_for_cuda(shape, dtype):
    args, cotangents = aot.arguments(*shape, jnp.dtype(dtype), gated=True)
    with jax.sharding.use_abstract_mesh(aot.MESH):
        traced = jax.jit(aot.outputs_and_gradients).trace(args, cotangents)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "mosaic_gpu" in text
    outputs, gradients = traced.out_info
    assert [x.shape for x in outputs] == [x.shape for x in cotangents]
    assert [(x.shape, x.dtype) for x in gradients] == [(x.shape, x.dtype) for x in args]


def test_decays():
    """T no multiple of a chunk; a token that erases, and what follows it keeps its digits."""
    g = -np.random.default_rng(0).uniform(0, 0.1, (2, 100, 3)).astype(np.float32)
    g[:, 70] = kernel_decay.ERASES
    beta = jnp.arange(2.0 * 3 * 2 * CHUNK).reshape(2, 3, 2 * CHUNK)
    rows, between = (
        np.asarray(x, np.float64) for x in kernel_decay.make_decays(jnp.asarray(g), beta)
    )
    assert rows.shape == (2, 3, 2, 4, CHUNK) and between.shape == (2, 3, 2, 2, CHUNK)
    assert (rows[..., 3, :].reshape(beta.shape) == beta).all()
    g = np.pad(g.astype(np.float64), ((0, 0), (0, 28), (0, 0)))
    g = g.reshape(2, 2, CHUNK, 3).transpose(0, 3, 1, 2)
    sums = np.cumsum(g, axis=-1)
    total = sums[..., -1:]
    assert_close("from the start", rows[..., 0, :], np.exp(sums), 1e-6)
    assert_close("to the end", rows[..., 1, :], np.exp(total - sums), 1e-6)
    assert_close("across", rows[..., 2, :], np.exp(total + 0 * sums), 1e-6)
    assert (rows[:, :, 1, 0, 6:] == 0).all() and (rows[:, :, 1, 2] == 0).all()
    between = np.exp2(between[..., 0, :, None] + between[..., 1, None, :])
    wanted = np.exp(sums[..., :, None] - sums[..., None, :])
    assert_close("between", np.tril(between), np.tril(wanted), 1e-4)


def _chunks_in_float64(q, k, v, g, beta, state, do, dstate, seen):
    """Outputs and gradients of one head by README.md of the plain rule, eqs. 19 to 33, one chunk
    after the other; `seen`: of every chunk (reads, writes, keeps, same)."""
    scale, forward = q.shape[-1] ** -0.5, []
    chunks = [slice(i, i + CHUNK) for i in range(0, len(q), CHUNK)]
    for at, (reads, writes, keeps, within) in zip(chunks, seen, strict=True):
        total = np.cumsum(g[at])
        gamma = within * np.exp(-np.abs(total[:, None] - total))
        lower = np.tril(k[at] @ k[at].T * gamma, -1)
        n = np.linalg.solve(np.eye(CHUNK) + lower * beta[at], lower)
        r, w = (reads * np.exp(total))[:, None], (writes * np.exp(total[-1] - total))[:, None]
        crosses = keeps * np.exp(total[-1])
        error = v[at] - r * (k[at] @ state)
        d = error - n @ (beta[at, None] * error)
        u, p = beta[at, None] * d, np.tril(q[at] @ k[at].T * gamma)
        forward.append((gamma, n, r, w, crosses, d, u, p, state, r * (q[at] @ state) + p @ u))
        state = crosses * state + k[at].T @ (w * u)
    gradients, shares = [], []
    for at, (gamma, n, r, w, crosses, d, u, p, entered, _) in zip(
        reversed(chunks), reversed(forward), strict=True
    ):
        du = scale * p.T @ do[at] + w * (k[at] @ dstate)
        dx = du - n.T @ (beta[at, None] * du)
        dv = beta[at, None] * dx
        dp = scale * np.tril(do[at] @ d.T * gamma) * beta[at]
        m = -np.tril(dv @ d.T * gamma, -1) * beta[at]
        dq = scale * r * (do[at] @ entered.T) + dp @ k[at]
        read = -r * (dv @ entered.T) + m @ k[at]
        written = w * (u @ dstate.T)
        write = written + m.T @ k[at] + dp.T @ q[at]
        kept = (entered * dstate).sum(0)
        x = (q[at] * dq).sum(1), (k[at] * (read - write)).sum(1), (k[at] * written).sum(1), kept
        gradients.append((dq, read + write, dv, (dx * d).sum(1)))
        shares.append(np.stack(x))
        dstate = crosses * dstate + scale * q[at].T @ (r * do[at]) - k[at].T @ (r * dv)
    output = scale * np.concatenate([x[-1] for x in forward])
    gradients = [np.concatenate(x[::-1]) for x in zip(*gradients, strict=True)]
    return output, state, gradients, dstate, np.stack(shares[::-1])


@pytest.mark.parametrize("segmented", [False, True])
def test_equations_and_the_decays_gradient(x64, segmented):
    """What the kernels compute, in float64 here, is the definition's derivative; and so is dg, as
    `log_decay_gradient` makes it of their sums."""
    rng = np.random.default_rng(1)
    tokens = SIZES["T"]
    unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in rng.normal(size=(2, tokens, 16))]
    v, do = rng.normal(size=(2, tokens, 64))
    beta, g = rng.uniform(0, 2, tokens), -np.exp(rng.uniform(-6, 3, tokens))
    state, dstate = rng.normal(size=(2, 16, 64))
    ids = np.repeat([0, 1, 2], [30, 50, 48]) * segmented
    segments = jnp.asarray(ids)[None]
    marks = np.asarray(kernel_prepare.segment_marks(segments), np.float64)[0]
    ids = ids.reshape(2, CHUNK)
    seen = [(*m[:3], i[:, None] == i) for m, i in zip(marks, ids, strict=True)]
    seen = [(reads, writes, keeps[0], same) for reads, writes, keeps, same in seen]
    args = (*unit, v, g, beta, state)
    output, final, (dq, dk, dv, dbeta), dinitial, shares = _chunks_in_float64(
        *args, do, dstate, seen
    )

    def run(*args):
        *inputs, state = (x[None, :, None] if x is not args[-1] else x[None, None] for x in args)
        options = {"segment_ids": segments, "implementation": "reference"}
        return tuple(gated_delta_rule(*inputs, initial_state=state, **options))

    results, vjp = jax.vjp(jax.jit(run), *(jnp.asarray(x) for x in args))
    wanted = vjp((jnp.asarray(do)[None, :, None], jnp.asarray(dstate)[None, None]))
    decays = kernel_decay.make_decays(jnp.asarray(g)[None, :, None], jnp.asarray(beta)[None, None])
    dg = kernel_decay.log_decay_gradient(
        jnp.asarray(shares)[None, None], decays, jnp.asarray(marks)[None], tokens
    )
    got = (output[None, :, None], final[None, None], dq, dk, dv, dg[0, :, 0], dbeta, dinitial)
    names = ("output", "final_state", "dq", "dk", "dv", "dg", "dbeta", "dinitial_state")
    for name, x, y in zip(names, got, (*results, *wanted), strict=True):
        assert_close(name, x, np.asarray(y), 1e-12)


def test_refusals():
    key, head = jnp.ones((1, 5, 1, 64), jnp.bfloat16), jnp.zeros((1, 5, 1), jnp.float32)
    beta = head.astype(key.dtype)
    options = {"scale": 1.0, "chunk_size": 64, "residuals": "recompute"}
    reason = kernel_support.unsupported(key, key, key, 0.0 * key, beta, None, None, **options)
    assert "one decay a head" in reason
    if jax.default_backend() != "cpu":
        pytest.skip("this machine has an accelerator")
    with pytest.raises(NotImplementedError, match="need a Hopper GPU"):
        gated_delta_rule(key, key, key, head, beta, implementation="pallas")
    with pytest.raises(ValueError, match="^residuals: wanted one of"):
        gated_delta_rule(key, key, key, head, beta, residuals="all")
