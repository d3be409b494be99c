# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""README's table of all mixers, from the registry: the like of the paper's table of linear
recurrent models (arXiv:2406.06484)."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from deltanet_jax import accounting
from deltanet_jax.mixers.base import Context, MixerConfig
from deltanet_jax.mixers.registry import MIXERS, make_mixer
from deltanet_jax.model import ModelConfig

WIDTH, LENGTH = 1024, 4096


def state_size(config: MixerConfig, d_model: int, length: int) -> int:
    """Numbers that a layer carries from token to token while decoding, after `length` tokens."""

    def state():
        context = Context(
            d_model=d_model,
            init_std=0.02,
            out_init_std=0.02,
            norm_eps=1e-6,
            dtype=jnp.bfloat16,
            param_dtype=jnp.float32,
        )
        return make_mixer(config, context, rngs=nnx.Rngs(0)).init_state(1, length)

    return sum(math.prod(x.shape) for x in jax.tree.leaves(jax.eval_shape(state)))


def flops(config: MixerConfig, d_model: int, length: int) -> float:
    """Operations a token of a training step in one layer, without embedding, head and SwiGLU."""
    options = {"vocab_size": 1, "d_model": d_model, "mlp_hidden_size": 0}
    one, two = (
        accounting.cost(ModelConfig(num_layers=n, layer_pattern=(config,), **options), length)
        for n in (1, 2)
    )
    return two.flops - one.flops


def mixers_section() -> str:
    """A line a mixer, with its own defaults."""
    lines = [
        "| mixer | recurrence | read-out | parallel form | state of a layer, numbers "
        "| training, MFLOP a token and layer | source |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, (config_type, _) in MIXERS.items():
        config = config_type()
        recurrence, read_out, parallel, source = config.equations
        lines.append(
            f"| `{kind}` | `{recurrence}` | `{read_out}` | {parallel} "
            f"| {state_size(config, WIDTH, LENGTH):,} "
            f"| {flops(config, WIDTH, LENGTH) / 1e6:.1f} | {source} |"
        )
    lines += [
        "",
        f"Width {WIDTH}, {LENGTH:,} tokens, default options; a state's positions and tails",
    ]
    return "\n".join([*lines, "of convolutions are counted."])
