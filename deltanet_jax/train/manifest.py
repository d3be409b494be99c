# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""manifest.json: what a checkpoint's folder must hold, byte for byte, and what made it.

The text ends with the SHA-256 of itself, so a change anywhere in the folder is noticed, in the
manifest too. It guards against accidents (disks, copies, cut-off writes); whoever can write the
folder can write a manifest as well.
"""

import concurrent.futures
import contextlib
import errno
import hashlib
import json
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from deltanet_jax.train.files import read_json, start_sync, sync, write_atomically

NAME = "manifest.json"
# 2: a file's hash is that of its pieces' hashes, so that one large file keeps several threads
# busy. 1: of the whole file.
FORMAT_VERSION = 2
PIECE_BYTES = {1: 2**62, 2: 16 * 2**20}
BUFFER_BYTES = 2**20
EARLY_BYTES = BUFFER_BYTES  # smaller files are hashed in the end
THREADS = min(8, os.cpu_count() or 1)  # hashing leaves Python's lock to others
LOOK_SECONDS = 0.02
NICENESS = 10  # of threads that hash early; with 19 a piece begun would keep a busy machine waiting


class Damaged(Exception):
    """A checkpoint's folder is not what its manifest says; the message names the file."""


class Early:
    """Hashes files piece by piece while they are written; use as a context manager.

    For writers that only append, as TensorStore's do: what is below a file's size stays as it is.
    Were that wrong, the hash would not be the file's and the checkpoint count as damaged. Each
    piece is sent to the disk at once, so that disk, hashes and writer work side by side.
    """

    def __init__(self, directory: Path, prefix: str):
        """Looks at the folders in `directory` whose names begin with `prefix`."""
        self._directory, self._prefix = directory, prefix
        # A file that is open keeps its inode from being given to another, and may be renamed.
        self._files: dict[int, BinaryIO] = {}
        self._sizes: dict[int, int] = {}
        self._jobs: dict[tuple[int, int, int], concurrent.futures.Future[bytes]] = {}
        self._pool = concurrent.futures.ThreadPoolExecutor(THREADS, "early hashes", _give_way)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="early looks", daemon=True)

    def __enter__(self) -> "Early":
        self._thread.start()
        return self

    def __exit__(self, *exc_info) -> None:
        self.stop()
        self._pool.shutdown(cancel_futures=True)
        for file in self._files.values():
            file.close()

    def stop(self) -> None:
        """Ends the looking; what is known or begun stays, the rest is left to whoever asks."""
        self._over.set()
        self._thread.join()
        for job in self._jobs.values():
            job.cancel()

    def get(self, path: Path, start: int, size: int) -> bytes | None:
        """The digest of `size` bytes of `path` from `start` on, if it is known or begun."""
        job = self._jobs.get((path.stat().st_ino, start, size))
        return None if job is None or job.cancelled() else job.result()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            for folder in self._directory.glob(f"{self._prefix}*"):
                for path in folder.rglob("*"):
                    # What is moved or removed meanwhile is hashed in the end, if it is still there.
                    with contextlib.suppress(OSError):
                        self._look(path)

    def _look(self, path: Path) -> None:
        found = path.stat()
        inode, size = found.st_ino, found.st_size
        if not stat.S_ISREG(found.st_mode) or size < EARLY_BYTES:
            return
        if inode not in self._files:
            file = path.open("rb", buffering=0)
            if os.fstat(file.fileno()).st_ino != inode:
                file.close()
                return
            self._files[inode] = file
        whole, self._sizes[inode] = self._sizes.get(inode) == size, size
        for start, count in _pieces(size, PIECE_BYTES[FORMAT_VERSION]):
            place = inode, start, count
            # A shorter piece is the last one of a file that has stopped growing.
            if place not in self._jobs and (whole or count == PIECE_BYTES[FORMAT_VERSION]):
                file = self._files[inode]
                self._jobs[place] = self._pool.submit(_digest, file, start, count)
                start_sync(file.fileno(), start, count)


def _give_way() -> None:
    """Lets other threads have the core first: those that write, and the training."""
    with contextlib.suppress(OSError):  # systems where threads have no priorities of their own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)


