# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Chunked cross-entropy against Optax on whole logits; what is in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from deltanet_jax.train.loss import (
    cross_entropies,
    cross_entropy_sums,
    cross_entropy_sums_and_predictions,
)


def make_inputs(dtype=jnp.float32, batch=3, length=11, width=8, vocab_size=50):
    keys = jax.random.split(jax.random.key(0), 4)
    features = jax.random.normal(keys[0], (batch, length, width)).astype(dtype)
    kernel = jax.random.normal(keys[1], (width, vocab_size))
    targets = jax.random.randint(keys[2], (batch, length), 0, vocab_size)
    weights = jax.random.uniform(keys[3], (batch, length)) * (targets % 3 > 0)
    return features, kernel, targets, weights


def whole(features, kernel, targets, weights):
    logits = (features.astype(jnp.float32) @ kernel).astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return jnp.sum(losses * weights), jnp.sum((jnp.argmax(logits, -1) == targets) * weights)


def gradients(sums, inputs):
    """The mean's value, gradients of features and kernel, and what counts right; compiled."""
    *arrays, targets, weights = inputs

    def mean(features, kernel):
        loss, correct = sums(features, kernel, targets, weights)
        return loss / jnp.sum(weights), correct

    return jax.jit(jax.value_and_grad(mean, (0, 1), has_aux=True))(*arrays)


@pytest.fixture(scope="module")
def wanted():
    return gradients(whole, make_inputs(length=14))


@pytest.mark.parametrize(("positions", "pieces"), [(1, 1), (5, 1), (100, 1), (3, 2)])
def test_values_and_gradients(wanted, positions, pieces):
    features, kernel, targets, weights = inputs = make_inputs(length=14)
    sizes = {"positions": positions, "pieces": pieces}
    got = gradients(lambda *args: cross_entropy_sums(*args, **sizes), inputs)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7)
    undifferentiated, (*sums, predictions), losses = jax.jit(
        lambda *args: (
            cross_entropy_sums(*args, **sizes),
            cross_entropy_sums_and_predictions(*args, **sizes),
            cross_entropies(*args, **sizes),
        )
    )(*inputs)
    np.testing.assert_allclose(undifferentiated[0] / weights.sum(), got[0][0], rtol=1e-6)
    assert sums == list(undifferentiated)
    assert (predictions == jnp.argmax(features @ kernel, axis=-1)).all()
    each = optax.softmax_cross_entropy_with_integer_labels(features @ kernel, targets)
    np.testing.assert_allclose(losses, each, rtol=1e-5, atol=1e-6)


def test_float64_is_float64(x64):
    features, kernel, targets, weights = make_inputs(jnp.float64)
    weights = weights.astype(jnp.float32)

    def by_definition(features, kernel, targets, weights):
        log_p = jax.nn.log_softmax(features @ kernel)
        at_target = jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0]
        return -jnp.sum(weights * at_target), 0

    inputs = features, kernel, targets, weights
    got = gradients(lambda *args: cross_entropy_sums(*args, positions=4), inputs)[1]
    for a, b in zip(got, gradients(by_definition, inputs)[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_bfloat16_features_are_summed_in_float32():
    """1,100 equal terms: sums kept in bfloat16 would stop growing at 256."""
    features, kernel, targets, _ = make_inputs(jnp.bfloat16, batch=100)
    weights = jnp.ones(targets.shape)

    def run(sums):
        loss = jax.value_and_grad(lambda kernel: sums(features, kernel, targets, weights)[0])
        return jax.jit(loss)(kernel)

    loss, gradient = run(lambda *args: cross_entropy_sums(*args, positions=2))
    wanted, wanted_gradient = run(whole)
    assert abs(loss - wanted) < 5e-3 * wanted
    assert gradient.dtype == kernel.dtype
    error = jnp.linalg.norm(gradient - wanted_gradient) / jnp.linalg.norm(wanted_gradient)
    assert error < 1e-2


def test_logits_of_the_batch_never_exist_at_once():
    features, kernel, targets, weights = make_inputs(batch=4, length=64, vocab_size=1000)

    def temporary(positions):
        run = jax.grad(lambda *args: cross_entropy_sums(*args, positions=positions)[0], (0, 1))
        lowered = jax.jit(run).lower(features, kernel, targets, weights)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    logits = 4 * 64 * 1000 * 4
    assert temporary(64) > logits
    assert temporary(2) < logits / 4
