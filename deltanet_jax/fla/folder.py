# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""A Hugging Face folder: config.json and safetensors, in one file or in shards with an index.

Format: https://huggingface.co/docs/safetensors. Only headers are read until a tensor is asked for.
"""

import contextlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from deltanet_jax.train.files import read_json, sync, write_atomically

CONFIG, SINGLE = "config.json", "model.safetensors"
INDEX = f"{SINGLE}.index.json"
# A header has about 120 bytes a tensor; a larger one is not read.
MAX_HEADER_BYTES = 16 * 2**20
DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}


class Spec(NamedTuple):
    """A tensor's dtype ("bfloat16", "float16" or "float32") and shape."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.shape)}"

    @property
    def bytes(self) -> int:
        """Of the data."""
        return jnp.dtype(self.dtype).itemsize * int(np.prod(self.shape, dtype=np.int64))


class Folder:
    """The tensors of a folder; use as a context manager.

    Attributes:
        specs: of every tensor, by name.
    """

    def __init__(self, path: Path):
        """Reads the headers.

        Raises:
            ValueError: no safetensors, a damaged file, or an index that does not fit the shards.
        """
        self._resources = contextlib.ExitStack()
        self._files: dict[str, safe_open] = {}
        self.specs: dict[str, Spec] = {}
        try:
            for name, found in _file_names(path).items():
                self._add(path / name, found)
        except BaseException:
            self._resources.close()
            raise

    def _add(self, path: Path, indexed: set[str] | None) -> None:
        _check_header(path)
        try:
            file = self._resources.enter_context(safe_open(path, framework="numpy"))
            names = set(file.keys())
            slices = {name: file.get_slice(name) for name in names}
            found = {name: (s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path}: wanted a safetensors file: {error}") from error
        if indexed is not None and names != indexed:
            raise ValueError(
                f"{path}: wanted the tensors that {INDEX} names; missing {sorted(indexed - names)},"
                f" unexpected {sorted(names - indexed)}"
            )
        for name, (dtype, shape) in found.items():
            if dtype not in DTYPES:
                raise ValueError(f"{path}: {name}: wanted a dtype of {sorted(DTYPES)}, got {dtype}")
            self.specs[name] = Spec(DTYPES[dtype], shape)
            self._files[name] = file

    def read(self, name: str) -> np.ndarray:
        """One tensor, copied from the file."""
        return self._files[name].get_tensor(name)

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *exc_info) -> None:
        self._resources.close()


def _file_names(folder: Path) -> dict[str, set[str] | None]:
    """Files of tensors, each with the names it must hold; None where there is no index."""
    single, index = folder / SINGLE, folder / INDEX
    if single.is_file() and index.is_file():
        raise ValueError(f"{folder}: wanted {SINGLE} or {INDEX}, got both")
    if single.is_file():
        return {SINGLE: None}
    if not index.is_file():
        raise ValueError(f"{folder}: wanted {SINGLE} or {INDEX}; other formats are not read")
    content = read_json(index)
    table = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(table, dict) or not table:
        raise ValueError(f"{index}: wanted an object with a weight_map, got none")
    files: dict[str, set[str]] = {}
    for tensor, name in table.items():
        if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w.-]*\.safetensors", name):
            raise ValueError(f"{index}: {tensor}: wanted a file's name in the folder, got {name!r}")
        files.setdefault(name, set()).add(tensor)
    return files


def _check_header(path: Path) -> None:
    """Refuses what says that its header is longer than the file, or than any good one."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
    except OSError as error:
        raise ValueError(f"{path}: wanted a safetensors file: {os.strerror(error.errno)}") from None
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
        raise ValueError(
            f"{path}: wanted a header of 2 to {MAX_HEADER_BYTES} bytes within the file, got one of "
            f"{length} in {size}"
        )


def read_config(folder: Path) -> dict:
    """config.json. Raises ValueError if there is none, or no object in it."""
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder}: wanted a folder with {CONFIG}, got none")
    config = read_json(path)
    if not isinstance(config, dict):
        raise ValueError(f"{path}: wanted an object, got {type(config).__name__}")
    return config


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which appears at `path` only when all is written; else nothing does.

    Raises:
        ValueError: `path` exists and is not an empty folder, or cannot be made.
    """
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ValueError(f"output: wanted a folder that does not exist or is empty, got {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise ValueError(f"output: wanted a folder to write to: {error}") from error
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp's is for its maker alone
        for each in temporary.rglob("*"):
            sync(each)
        sync(temporary)
        os.rename(temporary, path)
        sync(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_folder(
    folder: Path,
    config: dict,
    specs: dict[str, Spec],
    make: Callable[[str], np.ndarray],
    max_shard_bytes: int,
) -> None:
    """Writes config.json and the tensors `make(name)` of `specs`, one shard in memory at a time.

    One file, or shards of at most `max_shard_bytes` (a larger tensor has one of its own).
    """
    shards: list[list[str]] = [[]]
    size = 0
    for name, spec in specs.items():
        if shards[-1] and size + spec.bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += spec.bytes
    table = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors" if len(shards) > 1 else SINGLE
        tensors = {name: np.ascontiguousarray(make(name)) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        table |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = sum(spec.bytes for spec in specs.values())
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(table.items()))}
        write_atomically(folder / INDEX, json.dumps(index, indent=2) + "\n")
    write_atomically(folder / CONFIG, json.dumps(config, indent=2) + "\n")
