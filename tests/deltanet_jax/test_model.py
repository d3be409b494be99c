# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The language model: sizes, patterns, scan over the period, decoding."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deltanet_jax.model import REMAT_POLICIES, LanguageModel, count_parameters
from deltanet_jax.presets import deltanet_1b3, deltanet_340m, main_table
from deltanet_jax.train.memory import kept_bytes
from tests.helpers.compare import assert_close
from tests.helpers.models import MIXERS, random_tokens, small_config, small_model

HYBRID = (MIXERS["delta_net"], MIXERS["attention-window"], MIXERS["linear_attention-options"])


# Compiled once for each shape; called eagerly, every operation of a model would be a program.
@nnx.jit
def logits_of(model, tokens):
    return model(tokens)[0]


@nnx.jit
def decode(model, tokens, state):
    return model(tokens, state=state)


@nnx.jit
def mix(mixer, x):
    return mixer(x)[0]


@pytest.mark.parametrize(
    ("preset", "parameters"), [(deltanet_340m, 341_594_112), (deltanet_1b3, 1_365_677_056)]
)
def test_presets_have_the_published_number_of_parameters(preset, parameters):
    model = nnx.eval_shape(lambda: LanguageModel(preset(), rngs=nnx.Rngs(0)))
    assert count_parameters(model) == parameters


SIZES = {340: deltanet_340m, 1300: deltanet_1b3}


def parameters(config):
    return count_parameters(nnx.eval_shape(lambda: LanguageModel(config, rngs=nnx.Rngs(0))))


@pytest.mark.parametrize("size", [340, pytest.param(1300, marks=pytest.mark.slow)])
def test_the_main_tables_models_are_of_one_size(size):
    """Mamba at 340M is the furthest off, by 3.3 %."""
    base = SIZES[size]()
    wanted = parameters(base)
    for name, config in main_table(base).items():
        assert parameters(config) == pytest.approx(wanted, rel=0.04), name
        assert config.d_model == base.d_model and config.compute_dtype == "bfloat16"


@pytest.mark.parametrize(("size", "published"), [(340, 371_516_416), (1300, 1_372_178_432)])
def test_mamba_has_the_published_number_of_parameters(size, published):
    """With the vocabulary and the tied head of the published mamba-370m and mamba-1.4b."""
    mamba = main_table(SIZES[size]())["mamba"]
    assert parameters(mamba.replace(vocab_size=50_280, tie_embeddings=True)) == published


def test_hybrids_have_attention_where_the_papers_put_it():
    table = main_table(deltanet_340m())
    kinds = {name: [m.kind for m in config.layer_pattern] for name, config in table.items()}
    places = [i + 1 for i, kind in enumerate(kinds["deltanet_global"]) if kind == "attention"]
    assert places == [2, 13] and len(kinds["deltanet_global"]) == 24
    assert kinds["deltanet_swa"] == ["delta_net", "attention"]
    assert kinds["gated_deltanet_attention"] == ["gated_delta_net"] * 3 + ["attention"]


@pytest.mark.parametrize(
    ("name", "size", "state"),
    [("retnet", 340, 512), ("retnet", 1300, 512), ("gla", 340, 128), ("gla", 1300, 256)]
    + [("mamba", 340, 32), ("mamba", 1300, 32), ("deltanet", 340, 128), ("deltanet", 1300, 128)],
)
def test_states_are_as_large_as_the_paper_says(name, size, state):
    """Numbers of a layer's state a feature; the paper counts two layers of Mamba as one: 64."""
    config = main_table(SIZES[size]())[name]
    (mixer,) = config.layer_pattern
    if name == "mamba":
        numbers = mixer.expand * config.d_model * mixer.state_size
    else:
        k, v = mixer.head_sizes(config.d_model)
        numbers = mixer.num_heads * k * v
    assert numbers == state * config.d_model


