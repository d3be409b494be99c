# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The language model: embedding, residual blocks by a layer pattern, norm, head."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from deltanet_jax.config import SHORT, Config, check_at_least, check_one_of
from deltanet_jax.layers.bottleneck import Bottleneck
from deltanet_jax.layers.embedding import lookup
from deltanet_jax.layers.linear import linear
from deltanet_jax.layers.mlp import SwiGLU, default_hidden_size
from deltanet_jax.layers.norm import STREAM_NORMS
from deltanet_jax.mixers.base import ARGUMENTS, READ_OUT, Context, MixerConfig
from deltanet_jax.mixers.registry import make_mixer
from pallas_kernels._common.checks import check_integer_dtype, check_rank
from pallas_kernels._common.names import RESIDUALS

DTYPES = ("float32", "bfloat16", "float16", "float64")

_policies = jax.checkpoint_policies


def _products_and(*names: str):
    return _policies.save_from_both_policies(
        _policies.dots_with_no_batch_dims_saveable, _policies.save_only_these_names(*names)
    )


REMAT_POLICIES = {
    "none": _policies.everything_saveable,
    "products": _products_and(READ_OUT, RESIDUALS),
    "arguments": _products_and(READ_OUT, RESIDUALS, ARGUMENTS),
    "full": _policies.nothing_saveable,
}


@dataclasses.dataclass(frozen=True)
class ModelConfig(Config):
    """A language model.

    Attributes:
        vocab_size: token ids 0 .. vocab_size - 1.
        d_model: width of the residual stream.
        num_layers: residual blocks, a multiple of the pattern's length.
        layer_pattern: the mixers of one period, tiled over depth.
        mlp_hidden_size: width of the SwiGLU layers; None is 8/3 d_model rounded up to a multiple
            of 256; 0 leaves the SwiGLU layers out.
        identity_mlp: with mlp_hidden_size 0, what stands in the place of SwiGLU is the identity and
            not nothing: a block goes on with x + norm(x), as Zoology's do (arXiv:2312.04927).
        tie_embeddings: the head is the transposed embedding.
        bottleneck: predictions see the last position's vector alone (an auto-encoder; no decoding).
        embed_dropout: probability of dropping an embedded feature in training.
        norm: of the residual stream, before mixers, SwiGLU and head: "rms" or, with a bias,
            "layer". Norms inside mixers are RMSNorms.
        norm_eps: epsilon of every norm.
        init_std: standard deviation of initial weights; maps back into the residual stream start
            at init_std / sqrt(2 num_layers).
        param_dtype, compute_dtype: of stored weights and of activations.
        remat: what a layer keeps for its backward pass. "none": everything; "products": matrix
            products, the mixers' read-outs and what operators keep, the rest is computed again;
            "arguments": also the operators' arguments; "full": its input.
        scan_unroll: periods laid out one after another in each step of the scan over depth. All of
            them (num_layers / len(layer_pattern)) is the fastest: what layers keep is not copied to
            and from arrays of all layers. Program and compile time grow with it.
    """

    vocab_size: int
    d_model: int
    num_layers: int
    layer_pattern: tuple[MixerConfig, ...]
    mlp_hidden_size: int | None = None
    identity_mlp: bool = False
    tie_embeddings: bool = False
    bottleneck: bool = False
    embed_dropout: float = 0.0
    norm: str = "rms"
    norm_eps: float = 1e-6
    init_std: float = 0.02
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
    remat: str = "none"
    scan_unroll: int = 1

    def __post_init__(self):
        for name in ("vocab_size", "d_model", "num_layers"):
            check_at_least(self, name, 1)
        pattern = self.layer_pattern
        if (
            not (isinstance(pattern, tuple) and pattern)  # a list could not be hashed
            or not all(isinstance(mixer, MixerConfig) for mixer in pattern)
        ):
            raise ValueError(
                "layer_pattern: wanted a tuple of mixers' configs, at least one, "
                f"got {SHORT.repr(pattern)}"
            )
        if self.num_layers % len(self.layer_pattern):
            raise ValueError(
                f"num_layers: wanted a multiple of the layer_pattern's {len(self.layer_pattern)} "
                f"entries, got {self.num_layers}"
            )
        check_at_least(self, "mlp_hidden_size", 0)
        if self.identity_mlp and self.mlp_hidden_size != 0:
            raise ValueError(
                "identity_mlp: wanted mlp_hidden_size 0 with it, as it takes the SwiGLU layers' "
                f"place, got {self.mlp_hidden_size}"
            )
        if not 0 <= self.embed_dropout < 1:
            raise ValueError(f"embed_dropout: wanted [0, 1), got {self.embed_dropout}")
        check_one_of(self, "norm", tuple(STREAM_NORMS))
        check_at_least(self, "norm_eps", 0)
        check_at_least(self, "init_std", 0)
        check_at_least(self, "scan_unroll", 1)
        check_one_of(self, "param_dtype", DTYPES)
        check_one_of(self, "compute_dtype", DTYPES)
        check_one_of(self, "remat", tuple(REMAT_POLICIES))


