# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Times decoding: python -m experiments.benchmarks.generate --record_dir=DIR

For every preset, batch and layout: a model with random weights reads random prompts, then decodes
greedily, --chunk_tokens a call. Milliseconds a token are those of a call over its tokens (host
clock; a call is one program). Beside them the memory floor: the bytes that a token of all rows must
move, over the bandwidth of a device-to-device copy in the same process; with the states of all
rows, and of the weights alone. Rows are JSON lines, written as they are finished.
"""

import dataclasses
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax import nnx

from deltanet_jax.decoder import lay_out
from deltanet_jax.generate import decode, prefill
from deltanet_jax.mixers.attention import AttentionState
from deltanet_jax.model import LanguageModel, ModelConfig
from deltanet_jax.sampling import Sampling
from experiments.benchmarks import records
from experiments.benchmarks.flags import define_generate_benchmark_flags
from experiments.benchmarks.timing import Clock
from experiments.command import run
from experiments.flags import explain
from experiments.logs import quiet_logs
from experiments.presets import PRESETS

LAYOUTS = ("model", "decoder")
WARM_UP = 2  # calls that are not timed; the first compiles
GREEDY = Sampling(temperature=0.0)


@dataclasses.dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        preset: whose model.
        batch_size: rows decoded together.
        layout: of LAYOUTS; see deltanet_jax/decoder.py.
        token_unroll: tokens laid out in the body of the loop over tokens.
        param_dtype: of stored weights.
        prompt_tokens, chunk_tokens: of each row, before and in each timed call.
        repetitions: timed calls.
    """

    preset: str
    batch_size: int
    layout: str
    token_unroll: int
    param_dtype: str
    prompt_tokens: int
    chunk_tokens: int
    repetitions: int


def _size(tree) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def read_weights(weights: nnx.State, tied: bool) -> int:
    """Bytes of the weights that a token needs: all, but of an embedding that is not the head, of
    which it needs a row."""
    embedding = 0 if tied else _size([v for k, v in weights.items() if k.startswith("embed")])
    return _size(weights) - embedding


def moved_states(states: tuple) -> int:
    """Bytes of states that a token of every row must move, at least: recurrent states are read and
    written; caches are read, and one entry written."""
    caches = jax.tree.leaves(states, is_leaf=lambda x: isinstance(x, AttentionState))
    cached = sum(_size(x) for x in caches if isinstance(x, AttentionState))
    return 2 * (_size(states) - cached) + cached