def test_scan_over_the_period_equals_the_layers_one_by_one():
    model = small_model(*HYBRID, num_layers=6)
    tokens = random_tokens()
    run = nnx.jit(lambda block, x: block(x, segment_ids=None, state=None)[0])
    x = model.embed(tokens)
    for layer in range(6):
        graph, weights = nnx.split(model.period[layer % 3])
        block = nnx.merge(graph, jax.tree.map(lambda w, i=layer // 3: w[i], weights))
        x = run(block, x)
    wanted = model.head(model.final_norm(x))
    assert_close("logits", logits_of(model, tokens), wanted, 1e-5)


def test_depth_does_not_grow_the_program():
    def lines(num_layers):
        config = small_config(num_layers=num_layers)
        model = nnx.eval_shape(lambda: LanguageModel(config, rngs=nnx.Rngs(0)))
        graph, weights = nnx.split(model)
        lowered = jax.jit(lambda w, t: nnx.merge(graph, w)(t)[0]).lower(weights, random_tokens())
        return len(lowered.as_text().splitlines())

    assert lines(24) == lines(2)


def test_decoding_equals_the_parallel_form():
    model = small_model(*HYBRID, num_layers=3)
    tokens = random_tokens(length=12)
    state = model.init_state(2, 12)
    first, state = decode(model, tokens[:, :8], state)
    pieces = [first]
    for t in range(8, 12):
        logits, state = decode(model, tokens[:, t : t + 1], state)
        pieces.append(logits)
    wanted = logits_of(model, tokens)
    assert_close("logits", jnp.concatenate(pieces, axis=1), wanted, 1e-5)


@pytest.mark.parametrize("name", MIXERS)
def test_every_mixers_state_passes_through_a_model(name):
    """Through prompt, token and layers, of the same shapes; two layers a mixer."""
    config = small_config(MIXERS[name])

    def decode_twice():
        model = LanguageModel(config, rngs=nnx.Rngs(0))
        states = [model.init_state(2, 12)]
        for tokens in (random_tokens(length=7), random_tokens(length=1)):
            states.append(model.features(tokens, state=states[-1])[1])
        return states

    first, *others = jax.eval_shape(decode_twice)
    assert others == [first, first]


def test_the_recurrent_state_does_not_grow():
    model = small_model()
    short, long = (jax.eval_shape(lambda n=n: model.init_state(1, n)) for n in (10, 10_000))
    assert jax.tree.map(lambda x: x.shape, short) == jax.tree.map(lambda x: x.shape, long)


def test_tied_embeddings_have_no_head():
    model = small_model(tie_embeddings=True)
    assert model.head is None
    x, _ = model.features(random_tokens())
    wanted = x @ model.embed.embedding[...].T
    assert_close("logits", model.logits(x), wanted, 1e-6)


def zoologys_features(model, tokens, second_norm=True, bias=True):
    """Zoology's backbone token by token in float64: the residual goes beside what a block returns,
    and the next block adds the two; with the identity as state mixer that is a norm of it."""

    def norm(layer, x):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + layer.epsilon)
        return scaled * np.asarray(layer.scale) + (np.asarray(layer.bias) if bias else 0)

    residual, hidden = 0.0, np.asarray(model.embed.embedding[...], np.float64)[tokens]
    for layer in range(model.config.num_layers):
        graph, weights = nnx.split(model.period[0])
        block = nnx.merge(graph, jax.tree.map(lambda w, i=layer: w[i], weights))
        residual = residual + hidden
        mixed = mix(block.mixer, norm(block.mixer_norm, residual))
        residual = residual + np.asarray(mixed)
        hidden = norm(block.mlp_norm, residual) if second_norm else 0.0
    return norm(model.final_norm, residual + hidden)


def test_layer_norm_and_identity_mlp_are_zoologys_blocks(x64):
    kinds = {"compute_dtype": "float64", "param_dtype": "float64", "norm": "layer"}
    model = small_model(mlp_hidden_size=0, identity_mlp=True, **kinds)
    for layer in (model.period[0].mixer_norm, model.period[0].mlp_norm, model.final_norm):
        layer.bias[...] = 0.3 * jax.random.normal(jax.random.key(2), layer.bias.shape)
    tokens = random_tokens(length=9)
    ours = nnx.jit(lambda model, tokens: model.features(tokens)[0])(model, tokens)
    assert_close("features", ours, zoologys_features(model, tokens), 1e-10)
    for wrong in ({"second_norm": False}, {"bias": False}):
        with pytest.raises(AssertionError):
            assert_close("features", ours, zoologys_features(model, tokens, **wrong), 1e-2)


def test_dropout_needs_a_key_and_changes_the_output():
    model = small_model(embed_dropout=0.5)
    tokens = random_tokens()
    dry = model(tokens)[0]
    wet = model(tokens, dropout_key=jax.random.key(0))[0]
    assert (dry != wet).any()
    assert (dry == small_model()(tokens)[0]).all()


def test_compute_dtype_reaches_the_logits():
    logits, _ = small_model(compute_dtype="bfloat16")(random_tokens())
    assert logits.dtype == jnp.bfloat16


@pytest.mark.slow
def test_float64_decodes_in_float64(x64):
    model = small_model(*HYBRID, num_layers=3, compute_dtype="float64", param_dtype="float64")
    tokens = random_tokens(length=6)
    state = model.init_state(2, 6)
    _, state = decode(model, tokens[:, :5], state)
    logits, _ = decode(model, tokens[:, 5:], state)
    assert logits.dtype == jnp.float64
    assert_close("logits", logits, logits_of(model, tokens)[:, 5:], 1e-6)


def test_rematerialisation_keeps_less():
    kept = {remat: kept_bytes(small_config(remat=remat), 2, 64) for remat in REMAT_POLICIES}
    assert kept["full"] < 0.5 * kept["products"] < 0.25 * kept["none"]
    assert kept["products"] < kept["arguments"] < kept["none"]


def test_kernels_keep_for_every_step_of_a_token_and_nothing_where_there_are_none():
    delta_net = MIXERS["delta_net"].replace(residuals="save")
    product = MIXERS["delta_product"].replace(num_householder=3, residuals="save")
    kept = delta_net.kernel_residual_bytes(16, 2, 3 * 64, False)
    assert kept > 0 and product.kernel_residual_bytes(16, 2, 64, False) == kept
    gated = MIXERS["gated_delta_net"].replace(residuals="save")
    assert gated.kernel_residual_bytes(16, 2, 64, False) > 0
    assert gated.replace(head_k_dim=192).kernel_residual_bytes(16, 2, 64, False) == 0
    assert MIXERS["kda"].kernel_residual_bytes(16, 2, 64, False) == 0


@pytest.mark.parametrize(
    ("remat", "unroll"),
    [pytest.param("products", 1, marks=pytest.mark.slow), ("full", 1), ("products", 9)],
)
def test_rematerialisation_and_unrolling_change_nothing(remat, unroll):
    tokens = random_tokens(length=9)

    @jax.jit(static_argnums=0)
    def gradient(graph, weights):
        def loss(weights):
            return jnp.mean(nnx.merge(graph, weights)(tokens)[0] ** 2)

        return jax.grad(loss)(weights)

    mixer = MIXERS["linear_attention"]
    ours, wanted = (
        jax.tree.leaves(gradient(*nnx.split(small_model(mixer, **options))))
        for options in ({"remat": remat, "scan_unroll": unroll}, {})
    )
    for a, b in zip(ours, wanted, strict=True):
        assert_close("gradient", a, b, 1e-6)


def test_layers_laid_out_are_computed_again_one_at_a_time():
    """Memory with full rematerialisation, layers laid out in fours, one by one and all at once."""

    def temporary_bytes(unroll):
        options = {"num_layers": 6, "mlp_hidden_size": 512, "remat": "full", "scan_unroll": unroll}
        model = small_model(MIXERS["rwkv4_channel_mix"], **options)
        graph, weights = nnx.split(model)

        def loss(weights):
            return jnp.mean(nnx.merge(graph, weights).features(random_tokens(length=64))[0] ** 2)

        return jax.jit(jax.grad(loss)).lower(weights).compile().memory_analysis().temp_size_in_bytes

    one, some, every = (temporary_bytes(unroll) for unroll in (1, 4, 6))
    assert some < 1.3 * max(one, every)


def test_a_bottleneck_reads_whole_sequences():
    model = small_model(MIXERS["attention"], bottleneck=True)
    with pytest.raises(ValueError, match="^state: wanted None, as a model with bottleneck"):
        model(random_tokens(), state=model.init_state(2, 37))


@pytest.mark.parametrize(
    ("shape", "dtype", "error", "message"),
    [
        ((8,), jnp.int32, ValueError, r"^tokens: wanted 2 axes \[B, T\], got shape \(8,\)"),
        ((1, 8), jnp.float32, TypeError, "^tokens: wanted an integer dtype, got float32"),
    ],
)
def test_what_is_no_tokens_is_refused_by_name(shape, dtype, error, message):
    features = inspect.unwrap(LanguageModel.features)  # without what checks types in tests
    with pytest.raises(error, match=message):
        features(nnx.eval_shape(small_model), jnp.zeros(shape, dtype))
