# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""A model laid out for decoding: the same function, fewer and larger operations a token.

One token does little with every weight, so its time is that of reading the weights and of starting
kernels. Hence
- every layer has arrays of its own: weights and states cut out of arrays of all layers would be
  copied at every token;
- weights are kept in the compute dtype;
- linear maps of one input are one map (`merge`);
- weights lie as [outputs, inputs], so that for a single row each output is a sum over memory in
  order.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from deltanet_jax.layers.embedding import lookup
from deltanet_jax.model import LanguageModel

# Linear maps of something else than their module's input.
INNER = ("out_proj", "down_proj", "decay_up_proj", "controls_proj", "dt_proj")


class Product(nnx.Module):
    """x -> x [W_1 W_2 ...], of kernels [D, N_i], kept as one [sum of N_i, D] in x's dtype.

    A single row is multiplied and summed, in float32 (float64 for float64), where matrix products
    would fill tiles of rows that are not there.
    """

    def __init__(self, kernels: list[Float[Array, "D N"]], dtype):
        self.weight = nnx.Param(jnp.concatenate([k.T for k in kernels], axis=0).astype(dtype))

    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T N"]:
        weight = self.weight[...]
        if x.shape[0] * x.shape[1] > 1:
            return jnp.einsum("btd,nd->btn", x.astype(weight.dtype), weight)
        wide = jnp.promote_types(weight.dtype, jnp.float32)
        row = x.reshape(1, -1).astype(weight.dtype).astype(wide)
        return jnp.sum(row * weight.astype(wide), axis=-1).astype(weight.dtype)[None, None]


class Columns(nnx.Module):
    """A linear map that is part of a `Joined` one: its columns of the common product."""

    def __init__(self, start: int, stop: int):
        self.start, self.stop = start, stop

    def __call__(self, x: Float[Array, "B T N"]) -> Float[Array, "B T n"]:
        return x[..., self.start : self.stop]


class Joined(nnx.Module):
    """A module whose linear maps of its input are one, and whose `Columns` read their parts."""

    def __init__(self, product: Product, inner: nnx.Module):
        self.product, self.inner = product, inner

    def __call__(self, x: Float[Array, "B T D"], **options):
        return self.inner(self.product(x), **options)


def _rebuild(module: nnx.Module, merge: bool, dtype) -> nnx.Module:
    """`module` with a `Product` in the place of every linear map, or one of those of its input.

    What stands in a list is a chain of maps and stays as it is. Nothing is merged in a module with
    such a chain, which may begin with the module's input, or with a token shift, which gives each
    map an input of its own.
    """
    linears = [(path, m) for path, m in nnx.iter_modules(module) if isinstance(m, nnx.Linear)]
    named = [(path, m) for path, m in linears if isinstance(path[-1], str)]
    merge = merge and len(named) == len(linears) and not hasattr(module, "shift")
    kernels, stop = [], 0
    for path, linear in named:
        kernel = linear.kernel[...]
        if merge and path[-1] not in INNER:
            start, stop = stop, stop + kernel.shape[1]
            kernels.append(kernel)
            new = Columns(start, stop)
        else:
            new = Product([kernel], dtype)
        parent = functools.reduce(getattr, path[:-1], module)
        setattr(parent, path[-1], new)
    return Joined(Product(kernels, dtype), module) if kernels else module


class Decoder(nnx.Module):
    """A `LanguageModel`'s `features` and `logits`, one layer after the other.

    Make it with `lay_out`. The state is a tuple of the layers' own: `layer_states` of the model's.
    """

    def __init__(self, model: LanguageModel, merge: bool):
        dtype = jnp.dtype(model.config.compute_dtype)
        self.embedding = nnx.Param(model.embed.embedding[...].astype(dtype))
        layers = []
        for layer in range(model.config.num_layers):
            graph, weights = nnx.split(model.period[layer % len(model.period)])
            index = layer // len(model.period)
            block = nnx.merge(graph, jax.tree.map(lambda w, i=index: w[i], weights))
            block.mixer = _rebuild(block.mixer, merge, dtype)
            if block.mlp is not None:
                block.mlp = _rebuild(block.mlp, merge, dtype)
            layers.append(block)
        self.layers = nnx.List(layers)
        self.final_norm = model.final_norm
        self.head = None if model.head is None else Product([model.head.kernel[...]], dtype)

    def features(
        self, tokens: Int[Array, "B T"], *, state: tuple
    ) -> tuple[Float[Array, "B T D"], tuple]:
        """See `LanguageModel.features`."""
        x = lookup(self.embedding[...], tokens)
        new = []
        for block, old in zip(self.layers, state, strict=True):
            x, layer_state = block(x, segment_ids=None, state=old)
            new.append(layer_state)
        return self.final_norm(x), tuple(new)

    def logits(self, features: Float[Array, "B T D"]) -> Float[Array, "B T vocab_size"]:
        """See `LanguageModel.logits`."""
        if self.head is None:
            return jnp.einsum("btd,nd->btn", features, self.embedding[...])
        return self.head(features)


def layer_states(state: tuple, num_layers: int) -> tuple:
    """A `LanguageModel`'s state as one of each layer, in order."""
    period = len(state)
    return tuple(
        jax.tree.map(lambda x, i=layer // period: x[i], state[layer % period])
        for layer in range(num_layers)
    )


def lay_out(model: LanguageModel, *, merge: bool = True) -> Decoder:
    """The decoder of a model; its weights are copies.

    Args:
        model: without bottleneck.
        merge: linear maps of one input are one.
    Raises:
        ValueError: a model with bottleneck.
    """
    if model.bottleneck is not None:
        raise ValueError("model: wanted one without bottleneck, which reads whole sequences")
    graphdef, weights = nnx.split(model)

    def make(weights):
        return Decoder(nnx.merge(graphdef, weights), merge)

    decoder_graph = nnx.split(nnx.eval_shape(make, weights))[0]
    return nnx.merge(decoder_graph, jax.jit(lambda weights: nnx.state(make(weights)))(weights))
