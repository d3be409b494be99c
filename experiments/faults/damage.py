# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Faults of stored bytes: flipped bits, cut and missing files."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from deltanet_jax.train.checkpoint import Checkpoints
from deltanet_jax.train.guard import init_guard
from deltanet_jax.train.step import TrainState
from experiments.faults.outcome import Outcome
from experiments.text.shards import Index, Settings, Source, open_split, write_shard


class Position:
    """A data position that never moves."""

    def get_state(self) -> dict:
        return {"place": 0}


def make_state(step: int, bytes_each: int) -> TrainState:
    """A state of random numbers that do not compress."""
    weights = {"kernel": jax.random.normal(jax.random.key(step), (bytes_each // 4,))}
    moments = {"mu": weights["kernel"] + 1, "nu": weights["kernel"] * 2}
    rng = jax.random.key_data(jax.random.key(0))
    return TrainState(jnp.int32(step), weights, moments, rng, init_guard())


def make_checkpoints(directory: Path, bytes_each: int = 4096) -> Path:
    """Steps 1 and 2."""
    with Checkpoints(directory, 2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step, bytes_each), Position())
    return directory


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def _falls_back(directory: Path, name: str) -> str | None:
    """What is wrong with how step 2, damaged in file `name`, is treated."""
    with Checkpoints(directory, 2) as checkpoints:
        newest = checkpoints.newest()
    if newest != 1:
        return f"{name}: restored step {newest}"
    return None if (directory / "2.damaged").is_dir() else f"{name}: not moved aside"


def _damaged(
    saved: Path, scratch: Path, damages: Iterator[tuple[Path, Callable[[Path], None]]], name: str
) -> Outcome:
    outcome = Outcome(name)
    for file, damage in damages:
        copy = shutil.copytree(saved, scratch / "copy")
        damage(copy / file.relative_to(saved))
        outcome.caused += 1
        outcome.add_problem(_falls_back(copy, file.name))
        shutil.rmtree(copy)
    return outcome


def flip_bits(scratch: Path, rng: np.random.Generator, count: int) -> Outcome:
    """One bit anywhere in step 2: every file in turn, a random bit of it."""
    saved = make_checkpoints(scratch / "flips")
    files = [p for p in _files(saved / "2") if p.stat().st_size]

    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        bit = int(rng.integers(8 * len(content)))
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)

    damages = ((files[i % len(files)], flip) for i in range(count))
    return _damaged(saved, scratch, damages, "a flipped bit in a checkpoint")


def cut_files(scratch: Path) -> Outcome:
    """Every file of step 2 deleted, halved and emptied."""
    saved = make_checkpoints(scratch / "cuts")
    ways = (
        Path.unlink,
        lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
        lambda path: path.write_bytes(b""),
    )
    files = _files(saved / "2")
    damages = (
        (file, way) for file in files for way in ways if file.stat().st_size or way is ways[0]
    )
    return _damaged(saved, scratch, damages, "a deleted, halved or emptied file of a checkpoint")


def flip_shards(scratch: Path, rng: np.random.Generator, count: int) -> Outcome:
    """One bit, or the end, of a shard of token ids: the file is named before an id is used."""
    outcome = Outcome("a flipped bit in a shard of tokens, or its end missing")
    folder = scratch / "shards"
    folder.mkdir()
    ids = rng.integers(0, 256, 3000).astype(np.uint16)
    name, size = "train-00000", len(ids)
    shard = write_shard(folder, name, ids, np.zeros(1, np.uint64), size)
    settings = Settings("0" * 64, 256, 0, "file", size, (Source("train", "a.txt", "0" * 64),))
    index = Index(settings, complete=True, shards=(shard,))
    path = folder / f"{name}.npy"
    good = path.read_bytes()
    for number in range(count):
        content, bit = bytearray(good), int(rng.integers(8 * len(good)))
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content[: bit // 8] if number % 4 == 0 else content)
        outcome.caused += 1
        try:
            open_split(folder, index, "train").read(0, size)
        except ValueError as error:
            outcome.add_problem(None if path.name in str(error) else f"not named: {error}")
        else:
            outcome.add_problem(f"bit {bit} was let through")
    return outcome
