# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""A model laid out for decoding: the same function, fewer and larger operations a token.

One token does little with every weight, so its time is that of reading the weights and of starting
kernels. Hence
- every layer has arrays of its own: weights and states cut out of arrays of all layers would be
  copied at every token;
- weights are kept in the compute dtype;
- linear maps of one input are one map; the norm before them, and the sum with the residual stream
  after the last one, are part of it;
- weights lie as [outputs, inputs], so that for a single row each output is a sum over memory in
  order;
- between its projections a DeltaNet layer is one operator (pallas_kernels/decoding);
- one row goes through all layers of a DeltaNet with SwiGLU in one kernel where it can (`AtOnce`).
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from deltanet_jax.layers.embedding import lookup
from deltanet_jax.layers.mlp import SwiGLU
from deltanet_jax.mixers.delta_net import DeltaNet
from deltanet_jax.mixers.recurrent import RecurrentState
from deltanet_jax.model import Block, LanguageModel, ModelConfig
from pallas_kernels import delta_net_step, row_product
from pallas_kernels._common import dispatch
from pallas_kernels.decoding import layers_plan
from pallas_kernels.decoding.delta_net_layers import (
    LayersState,
    LayerWeights,
    PackedLayers,
    delta_net_layers,
    pack_layers,
    programs,
    unsupported,
)

# Linear maps of something else than their module's input.
INNER = ("out_proj", "down_proj", "decay_up_proj", "controls_proj", "dt_proj")
# The one that a mixer's output comes from, where maps of its input are joined.
LAST = "out_proj"


class Product(nnx.Module):
    """x -> x [W_1 W_2 ...] of kernels [D, N_i], kept as one [sum of N_i, D] in `dtype`.

    `options` are `pallas_kernels.row_product`'s.
    """

    def __init__(self, kernels: list[Float[Array, "D N"]], dtype):
        self.weight = nnx.Param(jnp.concatenate([k.T for k in kernels], axis=0).astype(dtype))

    def __call__(self, x: Float[Array, "B 1 D"], *, residual=None, **options):
        weight = self.weight[...]
        if residual is not None:
            options["residual"] = residual[:, 0]
        return row_product(x[:, 0].astype(weight.dtype), weight, **options)[:, None]


class Columns(nnx.Module):
    """A linear map that is part of a `Product` of several: its columns of what that gave."""

    def __init__(self, start: int, stop: int):
        self.start, self.stop = start, stop

    def __call__(self, x: Float[Array, "B T N"]) -> Float[Array, "B T n"]:
        return x[..., self.start : self.stop]


class Kept(nnx.Module):
    """In the place of a linear map that follows elsewhere."""

    def __call__(self, x: Float[Array, "B T N"]) -> Float[Array, "B T N"]:
        return x


def _rebuild(module: nnx.Module, dtype) -> Product | None:
    """Puts a `Product` in the place of every linear map, or makes one of those of the input.

    Returns that one; `module` is then to be called with what it gives. What stands in a list is a
    chain of maps and stays as it is. Nothing is merged in a module with such a chain, which may
    begin with the module's input, or with a token shift, which gives each map an input of its own.
    """
    linears = [(path, m) for path, m in nnx.iter_modules(module) if isinstance(m, nnx.Linear)]
    named = [(path, m) for path, m in linears if isinstance(path[-1], str)]
    merge = len(named) == len(linears) and not hasattr(module, "shift")
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
    return Product(kernels, dtype) if kernels else None


def _norm_options(norm: nnx.RMSNorm) -> dict[str, object]:
    return {"norm_scale": norm.scale[...], "norm_eps": norm.epsilon}


class MixerLayer(nnx.Module):
    """(x, state) -> (x + mixer(norm(x)), new state), for one token."""

    def __init__(self, norm: nnx.RMSNorm, mixer: nnx.Module, dtype):
        self.norm = norm
        self.first = _rebuild(mixer, dtype)
        self.last = None if self.first is None else getattr(mixer, LAST)
        if self.last is not None:
            setattr(mixer, LAST, Kept())
        fused = self.first is not None and _is_fused(mixer)
        self.mixer = DeltaNetMiddle(mixer) if fused else mixer

    def __call__(self, x: Float[Array, "B 1 D"], state):
        if self.first is None:
            y, state = self.mixer(self.norm(x), segment_ids=None, state=state)
            return x + y, state
        y = self.first(x, **_norm_options(self.norm))
        y, state = self.mixer(y, segment_ids=None, state=state)
        return self.last(y, residual=x), state


def _is_fused(mixer: nnx.Module) -> bool:
    """Whether `delta_net_step` is what a mixer does between its projections."""
    return (
        type(mixer) is DeltaNet
        and mixer.config.conv_size > 1
        and (mixer.config.qk_activation, mixer.config.qk_norm) == ("silu", "l2")
        and not mixer.config.output_gate
    )


