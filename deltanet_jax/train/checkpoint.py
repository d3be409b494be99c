# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: train state, data position and a manifest in one atomic save; Orbax writes arrays.

A folder appears under its step's number only when all of it is on disk and hashed; restoring
checks every byte first. What an interrupted save left behind is removed at the next start.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import logging
import os
import re
import shutil
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
from orbax.checkpoint import v1 as ocp

from deltanet_jax.sharding import path_name
from deltanet_jax.train import manifest
from deltanet_jax.train.files import first_process, make_directory, sync
from deltanet_jax.train.step import TrainState

logger = logging.getLogger("deltanet_jax")

LEFTOVER = re.compile(r"\d+\.(saving|removing)")
DAMAGED = re.compile(r"\d+\.damaged(-\d+)?")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written; those before it are intact."""


@dataclasses.dataclass(frozen=True)
class Found:
    """A checkpoint on disk.

    Attributes:
        name: of its folder: the step's number, for one moved aside with ".damaged" behind it.
        bytes: of all its files together.
        problem: what is wrong with it; None is nothing.
    """

    name: str
    bytes: int
    problem: str | None


class Checkpoints:
    """The checkpoints of one run; use as a context manager.

    Attributes:
        saved_step: the newest step that was restored or handed to `save`, None after a failed one.
    """

    def __init__(
        self,
        directory: Path,
        keep: int = 0,
        facts: dict | None = None,
        records: tuple[Path, ...] = (),
        keep_every: int = 0,
    ):
        """`keep`: newest checkpoints kept. 0 is for reading: nothing is written, moved or removed.

        `facts`: JSON values written into every manifest. `records`: files about the same steps, if
        they are there; what is in them at a save is on disk before its checkpoint gets its name.
        `keep_every`: steps that it divides are kept too, for good; 0 divides none.
        """
        self._directory = directory.resolve()
        self._keep, self._facts, self._records = keep, facts or {}, records
        self._keep_every = keep_every
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._saving: concurrent.futures.Future | None = None
        self.saved_step: int | None = None
        self._failed = False
        self._why_not = ""  # told about copies on devices
        self._peaks = _Peaks()
        if keep and jax.process_index() == 0:
            make_directory(self._directory)
            self._remove_leftovers()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind, error: BaseException | None, trace) -> None:
        try:
            self.wait()
        except CheckpointError as failure:
            if error is None:
                raise
            error.add_note(str(failure))  # what ends the run is what came first
        finally:
            self._pool.shutdown()
            self._make_room()

    def _make_room(self) -> None:
        """Removes what failed saves have left."""
        if self._failed and jax.process_index() == 0:
            # Orbax may be at it still, and make a folder anew: later too, and at the next start.
            with contextlib.suppress(OSError):
                self._remove_leftovers()

    def _remove_leftovers(self) -> None:
        for path in self._directory.iterdir():
            if LEFTOVER.match(path.name):
                shutil.rmtree(path)

    @property
    def steps(self) -> list[int]:
        """Steps on disk, ascending; not verified."""
        if not self._directory.is_dir():
            return []
        names = (path.name for path in self._directory.iterdir())
        return sorted(int(name) for name in names if name.isascii() and name.isdecimal())

    def newest(self) -> int | None:
        """The newest step whose every byte is as it was saved, or None.

        Damaged ones are moved aside (left in place when reading); a warning names file and step.

        Raises:
            ValueError: a step is of a newer format than this library knows.
        """
        step = first_process(self._newest)
        self.saved_step = None if step < 0 else step
        return self.saved_step

    def _newest(self) -> int:
        for step in reversed(self.steps):
            folder = self._directory / str(step)
            try:
                manifest.verify(folder)
            except manifest.Damaged as damage:
                self._move_aside(folder, damage)
            else:
                return step
        return -1

    def _move_aside(self, folder: Path, damage: manifest.Damaged) -> None:
        if not self._keep:
            logger.warning("checkpoint of step %s is damaged, left out: %s", folder.name, damage)
            return
        number, aside = 1, folder.with_name(f"{folder.name}.damaged")
        while aside.exists():
            number += 1
            aside = folder.with_name(f"{folder.name}.damaged-{number}")
        os.rename(folder, aside)
        sync(self._directory)
        logger.warning(
            "checkpoint of step %s is damaged: %s; moved to %s", folder.name, damage, aside
        )

    def check_all(self) -> list[Found]:
        """Every checkpoint in the directory, verified, those moved aside too; oldest first."""
        names = [str(step) for step in self.steps]
        if self._directory.is_dir():
            names += sorted(p.name for p in self._directory.iterdir() if DAMAGED.fullmatch(p.name))
        return [self._check(name) for name in names]

    def _check(self, name: str) -> Found:
        folder = self._directory / name
        problem = None
        try:
            manifest.verify(folder)
        except (manifest.Damaged, ValueError) as error:
            problem = str(error)
        size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        return Found(name, size, problem)

    def save(self, step: int, state: TrainState, data: grain.DatasetIterator) -> None:
        """Starts saving; returns once the state is copied and may change. Waits for the last save.

        Where the devices have room for it, the copy is theirs: made in milliseconds, it goes to the
        host while the next steps run. Elsewhere the caller waits until the host has its own.

        Raises:
            CheckpointError: this save could not start, or the previous one failed.
        """
        self.wait()
        self._make_room()
        folder = self._directory / f"{step}.saving"
        facts = self._facts | {"arrays": _arrays(state), "data_position": data.get_state()}
        copy, why_not = _copy_on_devices(state, self._peaks)
        if why_not not in ("", self._why_not):
            logger.info("steps wait for saves until the host has its copy: %s", why_not)
            self._why_not = why_not
        if copy is None:
            started = self._pool.submit(_start, folder, state)
            if (error := started.exception()) is not None:
                raise self._failure(step, error) from error
        else:
            started = self._pool.submit(self._start_copied, folder, copy)
        self._saving = self._pool.submit(self._commit, step, started, {"step": step, **facts})
        self.saved_step = step

    def _start_copied(self, folder: Path, copy: TrainState) -> ocp.AsyncResponse:
        """`_start`; what the copy takes, for it is still there, is not counted as the steps'."""
        response = _start(folder, copy)
        for device, count in _bytes_by_device(copy).items():
            self._peaks.spare_bytes(device, count)
        return response

    def _commit(self, step: int, started: concurrent.futures.Future, facts: dict) -> None:
        """In the background, while and once Orbax writes: hash, name, remove what is too old."""
        try:
            folder, response = self._directory / f"{step}.saving", started.result()
            if jax.process_index() > 0:
                response.result()
                return
            with manifest.Early(self._directory, folder.name) as early:
                response.result()
                early.stop()
                manifest.write(folder, facts, early)
            for path in filter(Path.exists, self._records):
                sync(path)
                sync(path.parent)
            os.rename(folder, self._directory / str(step))
            sync(self._directory)
        except Exception as error:
            raise self._failure(step, error) from error
        self._remove_old()

    def _remove_old(self) -> None:
        """Those no longer kept. One that stays costs room, not the checkpoint that has its name."""
        for old in self.steps[: -self._keep]:
            if self._keep_every and old % self._keep_every == 0:
                continue
            gone = self._directory / f"{old}.removing"  # never half a step under its number
            try:
                os.rename(self._directory / str(old), gone)
                shutil.rmtree(gone)
            except OSError as error:
                self._failed = True  # it goes with what failed saves leave
                logger.warning("checkpoint of step %d could not be removed: %s", old, error)

    def _failure(self, step: int, error: Exception) -> CheckpointError:
        self._failed = True
        kept = self.steps
        newest = f"the newest one on disk is of step {kept[-1]}" if kept else "there is no other"
        # Orbax and TensorStore put whole traces into their messages.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:500]
        return CheckpointError(f"checkpoint of step {step} could not be saved: {reason}; {newest}")

    def check(self) -> None:
        """Raises CheckpointError if a save has failed by now; never waits."""
        if self._saving is not None and self._saving.done():
            self.wait()

    def wait(self) -> None:
        """Blocks until nothing is being saved; raises CheckpointError if a save failed."""
        if self._saving is not None:
            saving, self._saving = self._saving, None
            try:
                saving.result()
            except CheckpointError:
                self.saved_step = None
                raise

    def facts(self, step: int) -> dict:
        """The manifest of `step`, which `newest` has verified."""
        return manifest.read(self._directory / str(step))

    def restore(
        self,
        step: int,
        abstract_state: TrainState,
        data: grain.DatasetIterator | None = None,
    ) -> TrainState:
        """Reads `step`, which `newest` has verified, with the shardings of `abstract_state`.

        `data`, if given, is moved to where it stood at the save.

        Raises:
            ValueError: an array is missing, one too many, or of another shape or dtype.
        """
        facts = self.facts(step)
        saved, wanted = facts["arrays"], _arrays(abstract_state)
        for name in sorted(saved.keys() | wanted.keys()):
            if saved.get(name) != wanted.get(name):
                raise ValueError(
                    f"checkpoint of step {step}: {name}: wanted {wanted.get(name, 'no such array')}"
                    f", got {saved.get(name, 'no such array')}"
                )
        found = ocp.load_checkpointables(
            self._directory / str(step), {"state": abstract_state._asdict()}
        )
        if data is not None:
            data.set_state(facts["data_position"])
        return TrainState(**found["state"])


