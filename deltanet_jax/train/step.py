# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The state of training and the two pure steps on it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, UInt32

from deltanet_jax.model import LanguageModel, ModelConfig
from deltanet_jax.sharding import weight_shardings
from deltanet_jax.train.guard import Guard, init_guard, judge
from deltanet_jax.train.loss import (
    cross_entropies,
    cross_entropy_sums,
    cross_entropy_sums_and_predictions,
)


class TrainState(NamedTuple):
    """Everything a step reads and writes, and all that a checkpoint holds beside the data position.

    Attributes:
        step: optimiser steps done; those skipped are not among them.
        weights: the model's, nested dicts of arrays.
        opt_state: Optax's.
        rng: key data of the run's random stream, [2] uint32; a step folds its number in.
        guard: what was skipped, and the losses by which that is judged.
    """

    step: Int[Array, ""]
    weights: dict
    opt_state: optax.OptState
    rng: UInt32[Array, "2"]
    guard: Guard


class Sums(NamedTuple):
    """Weighted sums over predictions, additive over batches."""

    loss: Float[Array, ""]
    correct: Float[Array, ""]
    weight: Float[Array, ""]


def model_graph(config: ModelConfig) -> nnx.GraphDef:
    """The model without its weights: static, hashable, to be merged with them inside a step."""
    return nnx.split(nnx.eval_shape(lambda: LanguageModel(config, rngs=nnx.Rngs(0))))[0]


