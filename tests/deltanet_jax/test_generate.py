# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Generation: ragged prompts, decoding against the parallel form, sampling, caches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from deltanet_jax import decoder as decoder_module
from deltanet_jax.decoder import lay_out, layer_states
from deltanet_jax.generate import _checked, bucket, generate, pad_left, stream
from deltanet_jax.mixers.delta_net import DeltaNetConfig
from deltanet_jax.sampling import Sampling, keep_likely, sample
from tests.helpers import mosaic_interpreter
from tests.helpers.compare import assert_close, rms_ratio
from tests.helpers.models import MIXERS, random_tokens, small_model

GREEDY = Sampling(temperature=0.0)
# The paper's model and its two hybrids.
DELTA_NET, WINDOW, GLOBAL = (MIXERS[k] for k in ("delta_net", "attention-window", "attention"))
PATTERNS = {
    "delta_net": (DELTA_NET,),
    "window": (DELTA_NET, WINDOW),
    "global": (DELTA_NET, GLOBAL),
    "both": (DELTA_NET, WINDOW, GLOBAL),
}
EVERY_STATE = (DELTA_NET, WINDOW, GLOBAL, MIXERS["retnet"])
LENGTH, AFTER = 16, 64
PROMPTS = [[3, 1, 4], [1, 5, 9, 2, 6, 5, 3], list(range(LENGTH)), [7]]


@functools.cache
def model_of(*mixers):
    # Smaller weights than other tests': over hundreds of tokens the comparison is of algorithms,
    # not of how a deep chaotic map spreads rounding errors.
    return small_model(*mixers, num_layers=max(2, len(mixers)), init_std=0.2)


@nnx.jit
def parallel(model, tokens):
    return model(tokens)[0]


@functools.partial(nnx.jit, static_argnums=2)
def step_by_step(model, tokens, prompt: int):
    """Logits at every position: `prompt` tokens in parallel, then one by one."""
    state = model.init_state(tokens.shape[0], tokens.shape[1])
    features, state = model.features(tokens[:, :prompt], state=state)

    def token(state, one):
        features, state = model.features(one[:, None], state=state)
        return state, features[:, 0]

    _, rest = jax.lax.scan(token, state, tokens[:, prompt:].T)
    return model.logits(jnp.concatenate([features, jnp.moveaxis(rest, 0, 1)], axis=1))


@pytest.mark.slow
@pytest.mark.parametrize("name", PATTERNS)
def test_2000_tokens_one_by_one_equal_the_parallel_form(name):
    model, tokens = model_of(*PATTERNS[name]), random_tokens(batch=1, length=2000)
    assert_close(name, step_by_step(model, tokens, 37), parallel(model, tokens), 1e-5)


@pytest.mark.slow
def test_each_row_equals_its_own_generation():
    model = model_of(*EVERY_STATE)
    keys = jax.vmap(jax.random.key)(jnp.arange(len(PROMPTS)))
    sampling = Sampling(temperature=1.5, top_k=20, top_p=0.9)
    together = generate(model, PROMPTS, 12, key=keys, sampling=sampling)
    for row, prompt in enumerate(PROMPTS):
        alone = generate(model, [prompt], 12, key=keys[row : row + 1], sampling=sampling)
        assert (together[row] == alone[0]).all(), f"row {row}"


@pytest.mark.parametrize("name", ["window", pytest.param("both", marks=pytest.mark.slow)])
def test_padded_prompts_and_the_tokens_after_them_equal_the_parallel_form(name):
    """Each row alone and unpadded, whatever its state; padding read as text is seen to be wrong."""
    model = model_of(*PATTERNS[name])
    tokens, segment_ids = pad_left(PROMPTS, LENGTH)
    following = random_tokens(batch=len(PROMPTS), length=AFTER)

    @nnx.jit
    def logits_from(model, segment_ids):
        state = model.init_state(len(PROMPTS), LENGTH + AFTER)
        features, state = model.features(jnp.asarray(tokens), segment_ids=segment_ids, state=state)

        def token(state, one):
            features, state = model.features(one[:, None], state=state)
            return state, features[:, 0]

        _, rest = jax.lax.scan(token, state, following.T)
        features = jnp.concatenate([features[:, -1:], jnp.moveaxis(rest, 0, 1)], axis=1)
        return model.logits(features)

    got = logits_from(model, jnp.asarray(segment_ids))
    as_text = logits_from(model, jnp.ones_like(segment_ids))
    # Models are causal: what stands to the right of a row is not seen.
    rows = [[*p, *f] for p, f in zip(PROMPTS, following.tolist(), strict=True)]
    logits = parallel(model, jnp.array([row + [0] * (LENGTH + AFTER - len(row)) for row in rows]))
    for row, prompt in enumerate(PROMPTS):
        wanted = logits[row, len(prompt) - 1 : len(prompt) + AFTER]
        assert_close(f"row {row}", got[row], wanted, 1e-5)
        assert len(prompt) == LENGTH or rms_ratio(as_text[row], wanted) > 1e-3