class Block(nnx.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)) or x + norm(x) or neither."""

    def __init__(self, config: ModelConfig, mixer: MixerConfig, *, rngs: nnx.Rngs):
        out_init_std = config.init_std / (2 * config.num_layers) ** 0.5
        context = Context(
            d_model=config.d_model,
            init_std=config.init_std,
            out_init_std=out_init_std,
            norm_eps=config.norm_eps,
            dtype=jnp.dtype(config.compute_dtype),
            param_dtype=jnp.dtype(config.param_dtype),
        )
        kinds = {**context.kinds(), "rngs": rngs}
        hidden = config.mlp_hidden_size
        hidden = default_hidden_size(config.d_model) if hidden is None else hidden
        norm = functools.partial(
            STREAM_NORMS[config.norm], config.d_model, eps=config.norm_eps, **kinds
        )
        self.mixer_norm = norm()
        self.mixer = make_mixer(mixer, context, rngs=rngs)
        self.mlp_norm = norm() if hidden or config.identity_mlp else None
        self.mlp = (
            SwiGLU(
                config.d_model,
                hidden,
                init_std=config.init_std,
                out_init_std=out_init_std,
                **kinds,
            )
            if hidden
            else None
        )

    def __call__(self, x: Float[Array, "B T D"], *, segment_ids, state):
        y, state = self.mixer(self.mixer_norm(x), segment_ids=segment_ids, state=state)
        x = x + y
        if self.mlp_norm is not None:
            y = self.mlp_norm(x)
            x = x + (y if self.mlp is None else self.mlp(y))
        return x, state


class LanguageModel(nnx.Module):
    """Token ids to logits.

    `period` holds one block per entry of the layer pattern; the weights of each carry a leading
    axis of num_layers / len(layer_pattern) repetitions, and a scan runs over it. So compile time
    does not grow with depth, and layer l is block l % P at repetition l // P.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        dtype, param_dtype = jnp.dtype(config.compute_dtype), jnp.dtype(config.param_dtype)
        kinds = {"dtype": dtype, "param_dtype": param_dtype, "rngs": rngs}
        self.embed = nnx.Embed(
            config.vocab_size,
            config.d_model,
            embedding_init=nnx.initializers.normal(config.init_std),
            **kinds,
        )
        self.repeats = config.num_layers // len(config.layer_pattern)

        def stacked(mixer: MixerConfig) -> Block:
            @nnx.split_rngs(splits=self.repeats)
            @nnx.vmap
            def make(rngs: nnx.Rngs) -> Block:
                return Block(config, mixer, rngs=rngs)

            return make(rngs)

        self.period = nnx.List([stacked(mixer) for mixer in config.layer_pattern])
        self.bottleneck = (
            Bottleneck(config.d_model, init_std=config.init_std, norm_eps=config.norm_eps, **kinds)
            if config.bottleneck
            else None
        )
        self.final_norm = STREAM_NORMS[config.norm](config.d_model, eps=config.norm_eps, **kinds)
        self.head = (
            None
            if config.tie_embeddings
            else linear(config.d_model, config.vocab_size, init_std=config.init_std, **kinds)
        )

    def init_state(self, batch_size: int, max_length: int) -> tuple:
        """Decoding states of all layers, for up to `max_length` tokens a row in all."""

        def repeated(mixer):
            one = mixer.init_state(batch_size, max_length)
            return jax.tree.map(lambda x: jnp.broadcast_to(x, (self.repeats, *x.shape)), one)

        return tuple(repeated(block.mixer) for block in self.period)

    def features(
        self,
        tokens: Int[Array, "B T"],
        *,
        segment_ids: Int[Array, "B T"] | None = None,
        state: tuple | None = None,
        dropout_key: jax.Array | None = None,
    ) -> tuple[Float[Array, "B T D"], tuple | None]:
        """Everything but the head: the final hidden vectors and the new state.

        Raises ValueError for tokens that are not [B, T], TypeError for tokens that are no integers.
        """
        check_rank("tokens", tokens, "B T")
        check_integer_dtype("tokens", tokens)
        if self.bottleneck is not None and state is not None:
            raise ValueError("state: wanted None, as a model with bottleneck reads whole sequences")
        dtype = self.config.compute_dtype
        x = lookup(self.embed.embedding[...].astype(dtype), tokens)
        if dropout_key is not None and self.config.embed_dropout > 0:
            keep = 1 - self.config.embed_dropout
            x = jnp.where(jax.random.bernoulli(dropout_key, keep, x.shape), x / keep, 0)
            x = x.astype(dtype)
        graphs, weights = zip(*(nnx.split(block) for block in self.period), strict=True)
        unroll = min(self.config.scan_unroll, self.repeats)

        def layer(graph, x, weights, state):
            return nnx.merge(graph, weights)(x, segment_ids=segment_ids, state=state)

        if self.config.remat != "none":
            # A loop over single layers already keeps XLA from merging the two computations of each,
            # and from computing several again before the first is needed.
            layer = jax.checkpoint(
                layer,
                policy=REMAT_POLICIES[self.config.remat],
                prevent_cse=unroll > 1 or self.repeats == 1,
                static_argnums=0,
            )

        def period(x, inputs):
            weights, states = inputs
            new_states = []
            for i, graph in enumerate(graphs):
                x, new = layer(graph, x, weights[i], None if states is None else states[i])
                new_states.append(new)
            return x, None if states is None else tuple(new_states)

        x, state = jax.lax.scan(period, x, (weights, state), unroll=unroll)
        if self.bottleneck is not None:
            x = self.bottleneck(x)
        return self.final_norm(x), state

    def head_kernel(self) -> Float[Array, "D vocab_size"]:
        """The head's weights, in the parameters' dtype."""
        return self.embed.embedding[...].T if self.head is None else self.head.kernel[...]

    def logits(self, features: Float[Array, "B T D"]) -> Float[Array, "B T vocab_size"]:
        """The head: features to logits in the compute dtype."""
        return self.embed.attend(features) if self.head is None else self.head(features)

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        *,
        segment_ids: Int[Array, "B T"] | None = None,
        state: tuple | None = None,
        dropout_key: jax.Array | None = None,
    ) -> tuple[Float[Array, "B T vocab_size"], tuple | None]:
        """Logits of the next token at every position, and the new state.

        Args:
            tokens: [B, T] ids.
            segment_ids: [B, T]; a change of id is a boundary that nothing crosses.
            state: from `init_state` or an earlier call, to continue there; None in training.
            dropout_key: switches embedding dropout on; None in evaluation.
        Returns:
            (logits [B, T, vocab_size], new state or None).
        Raises:
            ValueError, TypeError: as `features`.
        """
        x, state = self.features(
            tokens, segment_ids=segment_ids, state=state, dropout_key=dropout_key
        )
        return self.logits(x), state


def count_parameters(model: nnx.Module) -> int:
    """Numbers in all weights of `model`, which may be abstract (`nnx.eval_shape`)."""
    return sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
