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

from deltanet_jax.train.files import read_json, sync, write_atomically

NAME = "manifest.json"
# 2: a file's hash is that of its pieces' hashes, so that one large file keeps several threads
# busy. 1: of the whole file.
FORMAT_VERSION = 2
PIECE_BYTES = {1: 2**62, 2: 16 * 2**20}
BUFFER_BYTES = 2**20
THREADS = min(8, os.cpu_count() or 1)  # hashing leaves Python's lock to others
LOOK_SECONDS = 0.05


class Damaged(Exception):
    """A checkpoint's folder is not what its manifest says; the message names the file."""


class Early:
    """Hashes large files piece by piece while they are written; use as a context manager.

    For writers that only append, as TensorStore's do: bytes with a whole piece after them stay as
    they are. Were that wrong, the hash would not be the file's and the checkpoint count as damaged.
    """

    def __init__(self, directory: Path, prefix: str):
        """Looks at the folders in `directory` whose names begin with `prefix`."""
        self._directory, self._prefix = directory, prefix
        # By inode and place. A file that is open keeps its inode from being given to another.
        self._digests: dict[tuple[int, int], bytes] = {}
        self._files = contextlib.ExitStack()
        self._inodes: set[int] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="early hashes", daemon=True)

    def __enter__(self) -> "Early":
        self._thread.start()
        return self

    def __exit__(self, *exc_info) -> None:
        self.stop()
        self._files.close()

    def stop(self) -> None:
        """Ends the looking; what is known stays."""
        self._over.set()
        self._thread.join()

    def get(self, path: Path, start: int) -> bytes | None:
        """The digest of a whole piece of `path`, if it is known."""
        return self._digests.get((path.stat().st_ino, start))

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            for folder in self._directory.glob(f"{self._prefix}*"):
                for path in folder.rglob("*"):
                    # What is moved or removed meanwhile is hashed in the end, if it is still there.
                    with contextlib.suppress(OSError):
                        self._look(path)

    def _look(self, path: Path) -> None:
        piece = PIECE_BYTES[FORMAT_VERSION]
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size < 2 * piece:
            return
        if found.st_ino not in self._inodes:
            file = self._files.enter_context(path.open("rb"))
            if os.fstat(file.fileno()).st_ino != found.st_ino:
                return
            self._inodes.add(found.st_ino)
        for start in range(0, found.st_size - 2 * piece + 1, piece):
            if self._over.is_set():
                return
            if (found.st_ino, start) not in self._digests:
                self._digests[found.st_ino, start] = _piece(path, start, piece)


def write(folder: Path, facts: dict, early: Early | None = None) -> None:
    """Hashes every file below `folder`, then writes the manifest; all of it is on disk then.

    `facts`: JSON values to keep beside the hashes. `early`: digests that may be known already.
    """
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        hashes = list(_sha256s(paths, pool, early=early))
        list(pool.map(sync, [*paths, *(p for p in folder.rglob("*") if p.is_dir())]))
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

    def digest(path: Path, start: int) -> bytes:
        known = early and early.get(path, start)
        return known or _piece(path, start, piece_bytes)

    jobs = [
        [pool.submit(digest, path, start) for start in _starts(path, piece_bytes)] for path in paths
    ]
    return (_combined([job.result() for job in pieces]) for pieces in jobs)


def _starts(path: Path, piece_bytes: int) -> range:
    return range(0, max(1, path.stat().st_size), piece_bytes)


def _combined(digests: list[bytes]) -> str:
    if len(digests) == 1:
        return digests[0].hex()
    return hashlib.sha256(b"".join(digests)).hexdigest()


def _piece(path: Path, start: int, size: int) -> bytes:
    digest, buffer = hashlib.sha256(), memoryview(bytearray(BUFFER_BYTES))
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while size > 0 and (count := file.readinto(buffer[: min(size, BUFFER_BYTES)])):
            digest.update(buffer[:count])
            size -= count
    return digest.digest()


def _sealed(content: dict) -> str:
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps({**content, "sha256": digest}, indent=1) + "\n"


def _reason(error: Exception) -> str:
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