def write(folder: Path, facts: dict, early: Early | None = None) -> None:
    """Hashes every file below `folder`, then writes the manifest; all of it is on disk then.

    `facts`: JSON values to keep beside the hashes. `early`: digests that may be known already.
    """
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    folders = [p for p in folder.rglob("*") if p.is_dir()]
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        syncs = [pool.submit(sync, path) for path in (*paths, *folders)]
        hashes = list(_sha256s(paths, pool, early=early))
        for done in syncs:
            done.result()
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, hashes, strict=True)
    }
    content = {"format_version": FORMAT_VERSION, **facts, "files": files}
    write_atomically(folder / NAME, _sealed(content))


def read(folder: Path) -> dict:
    """The manifest of `folder`, itself intact; the files are not looked at.

    Raises:
        Damaged: there is none, or it is not what was written.
        ValueError: it is of a newer format.
    """
    path = folder / NAME
    try:
        content = read_json(path)
        version = content.pop("format_version")
        if isinstance(version, int) and version > FORMAT_VERSION:
            raise NotImplementedError(version)
        content.pop("sha256")
        content = {"format_version": version, **content}
        content["files"].items()
        if version not in PIECE_BYTES or _sealed(content) != path.read_text():
            raise ValueError("its own SHA-256 does not fit")
    except NotImplementedError:
        raise ValueError(
            f"{path}: wanted format_version up to {FORMAT_VERSION}, got {version}: written by a "
            "newer version of this library"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{NAME}: {_reason(error)}") from error
    return content


def verify(folder: Path) -> dict:
    """The manifest, after every file's size and hash were found to be right.

    Raises:
        Damaged, ValueError: like `read`; Damaged for the first file that is not right.
    """
    content = read(folder)
    root = folder.resolve()
    files = content["files"]
    for name, wanted in files.items():
        if difference := _outer_difference(root, name, wanted):
            raise Damaged(f"{name}: {difference}")
    paths = [root / name for name in files]
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        found = _sha256s(paths, pool, content["format_version"])
        for name, wanted in files.items():
            try:
                right = next(found) == wanted["sha256"]
            except OSError as error:
                raise Damaged(f"{name}: {_reason(error)}") from error
            if not right:
                raise Damaged(f"{name}: its SHA-256 is not the manifest's")
    return content


def _outer_difference(root: Path, name: str, wanted: dict) -> str | None:
    """What is wrong with a file's place, size or entry, without reading it."""
    path = root / name
    try:
        if path.resolve() != path or not path.is_relative_to(root):
            return "leads out of the folder"
        if not path.is_file():
            return os.strerror(errno.ENOENT)
        size = path.stat().st_size
        if size != wanted["bytes"]:
            return f"wanted {wanted['bytes']} bytes, got {size}"
        if not isinstance(wanted["sha256"], str):
            return f"wanted a SHA-256, got {wanted['sha256']!r}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return _reason(error)
    return None


def _sha256s(
    paths: list[Path],
    pool: concurrent.futures.Executor,
    version: int = FORMAT_VERSION,
    early: Early | None = None,
) -> Iterator[str]:
    """The hash of each file, in order; pieces of all of them are hashed side by side.

    Of a file of one piece its SHA-256, else that of the pieces' digests, one after another.
    Raises OSError for a file when it is that one's turn.
    """

    piece_bytes = PIECE_BYTES[version]

    def digest(path: Path, start: int, size: int) -> bytes:
        known = early and early.get(path, start, size)
        return known or _piece(path, start, size)

    jobs = [
        [pool.submit(digest, path, *piece) for piece in _pieces(path.stat().st_size, piece_bytes)]
        for path in paths
    ]
    return (_combined([job.result() for job in pieces]) for pieces in jobs)


def _pieces(size: int, piece_bytes: int) -> Iterator[tuple[int, int]]:
    """First byte and length of each piece; an empty file has one."""
    starts = range(0, max(1, size), piece_bytes)
    return ((start, min(piece_bytes, size - start)) for start in starts)


def _combined(digests: list[bytes]) -> str:
    if len(digests) == 1:
        return digests[0].hex()
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _piece(path: Path, start: int, size: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        return _digest(file, start, size)


def _digest(file: BinaryIO, start: int, size: int) -> bytes:
    """Of `size` bytes, fewer at the file's end; several threads may read the same file."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(BUFFER_BYTES))
    end = start + size
    while count := os.preadv(file.fileno(), [buffer[: min(end - start, BUFFER_BYTES)]], start):
        digest.update(buffer[:count])
        start += count
    return digest.digest()


def _sealed(content: dict) -> str:
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps({**content, "sha256": digest}, indent=1) + "\n"


def _reason(error: Exception) -> str:
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