class DeltaNetMiddle(nnx.Module):
    """A DeltaNet mixer between its projections, for one token."""

    def __init__(self, mixer: DeltaNet):
        qkv = (mixer.qkv.q_heads, mixer.qkv.k_heads, mixer.qkv.v_heads)
        self.columns = tuple(m.start for m in (*(h.proj for h in qkv), mixer.beta_proj))
        self.beta_scale = 2.0 if mixer.config.allow_neg_eigval else 1.0
        self.convs = nnx.List([h.conv for h in qkv])
        self.norm = mixer.out_norm

    def __call__(
        self, x: Float[Array, "B 1 P"], *, segment_ids: None, state: RecurrentState
    ) -> tuple[Float[Array, "B 1 HV"], RecurrentState]:
        del segment_ids
        step = delta_net_step(
            x[:, 0],
            state.convs,
            tuple(conv.weight[...] for conv in self.convs),
            state=state.memory,
            columns=self.columns,
            beta_scale=self.beta_scale,
            **_norm_options(self.norm),
        )
        return step.output[:, None], RecurrentState(step.tails, step.state)


class MLPLayer(nnx.Module):
    """x -> x + mlp(norm(x)), for one token."""

    def __init__(self, norm: nnx.RMSNorm, mlp: SwiGLU, dtype):
        self.norm = norm
        self.first = Product([mlp.gate_proj.kernel[...], mlp.up_proj.kernel[...]], dtype)
        self.last = Product([mlp.down_proj.kernel[...]], dtype)

    def __call__(self, x: Float[Array, "B 1 D"]) -> Float[Array, "B 1 D"]:
        return self.last(self.first(x, gated=True, **_norm_options(self.norm)), residual=x)


class Layer(nnx.Module):
    """A `Block` of a model, for one token."""

    def __init__(self, block: Block, dtype):
        self.mixer = MixerLayer(block.mixer_norm, block.mixer, dtype)
        self.mlp = None if block.mlp is None else MLPLayer(block.mlp_norm, block.mlp, dtype)

    def __call__(self, x: Float[Array, "B 1 D"], state):
        x, state = self.mixer(x, state)
        return x if self.mlp is None else self.mlp(x), state


class LayerByLayer(nnx.Module):
    """All layers, one after the other; the state is `layer_states` of the model's."""

    def __init__(self, model: LanguageModel):
        dtype = jnp.dtype(model.config.compute_dtype)
        self.layers = nnx.List([Layer(block, dtype) for block in _blocks(model)])

    def __call__(self, x: Float[Array, "B 1 D"], state: tuple):
        new = []
        for layer, old in zip(self.layers, state, strict=True):
            x, layer_state = layer(x, old)
            new.append(layer_state)
        return x, tuple(new)


class AtOnce(nnx.Module):
    """All layers of a DeltaNet for one row in one kernel; the state is `joined_state`'s."""

    def __init__(self, model: LanguageModel):
        dtype = jnp.dtype(model.config.compute_dtype)
        blocks = _blocks(model)
        mixer = blocks[0].mixer
        self.how = layers_plan.plan(
            mixer.config.num_heads, blocks[0].mlp.down_proj.kernel.shape[0], programs()
        )
        self.beta_scale = 2.0 if mixer.config.allow_neg_eigval else 1.0
        self.norm_eps = model.config.norm_eps
        packed = pack_layers([_weights(block, dtype) for block in blocks], self.how)
        self.packed = nnx.Dict({k: nnx.Param(v) for k, v in packed._asdict().items()})

    def __call__(self, x: Float[Array, "B 1 D"], state: LayersState):
        packed = PackedLayers(*(self.packed[name][...] for name in PackedLayers._fields))
        y, state = delta_net_layers(
            x[:, 0],
            packed,
            state,
            how=self.how,
            beta_scale=self.beta_scale,
            norm_eps=self.norm_eps,
        )
        return y[:, None], state


def _blocks(model: LanguageModel) -> list[Block]:
    """Every layer with arrays of its own."""
    blocks = []
    for layer in range(model.config.num_layers):
        graph, weights = nnx.split(model.period[layer % len(model.period)])
        index = layer // len(model.period)
        blocks.append(nnx.merge(graph, jax.tree.map(lambda w, i=index: w[i], weights)))
    return blocks


def _weights(block: Block, dtype) -> LayerWeights:
    mixer, mlp = block.mixer, block.mlp

    def rows(*linears):
        return jnp.concatenate([m.kernel[...].T for m in linears]).astype(dtype)

    qkv = (mixer.qkv.q_heads, mixer.qkv.k_heads, mixer.qkv.v_heads)
    return LayerWeights(
        layers_plan.Weights(
            rows(*(heads.proj for heads in qkv), mixer.beta_proj),
            rows(mixer.out_proj),
            rows(mlp.gate_proj, mlp.up_proj),
            rows(mlp.down_proj),
        ),
        block.mixer_norm.scale[...],
        mixer.out_norm.scale[...],
        block.mlp_norm.scale[...],
        jnp.concatenate([heads.conv.weight[...] for heads in qkv], axis=1),
    )


