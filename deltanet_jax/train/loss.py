# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Head and cross-entropy in one, a few positions at a time: logits of a batch never exist at once.

For 32,768 tokens and a vocabulary of 32,000, float32 logits would be 4.2 GB, and their cotangent
as much again. Under differentiation the gradients are made in the forward pass, where a chunk's
logits are at hand (three products instead of the four of recomputing them), and only multiplied by
the cotangent in the backward pass.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int


def cross_entropy_sums(
    features: Float[Array, "B T D"],
    kernel: Float[Array, "D vocab_size"],
    targets: Int[Array, "B T"],
    weights: Float[Array, "B T"],
    *,
    positions: int,
    pieces: int = 1,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Weighted sums of the cross-entropies and of correct predictions of a batch.

    In float32, as all sums here; in float64 for float64 features.

    Args:
        features: the model's last hidden vectors; products run in their dtype.
        kernel: the head's weights, of any float dtype.
        targets: ids in 0 .. vocab_size - 1.
        weights: of every prediction; not differentiated.
        positions: columns of a piece whose logits exist at a time.
        pieces: of the sequence, each on devices of its own; gone through side by side. Divides T.
    Returns:
        (sum of weight * cross-entropy in nats, sum of weight * [the largest logit is the target]).
        First-order reverse mode; the second has no gradient.
    """
    positions = min(positions, features.shape[1] // pieces)
    return _sums(features, kernel, targets, weights, (pieces, positions))


def cross_entropy_sums_and_predictions(
    *arrays: Array, positions: int, pieces: int = 1
) -> tuple[Float[Array, ""], Float[Array, ""], Int[Array, "B T"]]:
    """`cross_entropy_sums` and, at every position, the id of the largest logit; for evaluation.

    Takes the same arguments. Not meant to be differentiated: the gradients would not be made chunk
    by chunk.
    """
    sizes = pieces, min(positions, arrays[0].shape[1] // pieces)
    (loss, correct), (predictions, _) = _scan(*arrays, sizes, gradients=False)
    return loss, correct, predictions


def cross_entropies(*arrays: Array, positions: int, pieces: int = 1) -> Float[Array, "B T"]:
    """The cross-entropy of every position, in nats, not weighted; for evaluation.

    Takes the arguments of `cross_entropy_sums`; float32 like its sums.
    """
    sizes = pieces, min(positions, arrays[0].shape[1] // pieces)
    return _scan(*arrays, sizes, gradients=False)[1][1]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _sums(features, kernel, targets, weights, sizes):
    return _scan(features, kernel, targets, weights, sizes, gradients=False)[0]


def _forward(features, kernel, targets, weights, sizes):
    sums, gradients = _scan(features, kernel, targets, weights, sizes, gradients=True)
    return sums, (gradients, targets, weights)


def _backward(sizes, residuals, cotangents):
    del sizes
    (dfeatures, dkernel), targets, weights = residuals
    dloss, _ = cotangents
    no_gradient = np.zeros(targets.shape, jax.dtypes.float0)
    return (
        (dloss * dfeatures.astype(dloss.dtype)).astype(dfeatures.dtype),
        (dloss * dkernel).astype(dkernel.dtype),
        no_gradient,
        jnp.zeros_like(weights),
    )


_sums.defvjp(_forward, _backward)


def _split(x: jax.Array, sizes: tuple[int, int]) -> jax.Array:
    """[B, T, ...] -> [N, B, pieces * positions, ...]: the next few positions of every piece.

    Pieces are padded with zeros: weight 0, so without effect.
    """
    pieces, positions = sizes
    length = x.shape[1] // pieces
    count = -(-length // positions)
    x = x.reshape(x.shape[0], pieces, length, *x.shape[2:])
    padding = [(0, 0)] * x.ndim
    padding[2] = (0, count * positions - length)
    x = jnp.pad(x, padding).reshape(*x.shape[:2], count, positions, *x.shape[3:])
    return jnp.moveaxis(x, 2, 0).reshape(count, x.shape[0], -1, *x.shape[4:])


def _join(x: jax.Array, sizes: tuple[int, int], shape: tuple[int, ...]) -> jax.Array:
    """The inverse of `_split`, to an array of `shape`."""
    pieces, positions = sizes
    x = jnp.moveaxis(x.reshape(-1, shape[0], pieces, positions, *shape[2:]), 0, 2)
    x = x.reshape(shape[0], pieces, -1, *shape[2:])
    return x[:, :, : shape[1] // pieces].reshape(shape)


def _scan(features, kernel, targets, weights, sizes, *, gradients):
    dtype = features.dtype
    wide = jnp.promote_types(dtype, jnp.float32)
    head = kernel.astype(dtype)
    product = functools.partial(jnp.einsum, preferred_element_type=wide)

    def chunk(carry, inputs):
        x, target, weight = inputs
        logits = product("btd,dv->btv", x, head)
        log_z = jax.nn.logsumexp(logits, axis=-1)
        at_target = jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]
        predicted = jnp.argmax(logits, axis=-1).astype(target.dtype)
        loss, correct, dkernel = carry
        loss += jnp.sum(weight * (log_z - at_target))
        correct += jnp.sum(weight * (predicted == target))
        if not gradients:
            return (loss, correct, dkernel), (predicted, log_z - at_target)
        is_target = lax.broadcasted_iota(target.dtype, logits.shape, 2) == target[..., None]
        dlogits = jnp.exp(logits - log_z[..., None]) - is_target
        dlogits = (weight[..., None] * dlogits).astype(dtype)
        dkernel += product("btd,btv->dv", x, dlogits)
        return (loss, correct, dkernel), jnp.einsum("btv,dv->btd", dlogits, head)

    inputs = tuple(_split(x, sizes) for x in (features, targets, weights.astype(wide)))
    zero = jnp.zeros((), wide)
    dkernel = jnp.zeros(kernel.shape, wide) if gradients else None
    (loss, correct, dkernel), rest = lax.scan(chunk, (zero, zero, dkernel), inputs)
    if not gradients:
        return (loss, correct), tuple(_join(x, sizes, targets.shape) for x in rest)
    return (loss, correct), (_join(rest, sizes, features.shape), dkernel.astype(kernel.dtype))
