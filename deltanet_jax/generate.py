# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Generation: prompts in the parallel form, then token by token with a constant state.

Prompts of different lengths are padded on the left to one length. The padding is a segment of its
own, so nothing of it reaches the prompt's outputs or states (mixers/base.py), and positions, which
only count by their differences, need no correction.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Int

from deltanet_jax.decoder import Decoder
from deltanet_jax.model import LanguageModel
from deltanet_jax.sampling import Sampling, sample
from pallas_kernels._common import checks

Prompts = Int[Array, "B T"] | Int[np.ndarray, "B T"] | Sequence[Sequence[int]]
SMALLEST_BUCKET = 16
# Tokens of a decoder's loop laid out in its body: with two, a state's old and new value take turns
# in two buffers, and none is copied.
DECODER_UNROLL = 2


def bucket(length: int) -> int:
    """The least of 16, 24, 32, 48, 64, 96, ... that is at least `length`: few shapes to compile,
    never more than half of one is padding."""
    size = SMALLEST_BUCKET
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size // 3 * 4
    return size


def pad_left(prompts: Sequence[Sequence[int]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, segment ids: 0 for padding, 1 for the prompt), each [B, length] int32."""
    tokens = np.zeros((len(prompts), length), np.int32)
    segment_ids = np.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        start = length - len(prompt)
        tokens[row, start:] = prompt
        segment_ids[row, start:] = 1
    return tokens, segment_ids


def stream(
    model: LanguageModel,
    prompts: Prompts,
    num_tokens: int,
    *,
    key: jax.Array,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    chunk: int = 16,
    decoder: Decoder | None = None,
) -> Iterator[np.ndarray]:
    """Continues each prompt, a few tokens at a time; whoever has enough stops iterating.

    Args:
        model: any `LanguageModel` without bottleneck; its state has a constant size unless it has
            global attention.
        prompts: ids, [B, T] or a list for each row, at least one token each. A row's tokens do not
            depend on the rows beside it (beyond the rounding of other shapes).
        num_tokens: of each row in all, at least 1.
        key: a `jax.random` key, from which row b takes `fold_in(key, b)`; or [B] keys of the rows.
        sampling: how tokens are chosen.
        chunk: tokens of an item, the last one may have fewer; each is one call of the device.
        decoder: `model` laid out for decoding (decoder.py): faster, but takes longer to compile.
    Yields:
        [B, n] int32 ids on the host, n = 1 (from the prompt), then `chunk` or fewer.
    Raises:
        ValueError: no prompt or an empty one, ids that the model has not, num_tokens or chunk below
            1, as many keys as are not rows, a model with bottleneck, a decoder laid out for another
            number of rows.
    """
    rows = _checked(prompts, model.config.vocab_size)
    checks.check_positive_integer("num_tokens", num_tokens)
    checks.check_positive_integer("chunk", chunk)
    if model.bottleneck is not None:
        raise ValueError("model: wanted one without bottleneck, which reads whole sequences")
    if decoder is not None and decoder.batch_size not in (None, len(rows)):
        raise ValueError(
            f"decoder: laid out for {decoder.batch_size} rows, got {len(rows)} prompts"
        )
    if not jnp.issubdtype(getattr(key, "dtype", None), jax.dtypes.prng_key):
        raise ValueError(f"key: wanted jax.random.key's, got {key!r}")
    if key.ndim == 0:
        key = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(len(rows)))
    elif key.shape != (len(rows),):
        raise ValueError(f"key: wanted one, or one for each of {len(rows)} rows, got {key.shape}")
    return _stream(model, decoder, rows, num_tokens, key, sampling, chunk)


def _checked(prompts, vocab_size: int) -> list[list[int]]:
    if isinstance(prompts, jax.Array | np.ndarray):
        if prompts.ndim != 2 or prompts.size == 0:
            raise ValueError(f"prompts: wanted [B, T] with B, T >= 1, got shape {prompts.shape}")
        prompts = np.asarray(prompts)
    rows = [np.asarray(prompt) for prompt in prompts]
    if not rows or not all(row.size for row in rows):
        lengths = [row.size for row in rows]
        raise ValueError(f"prompts: wanted at least one token in each row, got {lengths}")
    for row in rows:
        if row.ndim != 1 or not np.issubdtype(row.dtype, np.integer):
            raise ValueError(
                "prompts: wanted integers, a list of them for each row, got a row of "
                f"{row.dtype}{list(row.shape)}"
            )
        if (outside := row[(row < 0) | (row >= vocab_size)]).size:
            raise ValueError(f"prompts: wanted ids in 0 .. {vocab_size - 1}, got {outside[0]}")
    return [row.tolist() for row in rows]


def _stream(model, decoder, rows, num_tokens, keys, sampling, chunk) -> Iterator[np.ndarray]:
    length = bucket(max(len(row) for row in rows))
    tokens, segment_ids = pad_left(rows, length)
    # As with prompts: a few sizes of what grows with the length, and any number of tokens.
    max_length = length + bucket(num_tokens)
    take_state = None if decoder is None else decoder.take_state
    last, state = prefill(
        *nnx.split(model), tokens, segment_ids, keys, max_length, sampling, take_state
    )
    graphdef, weights = nnx.split(model if decoder is None else decoder)
    unroll = 1 if decoder is None else DECODER_UNROLL
    yield np.asarray(last)[:, None]
    done = 1
    while done < num_tokens:
        new, last, state = decode(
            graphdef, weights, last, state, keys, done, chunk, sampling, unroll
        )
        count = min(chunk, num_tokens - done)
        yield np.asarray(new)[:, :count]
        done += count


def generate(
    model: LanguageModel,
    prompts: Prompts,
    num_tokens: int,
    *,
    key: jax.Array,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
) -> np.ndarray:
    """Continues each prompt by `num_tokens` tokens: `stream` at once, [B, num_tokens] int32."""
    return np.concatenate(
        list(stream(model, prompts, num_tokens, key=key, sampling=sampling)), axis=1
    )


@functools.partial(jax.jit, static_argnums=(0, 5, 6, 7))
def prefill(
    graphdef,
    weights,
    tokens,
    segment_ids,
    keys,
    max_length: int,
    sampling: Sampling,
    take_state: Callable | None = None,
):
    """(first new token of each row [B], state after the prompt: by a decoder's `take_state`)."""
    model = nnx.merge(graphdef, weights)
    state = model.init_state(tokens.shape[0], max_length)
    features, state = model.features(tokens, segment_ids=segment_ids, state=state)
    last = _choose(model, features, keys, 0, sampling)
    return last, state if take_state is None else take_state(state, model.config.num_layers)


@functools.partial(jax.jit, static_argnums=(0, 6, 7, 8), donate_argnums=3)
def decode(
    graphdef, weights, last, state, keys, done, count: int, sampling: Sampling, unroll: int = 1
):
    """(`count` more tokens [B, count], the last of them [B], the state), after `done` new ones.

    `graphdef` and `weights` are a model's or its decoder's. `unroll` tokens are laid out in the
    loop's body.
    """
    model = nnx.merge(graphdef, weights)

    def token(carry, step):
        last, state = carry
        features, state = model.features(last[:, None], state=state)
        new = _choose(model, features, keys, step, sampling)
        return (new, state), new

    steps = done + jnp.arange(count)
    (last, state), new = jax.lax.scan(token, (last, state), steps, unroll=unroll)
    return new.T, last, state


def _choose(model, features, keys, step, sampling: Sampling):
    """The token after the last position; the `step`-th new one of its row."""
    logits = model.logits(features[:, -1:])[:, 0]
    step_keys = jax.vmap(lambda key: jax.random.fold_in(key, step))(keys)
    return sample(logits, step_keys, sampling)