def test_greedy_generation_takes_the_best_token_of_the_parallel_form():
    model = model_of(DELTA_NET, WINDOW)
    got = generate(model, PROMPTS, 20, key=jax.random.key(0), sampling=GREEDY)
    rows = [[*p, *g] for p, g in zip(PROMPTS, got.tolist(), strict=True)]
    tokens = jnp.array([row + [0] * (LENGTH + 20 - len(row)) for row in rows])
    best = np.asarray(jnp.argmax(parallel(model, tokens), axis=-1))
    for row, prompt in enumerate(PROMPTS):
        assert (got[row] == best[row, len(prompt) - 1 : len(prompt) + 19]).all(), f"row {row}"


def test_samples_repeat_with_their_key_and_come_in_chunks():
    model, prompt = model_of(DELTA_NET), random_tokens(length=5)
    first, *chunks = stream(model, prompt, 10, key=jax.random.key(1), chunk=4)
    assert first.shape == (2, 1) and [c.shape for c in chunks] == [(2, 4), (2, 4), (2, 1)]
    samples = [
        np.concatenate(list(stream(model, prompt, 10, key=jax.random.key(k), chunk=4)), axis=1)
        for k in (1, 2)
    ]
    assert (np.concatenate([first, *chunks], axis=1) == samples[0]).all()
    assert (samples[0] != samples[1]).any()
    assert samples[0].dtype == np.int32


def test_a_windows_cache_is_bounded_by_the_window():
    model = model_of(DELTA_NET, WINDOW)
    states = [jax.eval_shape(lambda n=n: model.init_state(1, n)) for n in (100, 100_000)]
    sizes = [[x.shape for x in jax.tree.leaves(state)] for state in states]
    assert sizes[0] == sizes[1]
    assert (1, 1, WINDOW.window, 2, 8) in sizes[0]


def likely_by_definition(logits, sampling):
    """The set of tokens that may be drawn, one row, by sorting."""
    p = np.exp(logits / sampling.temperature - np.max(logits / sampling.temperature))
    order = np.argsort(-p)[: sampling.top_k or len(p)]
    p = p[order] / p[order].sum()
    count = 1 + int(np.sum(np.cumsum(p) < sampling.top_p))
    return set(order[:count].tolist())


@pytest.mark.parametrize(
    "options",
    [{"top_k": 3}, {"top_p": 0.6}, {"top_k": 10, "top_p": 0.8, "temperature": 2.0}, {}],
)
def test_top_k_and_top_p_keep_what_their_definitions_say(options):
    sampling = Sampling(**options)
    logits = 3 * jax.random.normal(jax.random.key(0), (8, 40))
    kept = np.isfinite(np.asarray(keep_likely(logits, sampling)))
    for row in range(8):
        wanted = likely_by_definition(np.asarray(logits[row], np.float64), sampling)
        assert set(np.flatnonzero(kept[row]).tolist()) == wanted
        assert len(wanted) == 40 if not options else len(wanted) < 40


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_k": 3, "top_p": 0.5}])
@pytest.mark.parametrize("temperature", [1e-38, 1e-46])
def test_a_tiny_temperature_takes_the_most_likely_token(temperature, options):
    """Logits over it overflow, and float32 has no number so small as the last."""
    logits = jnp.array([[1.0, 4.9, 5.0, -jnp.inf], [-3.0, -2.0, -1.0, -2.5]])
    keys = jax.random.split(jax.random.key(0), 2)
    assert sample(logits, keys, Sampling(temperature=temperature, **options)).tolist() == [2, 2]