def _start(folder: Path, state: TrainState) -> ocp.AsyncResponse:
    """Returns once the host has a copy of `state`, which is written to `folder` after that."""
    with _uncompressed():
        return ocp.save_checkpointables_async(folder, {"state": state._asdict()})


def _copy_on_devices(state: TrainState, peaks: "_Peaks") -> tuple[TrainState | None, str]:
    """A copy beside `state`, or None and why there is none.

    There is none without a word on devices whose memory is the host's, and with several processes,
    which start Orbax's saves all at the same point of their programs.
    """
    if jax.process_count() > 1:
        return None, ""
    for device, count in _bytes_by_device(state).items():
        spare = peaks.spare_bytes(device)
        if spare is None:
            return None, ""
        if spare < count:
            return None, f"a copy takes {count:,} bytes of {device}, steps leave {spare:,}"
    try:
        return jax.tree.map(jnp.copy, state), ""
    except jax.errors.JaxRuntimeError as error:  # enough in all, but in pieces
        return None, str(error).splitlines()[0]


def _bytes_by_device(state: TrainState) -> collections.Counter[jax.Device]:
    count: collections.Counter[jax.Device] = collections.Counter()
    for x in jax.tree.leaves(state):
        for shard in x.addressable_shards:
            count[shard.device] += shard.data.nbytes
    return count


