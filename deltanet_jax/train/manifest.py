# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""manifest.json: what a checkpoint's folder must hold, byte for byte, and what made it.

The text ends with the SHA-256 of itself, so a change anywhere in the folder is noticed, in the
manifest too. It guards against accidents (disks, copies, cut-off writes); whoever can write the
folder can write a manifest as well.
"""

import concurrent.futures
import hashlib
import json
import os
from pathlib import Path

from deltanet_jax.train.files import read_json, sync, write_atomically

NAME = "manifest.json"
FORMAT_VERSION = 1
THREADS = 4  # hashing leaves Python's lock to others


class Damaged(Exception):
    """A checkpoint's folder is not what its manifest says; the message names the file."""


def write(folder: Path, facts: dict) -> None:
    """Hashes every file below `folder`, then writes the manifest; all of it is on disk then.

    `facts`: JSON values to keep beside the hashes.
    """
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        hashes = list(pool.map(_sha256, paths))
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
        if version != FORMAT_VERSION or _sealed(content) != path.read_text():
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
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        found = pool.map(lambda item: _difference(root, *item), content["files"].items())
        for name, difference in zip(content["files"], found, strict=True):
            if difference:
                raise Damaged(f"{name}: {difference}")
    return content


def _difference(root: Path, name: str, wanted: dict) -> str | None:
    path = root / name
    try:
        if path.resolve() != path or not path.is_relative_to(root):
            return "leads out of the folder"
        size = path.stat().st_size
        if size != wanted["bytes"]:
            return f"wanted {wanted['bytes']} bytes, got {size}"
        if _sha256(path) != wanted["sha256"]:
            return "its SHA-256 is not the manifest's"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return _reason(error)
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sealed(content: dict) -> str:
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return json.dumps({**content, "sha256": digest}, indent=1) + "\n"


def _reason(error: Exception) -> str:
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
