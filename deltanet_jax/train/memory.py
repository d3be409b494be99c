# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Device memory of a training step, found without running or compiling it.

What is counted, for one device: the train state and the gradients by their shardings, exactly; what
the forward pass keeps for the backward pass, by tracing it and adding what only kernels keep; and
the larger of two kinds of working memory that are not there at the same time: a chunk of logits, or
what of a layer's intermediate values exists at once while the backward pass computes them again.
The latter is WORKING times all of them, because XLA fuses most away: the constant was fitted to
compiled steps (`python -m experiments.benchmarks.aot_train` makes them again). Peaks measured on
one and two H200s are met within 10 %; a test compares with their records. With remat "none" it is
an upper bound, about twice what was measured: XLA computes cheap values again by itself. Not
counted: buffers of collectives.
"""

import collections
import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx

from deltanet_jax import sharding
from deltanet_jax.model import LanguageModel, ModelConfig
from deltanet_jax.train.config import TrainConfig
from deltanet_jax.train.loop import Trainer
from deltanet_jax.train.step import model_graph

WORKING = 0.28
SHORT = 256


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
        weights, optimizer, gradients: of the train state.
        kept: by the forward pass for the backward pass.
        working: see above.
    """

    weights: int
    optimizer: int
    gradients: int
    kept: int
    working: int

    @property
    def total(self) -> int:
        """All of it."""
        return sum(dataclasses.astuple(self))


def _bytes_here(tree, itemsize: int = 1) -> int:
    """Of the part of every array that one device holds, a number taking at least `itemsize`."""
    return sum(
        math.prod(x.sharding.shard_shape(x.shape)) * max(jnp.dtype(x.dtype).itemsize, itemsize)
        for x in jax.tree.leaves(tree)
    )


def kept_bytes(model: ModelConfig, rows: int, columns: int) -> int:
    """Bytes that the forward pass keeps for a batch [rows, columns], beside weights and inputs."""
    # The same is kept by a loop over layers, in arrays of all of them; what kernels keep is counted
    # apart, so that it does not matter where this runs.
    pattern = tuple(
        mixer.replace(implementation="xla") if hasattr(mixer, "implementation") else mixer
        for mixer in model.layer_pattern
    )
    model = model.replace(scan_unroll=1, layer_pattern=pattern)
    graph = model_graph(model)
    abstract = nnx.eval_shape(lambda: LanguageModel(model, rngs=nnx.Rngs(0)))
    weights = nnx.to_pure_dict(nnx.state(abstract, nnx.Param))
    tokens = jax.ShapeDtypeStruct((rows, columns), jnp.int32)

    def forward(weights, tokens):
        return jax.vjp(lambda weights: nnx.merge(graph, weights).features(tokens)[0], weights)

    def kinds(tree):
        return collections.Counter((x.shape, jnp.dtype(x.dtype)) for x in jax.tree.leaves(tree))

    output, vjp = jax.eval_shape(forward, weights, tokens)
    kept = kinds(vjp) - kinds((weights, tokens)) + kinds(output)
    return sum(math.prod(shape) * dtype.itemsize * n for (shape, dtype), n in kept.items())


def _kernel_residuals(trainer: Trainer, rows: int, columns: int) -> int:
    """What the Hopper kernels keep that the trace, of other implementations, does not have."""
    model = trainer.model_config
    cut = trainer.mesh.shape[sharding.SEQUENCE] > 1  # a piece's pass is run again, backward
    if cut or model.remat == "full" or jnp.dtype(model.compute_dtype).itemsize > 2:
        return 0
    kept = model.remat != "products"
    layers = (
        m.kernel_residual_bytes(model.d_model, rows, columns, kept) for m in model.layer_pattern
    )
    return model.num_layers // len(model.layer_pattern) * sum(layers)


def estimate(trainer: Trainer, config: TrainConfig, seq_len: int) -> Memory:
    """The memory of one step of `trainer` on sequences of `seq_len` tokens.

    Tensor parallelism is not seen in what is kept: the estimate is then an upper bound.
    """
    model, state = trainer.model_config, trainer.abstract_state
    rows = config.part_size // sharding.batch_ways(trainer.mesh)
    columns = seq_len // trainer.mesh.shape[sharding.SEQUENCE]
    # Short rows: what grows with their square, softmax weights, no kernel keeps.
    short = rows * columns // SHORT, SHORT
    short = (rows, columns) if columns % SHORT else short
    kept = kept_bytes(model, *short)
    everything = kept_bytes(model.replace(remat="none"), *short)
    residuals = _kernel_residuals(trainer, rows, columns)
    weights = _bytes_here(state.weights)
    # Accumulated gradients are float32, beside those of the part in work.
    added = 0 if config.accumulation_steps == 1 else _bytes_here(state.weights, itemsize=4)
    width = jnp.dtype(model.compute_dtype).itemsize
    chunk = min(config.loss_chunk_tokens, rows * columns) * model.vocab_size
    head = model.d_model * model.vocab_size
    recomputed = (everything - kept) // model.num_layers
    loss = chunk * (4 + 4 + width) + head * (4 + width)
    return Memory(
        weights=weights,
        optimizer=_bytes_here(state.opt_state),
        gradients=weights + added,
        kept=kept + residuals,
        working=max(round(WORKING * recomputed), loss),
    )