def test_samples_have_the_softmaxs_frequencies():
    logits = jnp.array([[0.0, 1.0, 2.0, -1.0]])
    count = 4000
    keys = jax.random.split(jax.random.key(0), count)
    drawn = sample(jnp.repeat(logits, count, axis=0), keys, Sampling(temperature=0.7))
    frequencies = np.bincount(np.asarray(drawn), minlength=4) / count
    assert np.abs(frequencies - np.asarray(jax.nn.softmax(logits[0] / 0.7))).max() < 0.03


def test_buckets_are_few_and_pad_by_half_at_most():
    sizes = [bucket(n) for n in range(1, 5000)]
    assert all(n <= size < max(1.5 * n + 1, 17) for n, size in enumerate(sizes, start=1))
    assert len(set(sizes)) < 20 and bucket(96) == 96


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": jnp.zeros((1, 0), jnp.int32)}, "prompts: wanted"),
        ({"prompts": np.zeros((0, 3), np.int32)}, r"prompts: wanted \[B, T\] with B, T >= 1, got"),
        ({"prompts": [[1], []]}, r"prompts: wanted at least one token in each row, got \[1, 0\]"),
        ({"prompts": []}, "prompts: wanted at least one token in each row, got"),
        ({"prompts": [[1, 2], [3, 32]]}, "^prompts: wanted ids in 0 .. 31, got 32"),
        ({"prompts": [[1, 2], [-1]]}, "^prompts: wanted ids in 0 .. 31, got -1"),
        ({"prompts": np.full((1, 2), 32)}, "^prompts: wanted ids in 0 .. 31, got 32"),
        ({"num_tokens": 0}, "num_tokens: wanted an integer >= 1, got 0"),
        ({"num_tokens": 2.0}, "num_tokens: wanted an integer >= 1, got 2.0"),
        ({"key": 0}, "^key: wanted jax.random.key's, got 0"),
        ({"key": jax.random.PRNGKey(0)}, "^key: wanted jax.random.key's, got"),
        ({"key": jax.random.split(jax.random.key(0), 3)}, "key: wanted one, or one for each of 2"),
    ],
)
def test_generate_refuses(no_jaxtyping, changes, message):
    args = {"prompts": random_tokens(), "num_tokens": 1, "key": jax.random.key(0)} | changes
    with pytest.raises(ValueError, match=message):
        generate(model_of(DELTA_NET), **args)


def test_prompts_may_be_numpys():
    prompts = random_tokens()
    numpys, jaxs, lists = (
        _checked(p, 32) for p in (np.asarray(prompts), prompts, prompts.tolist())
    )
    assert numpys == jaxs == lists


@pytest.mark.parametrize("prompts", [[1, 2], "ab", ["ab"], [[1.0]], [[[1]]]])
def test_prompts_are_rows_of_ids(prompts):
    with pytest.raises(ValueError, match="^prompts: wanted integers, a list of them for each row"):
        _checked(prompts, 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature: wanted at least 0, got -1.0"),
        ({"temperature": float("nan")}, "temperature: wanted at least 0, got nan"),
        ({"temperature": float("inf")}, "temperature: wanted a finite number, got inf"),
        ({"top_k": -1}, "top_k: wanted at least 0, got -1"),
        ({"top_p": 0.0}, "top_p: wanted more than 0, at most 1, got 0.0"),
    ],
)
def test_sampling_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**options)


def test_a_model_with_bottleneck_is_refused():
    model = small_model(GLOBAL, bottleneck=True)
    with pytest.raises(ValueError, match="^model: wanted one without bottleneck"):
        generate(model, random_tokens(), 1, key=jax.random.key(0))


