# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Sampling with the recurrent decoder: the prompt in parallel, then token by token."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Int

from deltanet_jax.model import LanguageModel


def generate(
    model: LanguageModel,
    prompt: Int[Array, "B T"],
    num_tokens: int,
    *,
    key: jax.Array,
    temperature: float = 1.0,
) -> Int[Array, "B N"]:
    """Continues each prompt by `num_tokens` sampled tokens.

    Args:
        model: any `LanguageModel`; its state has a constant size unless it has global attention.
        prompt: [B, T] ids, T >= 1.
        num_tokens: N >= 1.
        key: a `jax.random` key; the same key gives the same tokens.
        temperature: divides the logits; 0 takes the most likely token.
    Returns:
        [B, N] ids.
    Raises:
        ValueError: an empty prompt, num_tokens < 1 or a negative temperature.
    """
    if prompt.ndim != 2 or prompt.shape[1] == 0:
        raise ValueError(f"prompt: wanted [B, T] with T >= 1, got shape {prompt.shape}")
    if num_tokens < 1:
        raise ValueError(f"num_tokens: wanted at least 1, got {num_tokens}")
    if not temperature >= 0:
        raise ValueError(f"temperature: wanted at least 0, got {temperature}")
    graphdef, weights = nnx.split(model)
    return _generate(graphdef, weights, prompt, key, num_tokens, float(temperature))


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _generate(graphdef, weights, prompt, key, num_tokens: int, temperature: float):
    model = nnx.merge(graphdef, weights)
    batch_size, length = prompt.shape

    def sample(features, step):
        logits = model.logits(features[:, -1:])[:, 0].astype(jnp.float32)
        if temperature == 0:
            return jnp.argmax(logits, axis=-1)
        step_key = jax.random.fold_in(key, step)
        return jax.random.categorical(step_key, logits / temperature, axis=-1)

    state = model.init_state(batch_size, length + num_tokens)
    features, state = model.features(prompt, state=state)
    first = sample(features, 0)

    def token(carry, step):
        last, state = carry
        features, state = model.features(last[:, None], state=state)
        new = sample(features, step)
        return (new, state), new

    _, rest = jax.lax.scan(token, (first, state), jnp.arange(1, num_tokens))
    return jnp.concatenate([first[:, None], rest.T], axis=1)