def time_case(case: Case, config: ModelConfig, clock: Clock) -> dict[str, object]:
    """One row; `config` is the preset's model, or one to try it out."""
    config = config.replace(param_dtype=case.param_dtype, remat="none", scan_unroll=1)
    graphdef = nnx.split(nnx.eval_shape(lambda: LanguageModel(config, rngs=nnx.Rngs(0))))[0]
    weights = jax.jit(lambda: nnx.state(LanguageModel(config, rngs=nnx.Rngs(0))))()
    shape = (case.batch_size, case.prompt_tokens)
    tokens = jax.random.randint(jax.random.key(1), shape, 0, config.vocab_size)
    keys = jax.random.split(jax.random.key(2), case.batch_size)
    max_length = case.prompt_tokens + case.chunk_tokens * (WARM_UP + case.repetitions)
    weight_bytes = read_weights(weights, config.tie_embeddings)
    decoder = None
    if case.layout != "model":
        decoder = lay_out(nnx.merge(graphdef, weights), batch_size=case.batch_size)
        size = jnp.dtype(config.compute_dtype).itemsize
        weight_bytes = weight_bytes // jnp.dtype(config.param_dtype).itemsize * size
    take_state = None if decoder is None else decoder.take_state
    last, state = prefill(
        *(graphdef, weights, tokens, jnp.ones_like(tokens), keys, max_length, GREEDY, take_state)
    )
    if decoder is not None:
        graphdef, weights = nnx.split(decoder)
    bytes_moved = weight_bytes + moved_states(state)
    seconds, done = [], 1
    for call in range(WARM_UP + case.repetitions):
        begin = time.perf_counter()
        new, last, state = decode(
            *(graphdef, weights, last, state, keys, done, case.chunk_tokens, GREEDY),
            case.token_unroll,
        )
        new = np.asarray(new)
        seconds.append(time.perf_counter() - begin)
        if not ((new >= 0) & (new < config.vocab_size)).all():
            raise FloatingPointError(f"{case}: call {call} gave ids outside the vocabulary")
        done += case.chunk_tokens
    first, seconds = seconds[0], seconds[WARM_UP:]
    ms = statistics.median(seconds) * 1e3 / case.chunk_tokens
    floors = [None, None]
    if clock.copy_ms is not None:  # a copy reads and writes
        ms_per_byte = clock.copy_ms / (2 * clock.copy_bytes)
        floors = [n * ms_per_byte for n in (bytes_moved, weight_bytes)]
    share, weights_share = (None if x is None else round(x / ms, 4) for x in floors)
    return {
        **dataclasses.asdict(case),
        "implementation": None if decoder is None else decoder.implementation,
        "ms_per_token": round(ms, 5),
        "range_ms_per_token": [round(f(seconds) * 1e3 / case.chunk_tokens, 5) for f in (min, max)],
        "tokens_per_second": round(case.batch_size / ms * 1e3, 1),
        "moved_bytes": bytes_moved,
        "weight_bytes": weight_bytes,
        "floor_ms": floors[0] and round(floors[0], 5),
        "of_floor": share,
        "of_weights_floor": weights_share,
        "first_call_s": round(first, 2),
        "first_tokens": new[0, :8].tolist(),
    }


def cases(values: flags.FlagValues) -> list[Case]:
    """From the flags. Raises ValueError with the flag's name."""
    numbers = {}
    for name in ("batch_sizes", "token_unroll"):
        given = getattr(values, name)
        if not given or not all(n.isdigit() and int(n) > 0 for n in given):
            raise ValueError(f"{name}: wanted numbers of at least 1, got {','.join(given)}")
        numbers[name] = [int(n) for n in given]
    for name, known in (("presets", PRESETS), ("layouts", LAYOUTS)):
        for given in getattr(values, name):
            if given not in known:
                raise ValueError(f"{name}: wanted some of {sorted(known)}, got {given!r}")
    names = ("param_dtype", "prompt_tokens", "chunk_tokens", "repetitions")
    options = {name: getattr(values, name) for name in names}
    return [
        Case(preset, batch_size, layout, unroll, **options)
        for preset in values.presets
        for batch_size in numbers["batch_sizes"]
        for layout in values.layouts
        for unroll in numbers["token_unroll"]
    ]


def main(argv: list[str]) -> None:
    del argv
    quiet_logs()
    values = flags.FLAGS
    try:
        wanted = cases(values)
    except ValueError as error:
        sys.exit(f"error: {explain(error)}")
    clock = Clock()
    for case in wanted:
        row = time_case(case, PRESETS[case.preset]().model, clock)
        floor = (
            f", {row['of_floor']:.1%} of the floor ({row['of_weights_floor']:.1%} of the weights')"
            if row["of_floor"] is not None
            else ""
        )
        print(
            f"{case.preset} x {case.batch_size} {case.layout}, {case.token_unroll} tokens laid "
            f"out: {row['ms_per_token']:.3f} ms a token, {row['tokens_per_second']:,.0f} tokens/s"
            f"{floor}; first call {row['first_call_s']:.0f} s",
            flush=True,
        )
        if values.record_dir:
            row |= records.machine(values.commit) | {"date": records.now()}
            path = records.path_of(Path(values.record_dir), row | {"op": "generate"})
            records.append_line(path, row)


if __name__ == "__main__":
    define_generate_benchmark_flags()
    run(main)