class _Peaks:
    """Peaks of devices' memory without what copies took of them.

    JAX tells the largest use since the process began. Once a copy was there beside the steps, that
    is of both, and taken for the steps' alone it would leave room for two copies, not for one.
    """

    def __init__(self):
        self._seen: collections.Counter[jax.Device] = collections.Counter()
        self._steps: collections.Counter[jax.Device] = collections.Counter()

    def spare_bytes(self, device: jax.Device, copied: int = 0) -> int | None:
        """Memory that steps have not used so far; None if it is the host's.

        `copied`: bytes of a copy that is there, and was since the last call.
        """
        memory = _memory(device)
        if memory is None:
            return None
        limit, peak = memory
        if peak > self._seen[device]:
            self._seen[device] = peak
            self._steps[device] = max(self._steps[device], peak - copied)
        return limit - self._steps[device]


def _memory(device: jax.Device) -> tuple[int, int] | None:
    """The device's bytes, and the most that were in use; None if its memory is the host's."""
    memory = device.memory_stats() or {}
    if "bytes_limit" not in memory or "peak_bytes_in_use" not in memory:
        return None
    return memory["bytes_limit"], memory["peak_bytes_in_use"]


def _uncompressed() -> ocp.Context:
    """Orbax's zstd takes longer than all else of a save, and weights hardly shrink by it."""
    context = ocp.Context()
    context.array.saving.use_compression = False
    return context


def _arrays(state: TrainState) -> dict[str, str]:
    """Shape and dtype by name, like {"weights/embed": "float32[32, 16]"}."""
    return {
        path_name(path): f"{x.dtype}{list(x.shape)}"
        for path, x in jax.tree_util.tree_leaves_with_path(state)
    }


def with_shardings(abstract_state: TrainState, shardings: TrainState) -> TrainState:
    """Shapes and dtypes annotated with where to put them."""
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract_state, shardings
    )
