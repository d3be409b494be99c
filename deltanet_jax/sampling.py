# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""From logits to a token: temperature, top-k, top-p."""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from deltanet_jax.config import Config, check_at_least


@dataclasses.dataclass(frozen=True)
class Sampling(Config):
    """How a token is chosen.

    Attributes:
        temperature: divides the logits, at least 0 and finite; 0 takes the most likely token.
        top_k: only the k most likely tokens; 0 is all.
        top_p: of those, as few of the most likely as have this probability together, in (0, 1]
            (nucleus sampling, Holtzman et al. 2020, arXiv:1904.09751).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self):
        check_at_least(self, "temperature", 0)
        if self.temperature == math.inf:  # of tokens left out nothing would be known any more
            raise ValueError(f"temperature: wanted a finite number, got {self.temperature}")
        check_at_least(self, "top_k", 0)
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: wanted more than 0, at most 1, got {self.top_p}")


def keep_likely(
    logits: Float[Array, "B vocab_size"], sampling: Sampling
) -> Float[Array, "B vocab_size"]:
    """(`logits` - their maximum) / temperature, -inf where top_k or top_p leave a token out.

    Tokens as likely as the last one kept are kept too. `sampling.temperature` is not 0.
    """
    # Over a tiny temperature the maximum stays 0, and the others at worst become -inf.
    most = jnp.max(logits, axis=-1, keepdims=True)
    logits = jnp.where(logits == most, 0, logits - most)
    logits = logits / max(sampling.temperature, float(jnp.finfo(logits.dtype).tiny))
    size = logits.shape[-1]
    if 0 < sampling.top_k < size:
        least = jax.lax.top_k(logits, sampling.top_k)[0][:, -1:]
        logits = jnp.where(logits >= least, logits, -jnp.inf)
    if sampling.top_p < 1:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probabilities = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(probabilities, axis=-1) - probabilities
        kept = jnp.where(before < sampling.top_p, ordered, jnp.inf)
        logits = jnp.where(logits >= kept.min(axis=-1, keepdims=True), logits, -jnp.inf)
    return logits


def sample(
    logits: Float[Array, "B vocab_size"], keys: jax.Array, sampling: Sampling
) -> Int[Array, "B"]:
    """One token a row, int32; row b by `keys[b]` alone, so that it does not matter who is beside.

    Args:
        logits: of any float dtype; used in float32.
        keys: [B] `jax.random` keys.
        sampling: see its class.
    """
    logits = logits.astype(jnp.float32)
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    chosen = jax.vmap(jax.random.categorical)(keys, keep_likely(logits, sampling))
    return chosen.astype(jnp.int32)
