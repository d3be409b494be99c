# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""How far float32 states drift over a million tokens: python -m experiments.drift [--flag=value]

For every operator the state after so many tokens, in chunks in float32, beside the recurrence a
token at a time in float64: the RMS of their difference over the RMS of the latter. One row, one
head, keys and values of 16 numbers; decays that keep some thousands of tokens, so that errors of
long ago are still there.
"""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from deltanet_jax.train.files import write_atomically
from experiments.benchmarks.operation import rms_error
from experiments.command import run
from experiments.flags import define_drift_flags, explain, whole_numbers
from experiments.logs import quiet_logs
from pallas_kernels import (
    delta_rule,
    delta_rule_step,
    gated_delta_rule,
    gated_delta_rule_step,
    gated_linear_attention,
    gated_linear_attention_step,
    linear_attention,
    selective_scan,
    selective_scan_step,
    wkv,
    wkv_empty_state,
    wkv_step,
)
from pallas_kernels._common.timing import machine_info
from pallas_kernels.delta_rule.workloads import make_inputs

SIZE = 16


@dataclasses.dataclass(frozen=True)
class Operator:
    """An operator, whole and a token at a time.

    Attributes:
        make: number of tokens -> (arrays [1, T, ...], arrays without tokens).
        run: both -> (outputs, final state).
        step: (state, a token's [1, ...], arrays without tokens) -> (output, new state).
    """

    make: Callable
    run: Callable
    step: Callable


def _decays(shape: tuple[int, ...]) -> jax.Array:
    """Log decays that are even over orders of magnitude."""
    return -jnp.exp(jax.random.uniform(jax.random.key(1), shape, jnp.float32, -12.0, -6.0))


def _rule(*names: str, channels: bool = False):
    """Makes those of q, k, v, g, beta that are named."""

    def make(tokens: int):
        q, k, v, beta = make_inputs(jax.random.key(0), 1, tokens, 1, SIZE, SIZE)
        decays = _decays((1, tokens, 1, SIZE) if channels else (1, tokens, 1))
        made = {"q": q, "k": k, "v": v, "g": decays, "beta": beta}
        return tuple(made[name] for name in names), ()

    return make


def _make_scan(tokens: int):
    keys = jax.random.split(jax.random.key(0), 4)
    x, b, c = (jax.random.normal(key, (1, tokens, SIZE)) for key in keys[:3])
    return (x, -_decays(x.shape), b, c), (-jnp.exp(jax.random.normal(keys[3], (SIZE, SIZE))),)


def _make_wkv(tokens: int):
    k, v, u = (
        jax.random.normal(key, shape)
        for key, shape in zip(
            jax.random.split(jax.random.key(0), 3),
            [(1, tokens, SIZE), (1, tokens, SIZE), (SIZE,)],
            strict=True,
        )
    )
    return (k, v), (-_decays((SIZE,)), u)


OPERATORS = {
    "delta_rule": Operator(
        _rule("q", "k", "v", "beta"),
        lambda tokens, _: delta_rule(*tokens),
        lambda state, token, _: delta_rule_step(state, *token),
    ),
    "gated_delta_rule": Operator(
        _rule("q", "k", "v", "g", "beta"),
        lambda tokens, _: gated_delta_rule(*tokens),
        lambda state, token, _: gated_delta_rule_step(state, *token),
    ),
    "gated_linear_attention": Operator(
        _rule("q", "k", "v", "g", channels=True),
        lambda tokens, _: gated_linear_attention(*tokens),
        lambda state, token, _: gated_linear_attention_step(state, *token),
    ),
    "linear_attention": Operator(
        _rule("q", "k", "v"),
        lambda tokens, _: linear_attention(*tokens),
        lambda state, token, _: gated_linear_attention_step(
            state, *token, jnp.zeros((1, 1), state.dtype)
        ),
    ),
    "selective_scan": Operator(
        _make_scan,
        lambda tokens, rest: selective_scan(*tokens[:2], *rest, *tokens[2:]),
        lambda state, token, rest: selective_scan_step(state, *token[:2], *rest, *token[2:]),
    ),
    "wkv": Operator(
        _make_wkv,
        lambda tokens, rest: wkv(*tokens, *rest),
        lambda state, token, rest: wkv_step(state, *token, *rest),
    ),
}


def drift(operator: Operator, tokens: int) -> float:
    """The RMS ratio of the state after so many tokens."""
    args = operator.make(tokens)
    got = jax.jit(lambda *args: operator.run(*args)[1])(*args)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), args)
        wanted = _recur(operator, *wide, jax.tree.map(_start, got))
    # A state of several arrays (numerators, denominators and their scale) counts as one.
    return rms_error(*(np.concatenate([x.ravel() for x in _plain(s)]) for s in (got, wanted)))


def _start(x: jax.Array) -> jax.Array:
    return jnp.zeros(x.shape, jnp.float64)


@functools.partial(jax.jit, static_argnums=0)
def _recur(operator: Operator, tokens, rest, state):
    """The last state, a token at a time."""
    if hasattr(state, "maximum"):
        state = wkv_empty_state(*state.maximum.shape, jnp.float64)

    def step(state, token):
        return operator.step(state, token, rest)[1], None

    inputs = jax.tree.map(lambda x: jnp.moveaxis(x, 1, 0), tokens)
    return jax.lax.scan(step, state, inputs)[0]


def _plain(state) -> list[np.ndarray]:
    """The state's sums, without the scale that `wkv` keeps them in."""
    if hasattr(state, "maximum"):
        scale = np.exp(np.asarray(state.maximum, np.float64))
        return [scale * np.asarray(x, np.float64) for x in (state.numerator, state.denominator)]
    return [np.asarray(state, np.float64)]


def table(rows: list[dict]) -> str:
    """Markdown: an operator a line, a column for each number of tokens."""
    lengths = sorted({row["tokens"] for row in rows})
    lines = [
        "| operator | " + " | ".join(f"{length:,} tokens" for length in lengths) + " |",
        "|" + "---|" * (1 + len(lengths)),
    ]
    for name in dict.fromkeys(row["operator"] for row in rows):
        found = {row["tokens"]: row["rms_ratio"] for row in rows if row["operator"] == name}
        cells = " | ".join(f"{found[length]:.1e}" for length in lengths)
        lines.append(f"| `{name}` | {cells} |")
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    jax.config.update("jax_platforms", "cpu")
    values = flags.FLAGS
    try:
        lengths = whole_numbers("tokens", values.tokens)
    except ValueError as error:
        sys.exit(f"error: {explain(error)}")
    rows, machine = [], machine_info()
    for name, operator in OPERATORS.items():
        for tokens in lengths:
            rows.append({"operator": name, "tokens": tokens, "rms_ratio": drift(operator, tokens)})
        print(table(rows[-len(lengths) :]), flush=True)
    if values.record:
        record = json.dumps({"rows": rows, "machine": machine}, indent=1)
        write_atomically(Path(values.record), record + "\n")


if __name__ == "__main__":
    define_drift_flags()
    run(main)