class Decoder(nnx.Module):
    """A `LanguageModel` for one token of every row.

    Make it with `lay_out`.

    Attributes:
        implementation: a name in IMPLEMENTATIONS.
        batch_size: rows that it takes, or None: any number.
        take_state: (a model's state, num_layers) -> the decoder's.
    """

    def __init__(self, model: LanguageModel, chosen: dispatch.Implementation):
        dtype = jnp.dtype(model.config.compute_dtype)
        self.embedding = nnx.Param(model.embed.embedding[...].astype(dtype))
        self.implementation = chosen.name
        self.layers = chosen.run(model)
        at_once = chosen.run is AtOnce
        self.batch_size = 1 if at_once else None
        self.take_state = joined_state if at_once else layer_states
        self.final_norm = model.final_norm
        self.head = None if model.head is None else Product([model.head.kernel[...]], dtype)

    def features(self, tokens: Int[Array, "B 1"], *, state) -> tuple[Float[Array, "B 1 D"], object]:
        """See `LanguageModel.features`; but the final norm is `logits`'."""
        return self.layers(lookup(self.embedding[...], tokens), state)

    def logits(self, features: Float[Array, "B 1 D"]) -> Float[Array, "B 1 vocab_size"]:
        """See `LanguageModel.logits`."""
        weight = self.embedding[...] if self.head is None else self.head.weight[...]
        return row_product(features[:, 0], weight, **_norm_options(self.final_norm))[:, None]


def layer_states(state: tuple, num_layers: int) -> tuple:
    """A `LanguageModel`'s state as one of each layer, in order."""
    period = len(state)
    return tuple(
        jax.tree.map(lambda x, i=layer // period: x[i], state[layer % period])
        for layer in range(num_layers)
    )


def can_lay_out(config: ModelConfig) -> bool:
    """Whether the kernels of one token know the norms between a model's layers."""
    return config.norm == "rms" and not config.identity_mlp


def joined_state(state: tuple, num_layers: int) -> LayersState:
    """A `LanguageModel`'s state of one row, its layers all DeltaNets, as `AtOnce` takes it."""
    del num_layers  # every layer's arrays lie one after the other
    (state,) = state
    return LayersState(jnp.concatenate(state.convs, axis=-1)[:, 0], state.memory[:, 0])


def _not_at_once(model: LanguageModel, batch_size: int | None) -> str | None:
    config = model.config
    mixer, block = config.layer_pattern[0], model.period[0]
    if batch_size != 1:
        return f"it takes one row, batch_size is {batch_size}"
    if len(config.layer_pattern) > 1 or block.mlp is None or not _is_fused(block.mixer):
        return "it takes DeltaNets with convolutions, SiLU, L2 norm and SwiGLU in every layer"
    key_size, value_size = mixer.head_sizes(config.d_model)
    return unsupported(
        width=config.d_model,
        heads=mixer.num_heads,
        key_size=key_size,
        value_size=value_size,
        hidden=block.mlp.down_proj.kernel.shape[-2],
        taps=mixer.conv_size,
        dtype=config.compute_dtype,
    )


IMPLEMENTATIONS = (  # in order of preference
    dispatch.Implementation("at_once", AtOnce, _not_at_once),
    dispatch.Implementation("layer_by_layer", LayerByLayer, lambda *args: None),
)


def lay_out(
    model: LanguageModel, *, batch_size: int | None = None, implementation: str | None = None
) -> Decoder:
    """The decoder of a model; its weights are copies.

    Args:
        model: without bottleneck, its config one that `can_lay_out`.
        batch_size: of what will be decoded, where it is known; "at_once" takes 1 only.
        implementation: "at_once" (all layers of one row in one kernel: DeltaNets with SwiGLU in 16
            bits, K = V = 128, on Hopper GPUs), "layer_by_layer" (any), or None: the first that can
            run here, said at INFO.
    Raises:
        ValueError: another model; an unknown implementation.
        NotImplementedError: the requested implementation cannot run here; the message says why.
    """
    if model.bottleneck is not None:
        raise ValueError("model: wanted one without bottleneck, which reads whole sequences")
    if not can_lay_out(model.config):
        raise ValueError(
            'model: wanted norm "rms" and no identity_mlp, as the kernels of one token have, got '
            f"{model.config.norm!r} and {model.config.identity_mlp}"
        )
    chosen = dispatch.choose("decoder", IMPLEMENTATIONS, implementation, model, batch_size)
    graphdef, weights = nnx.split(model)

    def make(weights):
        return Decoder(nnx.merge(graphdef, weights), chosen)

    decoder_graph = nnx.split(nnx.eval_shape(make, weights))[0]
    return nnx.merge(decoder_graph, jax.jit(lambda weights: nnx.state(make(weights)))(weights))