@pytest.mark.parametrize(
    ("mixers", "batch"),
    [
        ((DELTA_NET.replace(allow_neg_eigval=True),), 1),
        *(
            pytest.param((*MIXERS.values(), DELTA_NET), batch, marks=pytest.mark.slow)
            for batch in (1, 3)
        ),
    ],
    ids=("some", "all", "all-rows"),
)
def test_a_decoder_is_its_model(mixers, batch):
    """Logits of a single token of each row."""
    model = small_model(*mixers, num_layers=2 * len(mixers), init_std=0.2)
    decoder = lay_out(model)

    @nnx.jit
    def both(model, decoder, tokens):
        state = model.init_state(tokens.shape[0], 12)
        _, state = model.features(tokens[:, :-1], state=state)
        by_layer = layer_states(state, model.config.num_layers)
        features, _ = model.features(tokens[:, -1:], state=state)
        ours, _ = decoder.features(tokens[:, -1:], state=by_layer)
        return decoder.logits(ours), model.logits(features)

    assert_close("logits", *both(model, decoder, random_tokens(batch, 7)), 1e-5)


@pytest.mark.parametrize("options", [{"norm": "layer"}, {"identity_mlp": True}])
def test_no_decoder_of_norms_that_its_kernels_do_not_know(options):
    model = nnx.eval_shape(lambda: small_model(mlp_hidden_size=0, **options))
    with pytest.raises(ValueError, match="^model: wanted norm .rms. and no identity_mlp"):
        lay_out(model)


def test_all_layers_at_once_are_their_model(monkeypatch):
    """Logits of tokens one by one, the kernel interpreted, against the parallel form."""
    mixer = DeltaNetConfig(num_heads=2, chunk_size=16, allow_neg_eigval=True)
    options = {"d_model": 256, "num_layers": 1, "mlp_hidden_size": 256, "init_std": 0.1}
    model, tokens, prompt = small_model(mixer, **options), random_tokens(1, 7), 5
    monkeypatch.setattr(decoder_module, "unsupported", lambda **sizes: None)
    monkeypatch.setattr(decoder_module, "programs", lambda: 2)
    decoder = lay_out(model, batch_size=1)
    assert decoder.implementation == "at_once"

    @functools.partial(jax.jit, static_argnums=0)
    def one(graphdef, weights, token, state):
        decoder = nnx.merge(graphdef, weights)
        features, state = decoder.features(token, state=state)
        return decoder.logits(features)[:, 0], state

    @nnx.jit
    def read(model, tokens):
        return model.features(tokens, state=model.init_state(1, 7))[1]

    state, logits = decoder.take_state(read(model, tokens[:, :prompt]), 1), []
    with mosaic_interpreter.interpreted("float32"):
        for token in tokens[:, prompt:].T:
            new, state = one(*nnx.split(decoder), token[None], state)
            logits.append(new)
    wanted = parallel(model, tokens)[:, prompt:]
    assert_close("logits", jnp.stack(logits, axis=1), wanted, 1e-5)
    with pytest.raises(ValueError, match="^decoder: laid out for 1 rows, got 2 prompts"):
        next(stream(model, [[1], [2]], 3, key=jax.random.key(0), decoder=decoder))


@pytest.mark.parametrize(
    ("mixers", "changes", "batch_size", "reason"),
    [
        ((DELTA_NET,), {}, 2, "it takes one row, batch_size is 2"),
        ((DELTA_NET,), {}, None, "it takes one row, batch_size is None"),
        ((DELTA_NET, WINDOW), {}, 1, "DeltaNets with convolutions"),
        ((DELTA_NET,), {"mlp_hidden_size": 0}, 1, "DeltaNets with convolutions"),
        ((MIXERS["delta_net-options"],), {}, 1, "DeltaNets with convolutions"),
        ((DELTA_NET,), {}, 1, "needs a Hopper GPU"),
    ],
)
def test_what_does_not_go_at_once(mixers, changes, batch_size, reason):
    model = small_model(*mixers, **changes)
    with pytest.raises(NotImplementedError, match=reason):
        lay_out(model, batch_size=batch_size, implementation="at_once")


@pytest.mark.slow
def test_generation_with_a_decoder_equals_generation_without():
    for options in ({}, {"tie_embeddings": True}):
        model = small_model(DELTA_NET, WINDOW, num_layers=4, init_std=0.2, **options)
        ours, wanted = (
            list(stream(model, PROMPTS, 20, key=jax.random.key(0), sampling=GREEDY, decoder=d))
            for d in (lay_out(model), None)
        )
        assert (np.concatenate(ours, axis=1) == np.concatenate(wanted, axis=1)).all()
