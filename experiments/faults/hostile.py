# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Files nobody should have written, for every reader: refused in time, with a message."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from deltanet_jax.train import manifest
from deltanet_jax.train.metrics import read_metrics
from experiments.faults.damage import make_checkpoints
from experiments.faults.outcome import Outcome
from experiments.presets import PRESETS
from experiments.run_config import read_run_config
from experiments.tasks.language_modeling.data import read_documents
from experiments.text.shards import Ids

SECONDS = 2.0  # a reader that takes longer has failed
REFUSALS = (ValueError, manifest.Damaged)

# What a changed value of JSON may become.
VALUES = (None, True, -1, 0, 2**70, 1e308, -1.5, "", "../../x", "\0", [], {}, [[]], {"kind": 3})


def mutate(content: bytes, rng: np.random.Generator) -> bytes:
    """`content` with a flipped bit, a cut, a doubled piece, random bytes, or deep nesting."""
    at, other = sorted(int(i) for i in rng.integers(0, len(content) + 1, 2))
    changed = bytearray(content)
    match int(rng.integers(6)):
        case 0:
            changed[at % len(content)] ^= 1 << int(rng.integers(8))
        case 1:
            del changed[at:other]
        case 2:
            changed[at:at] = content[at:other]
        case 3:
            changed[at:other] = rng.bytes(int(rng.integers(1, 64)))
        case 4:
            changed[at:at] = b"[" * 100_000
        case 5:
            changed = bytearray(_change_json(content, rng))
    return bytes(changed)


def _change_json(content: bytes, rng: np.random.Generator) -> bytes:
    """One value of the JSON text, at any depth, replaced; other content is cut short."""
    try:
        whole = json.loads(content)
    except (ValueError, RecursionError):
        return content[: len(content) // 3]
    place = whole
    while isinstance(place, dict | list) and place:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = keys[int(rng.integers(len(keys)))]
        if not isinstance(place[key], dict | list) or not place[key] or rng.integers(4) == 0:
            place[key] = VALUES[int(rng.integers(len(VALUES)))]
            break
        place = place[key]
    return json.dumps(whole).encode()


def _readers(scratch: Path) -> dict[Path, Callable[[Path], object]]:
    """A good file of each kind, and what reads it."""
    folder = make_checkpoints(scratch / "hostile")
    run = scratch / "run"
    run.mkdir()
    config, rows = run / "config.json", run / "metrics.jsonl"
    config.write_text(PRESETS["language_modeling/small-hybrid"]().to_json())
    rows.write_text('{"step": 1, "train/loss": 2.5}\n' * 3)
    documents, tokens = run / "text.jsonl", run / "ids.npy"
    documents.write_text('{"text": "one"}\n{"text": "two"}\n')
    np.save(tokens, np.arange(50, dtype=np.uint16))

    def read_tokens(path: Path) -> None:
        ids = Ids([path], [None])
        ids.read(0, min(len(ids), 10))

    return {
        folder / "2" / manifest.NAME: lambda path: manifest.verify(path.parent),
        config: lambda path: read_run_config(path.parent),
        rows: read_metrics,
        documents: lambda path: list(read_documents(path)),
        tokens: read_tokens,
    }


def hostile_files(scratch: Path, rng: np.random.Generator, count: int) -> Outcome:
    """Every kind of file in turn, one to three mutations."""
    outcome = Outcome("a hostile config, manifest, log, JSONL or token file")
    readers = [(path, path.read_bytes(), read) for path, read in _readers(scratch).items()]
    slowest = 0.0
    for number in range(count):
        path, good, read = readers[number % len(readers)]
        content = good
        for _ in range(int(rng.integers(1, 4))):
            content = mutate(content, rng) if content else content
        path.write_bytes(content)
        began = time.perf_counter()
        problem = None
        try:
            read(path)
        except REFUSALS as error:
            if not str(error).strip():
                problem = f"{path.name}: an error without a message: {error!r}"
        except Exception as error:
            problem = f"{path.name}: {type(error).__name__}: {error}"[:300]
        seconds = time.perf_counter() - began
        slowest = max(slowest, seconds)
        if seconds > SECONDS:
            problem = f"{path.name}: took {seconds:.1f} s"
        outcome.caused += 1
        outcome.add_problem(problem)
    outcome.figures = {"slowest_seconds": slowest}
    return outcome