def init_state(
    config: ModelConfig, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """The state before the first step; run it under jit with shardings."""
    init_key, _ = jax.random.split(jax.random.key(seed))
    model = LanguageModel(config, rngs=nnx.Rngs(init_key))
    return first_state(nnx.to_pure_dict(nnx.state(model, nnx.Param)), optimizer, seed)


def first_state(weights: dict, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step with weights that exist already."""
    _, rng = jax.random.split(jax.random.key(seed))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        weights=weights,
        opt_state=optimizer.init(weights),
        rng=jax.random.key_data(rng),
        guard=init_guard(),
    )


def state_shardings(
    abstract_state: TrainState, optimizer: optax.GradientTransformation, mesh: Mesh
) -> TrainState:
    """Weights and the optimiser's copies of them by the sharding table, the rest whole."""
    whole = NamedSharding(mesh, PartitionSpec())
    weights = weight_shardings(abstract_state.weights, mesh)
    opt_state = optax.tree.map_params(
        optimizer,
        lambda _, sharding: sharding,
        abstract_state.opt_state,
        weights,
        transform_non_params=lambda _: whole,
    )
    guard = Guard(*[whole] * len(Guard._fields))
    return TrainState(step=whole, weights=weights, opt_state=opt_state, rng=whole, guard=guard)


def sum_losses(
    graph: nnx.GraphDef, loss_sizes: dict[str, int], weights: dict, batch, dropout_key=None
) -> Sums:
    """Cross-entropy and correct predictions of a batch, summed with its weights.

    `loss_sizes`: the "positions" and "pieces" of `cross_entropy_sums`.
    """
    arguments, loss_sizes = _head_arguments(graph, loss_sizes, weights, batch, dropout_key)
    loss, correct = cross_entropy_sums(*arguments, **loss_sizes)
    return Sums(loss, correct, jnp.sum(batch["weights"]))


def sum_and_predict(
    graph: nnx.GraphDef, loss_sizes: dict[str, int], weights: dict, batch
) -> tuple[Sums, Int[Array, "B N"]]:
    """`sum_losses` without dropout, and the most probable id wherever there is a target."""
    arguments, loss_sizes = _head_arguments(graph, loss_sizes, weights, batch, None)
    loss, correct, predictions = cross_entropy_sums_and_predictions(*arguments, **loss_sizes)
    return Sums(loss, correct, jnp.sum(batch["weights"])), predictions


def token_losses(
    graph: nnx.GraphDef, loss_sizes: dict[str, int], weights: dict, batch
) -> Float[Array, "B N"]:
    """The cross-entropy wherever a batch has a target, in nats, without dropout."""
    arguments, loss_sizes = _head_arguments(graph, loss_sizes, weights, batch, None)
    return cross_entropies(*arguments, **loss_sizes)


def _head_arguments(
    graph: nnx.GraphDef, loss_sizes: dict[str, int], weights: dict, batch, dropout_key
) -> tuple[tuple, dict[str, int]]:
    """Features, head, targets, weights and sizes, as the functions of loss.py take them."""
    model = nnx.merge(graph, weights)
    features, _ = model.features(
        batch["inputs"], segment_ids=batch.get("segment_ids"), dropout_key=dropout_key
    )
    if "positions" in batch:  # where they lie decides which device has them: no pieces
        rows = jnp.arange(len(features))[:, None]
        features = features.at[rows, batch["positions"]].get(
            mode="promise_in_bounds", unique_indices=True
        )
        loss_sizes = loss_sizes | {"pieces": 1}
    return (features, model.head_kernel(), batch["targets"], batch["weights"]), loss_sizes


def _microbatches(batch: dict, count: int) -> dict:
    """[B, ...] -> [count, B / count, ...]; every device's rows are spread over all of them."""

    def split(x):
        return jnp.swapaxes(x.reshape(-1, count, *x.shape[1:]), 0, 1)

    return jax.tree.map(split, batch)


def _zeros_to_add_to(x: jax.Array) -> jax.Array:
    return jnp.zeros_like(x, jnp.promote_types(x.dtype, jnp.float32))


def gradients(
    graph: nnx.GraphDef,
    loss_sizes: dict[str, int],
    accumulation_steps: int,
    state: TrainState,
    batch,
) -> tuple[dict, Sums]:
    """The gradient of a batch's mean loss, and the sums it is made from.

    With `accumulation_steps` the batch goes through in that many parts, one after the other. Their
    gradients are of sums, added in float32 (float64 for float64), so the result is that of the
    whole batch.
    """
    dropout_key = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)

    def loss(weights, batch, key):
        sums = sum_losses(graph, loss_sizes, weights, batch, key)
        return sums.loss, sums

    differentiate = jax.grad(loss, has_aux=True)
    if accumulation_steps == 1:
        grads, sums = differentiate(state.weights, batch, dropout_key)
    else:

        def part(total, inputs):
            number, batch = inputs
            key = jax.random.fold_in(dropout_key, number)
            one = differentiate(state.weights, batch, key)
            return jax.tree.map(lambda t, x: t + x.astype(t.dtype), total, one), None

        zero = jnp.zeros((), jnp.float32)
        nothing = jax.tree.map(_zeros_to_add_to, state.weights), Sums(zero, zero, zero)
        parts = jnp.arange(accumulation_steps), _microbatches(batch, accumulation_steps)
        (grads, sums), _ = jax.lax.scan(part, nothing, parts)
    return jax.tree.map(lambda g, w: (g / sums.weight).astype(w.dtype), grads, state.weights), sums


def train_step(
    graph: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    loss_sizes: dict[str, int],
    accumulation_steps: int,
    guard_sizes: dict[str, float],
    state: TrainState,
    batch,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One optimiser step; metrics are loss, accuracy, the gradient's norm before clipping, and the
    counts of skipped steps.

    A step that the guard does not accept (`guard_sizes`: the options of `judge`) leaves all of the
    state but the guard as it was, bit for bit: weights, optimiser, schedule, random stream.
    """
    grads, sums = gradients(graph, loss_sizes, accumulation_steps, state, batch)
    loss, grad_norm = sums.loss / sums.weight, optax.tree.norm(grads)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.weights)
    accept, guard = judge(state.guard, loss, grad_norm, **guard_sizes)
    updated = state._replace(
        step=state.step + 1,
        weights=optax.apply_updates(state.weights, updates),
        opt_state=opt_state,
    )
    kept = jax.tree.map(lambda new, old: jnp.where(accept, new, old), updated, state)
    metrics = {
        "loss": loss,
        "accuracy": sums.correct / sums.weight,
        "grad_norm": grad_norm,
        "skipped_steps": guard.skipped,
        "skipped_in_row": guard.in_row,
    }
    return kept._replace(guard=guard), metrics
