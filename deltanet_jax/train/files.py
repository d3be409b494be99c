# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all, and a directory that belongs to one run at a time."""

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

# A JSON file of ours is far below this; a larger one is not read. A hostile one of this size costs
# about a second and 22 times as much memory.
MAX_JSON_BYTES = 8 * 2**20


def sync(path: Path) -> None:
    """Returns once the file, or the names in the folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)  # Linux has it
SYNC_FILE_RANGE_WRITE = 2


def start_sync(descriptor: int, start: int, size: int) -> None:
    """Asks the kernel to begin writing `size` bytes of a file from `start` on to the disk.

    Left to itself it begins when asked to sync, and the disk has nothing to do until then. Nothing
    is promised, nor failed: that is for `sync`, which finds less to do.
    """
    if _sync_file_range is not None:
        place = ctypes.c_int64(start), ctypes.c_int64(size)
        _sync_file_range(descriptor, *place, SYNC_FILE_RANGE_WRITE)


def make_directory(path: Path) -> None:
    """Makes it and what it lies in, where they are not there; their names are on disk then."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync(folder.parent)


def write_atomically(path: Path, text: str) -> None:
    """Writes `path` so that at any instant it holds the old text or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync(path.parent)


def read_json(path: Path) -> object:
    """The JSON value in a file.

    Raises:
        ValueError: too large, too deep or no JSON; the message names the file.
    """
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise ValueError(f"{path}: wanted at most {MAX_JSON_BYTES} bytes of JSON, got {size}")
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: wanted JSON: {error}") from error


def first_process(function: Callable[[], int]) -> int:
    """What `function` returns in the first process, in all of them.

    If it raises, all processes do: the first one what `function` raised, the others ValueError.
    """
    if jax.process_count() == 1:
        return function()
    failure, answer = None, 0
    if jax.process_index() == 0:
        try:
            answer = function()
        except Exception as error:
            failure = error
    failed, answer = multihost_utils.broadcast_one_to_all(
        np.asarray([failure is not None, answer], np.int32)
    )
    if failure is not None:
        raise failure
    if failed:
        raise ValueError("the first process refused; its message says why")
    return int(answer)


def prepare_directory(directory: Path, needed_bytes: int) -> None:
    """Makes the directory if need be, and sees that files can be written there.

    Raises:
        ValueError: they cannot, or the disk has less than `needed_bytes` free.
    """
    try:
        make_directory(directory)
        probe = directory / f"probe-{os.getpid()}"
        write_atomically(probe, "probe")
        probe.unlink()
    except OSError as error:
        raise ValueError(f"workdir: wanted a directory to write to: {error}") from error
    free = shutil.disk_usage(directory).free
    if free < needed_bytes:
        raise ValueError(
            f"workdir: wanted {needed_bytes:,} bytes free for a checkpoint in {directory}, "
            f"got {free:,}"
        )


@contextlib.contextmanager
def locked(directory: Path, name: str = "workdir") -> Iterator[None]:
    """Holds `directory` for this process; the kernel lets go of it when the process ends.

    `name`: of the option that named it, for messages.

    Raises:
        ValueError: another process holds it; names its host and id.
    """
    with (directory / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise ValueError(
                f"{name}: {directory} is in use by another run, {file.read() or 'starting'}"
            ) from None
        except OSError as error:
            raise ValueError(f"{name}: {directory} cannot be locked: {error}") from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield
