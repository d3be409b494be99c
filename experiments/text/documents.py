# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Documents from files: text, JSONL and Parquet, plain or compressed, one at a time."""

import contextlib
import gzip
import json
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

OPENERS = {".gz": gzip.open, ".xz": lzma.open}
JSONL = (".jsonl", ".ndjson")
PARQUET = ".parquet"
PARQUET_ROWS = 1024  # in memory at a time
# Compressed files may hold a thousand times their size: a document of one is not larger than this.
MAX_UNPACKED_BYTES = 128 * 2**20
MAX_LINE_BYTES = 16 * 2**20  # JSON may become 22 times as large in memory
# Where a document of a text file starts: at its beginning, or at lines "= Title =" too.
FILE, TITLE = "file", "title"
BOUNDARIES = (FILE, TITLE)


class Document(NamedTuple):
    """A document and where it came from.

    Attributes:
        text: its bytes, UTF-8 if it came from JSONL or Parquet.
        where: file and line or row, for messages.
        position: about how many bytes of its file on disk were read with it.
    """

    text: bytes
    where: str
    position: int


def find_files(paths: tuple[str, ...], name: str = "data") -> list[Path]:
    """The files named, and all files below the folders named, in a fixed order.

    Raises:
        ValueError: a path does not exist or holds no file; starts with `name`, the flag's.
    """
    files = []
    for text in paths:
        path = Path(text)
        if not path.exists():
            raise ValueError(f"{name}: wanted a file or folder, got {text!r}, which does not exist")
        found = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        if not found:
            raise ValueError(f"{name}: wanted files, got the empty folder {text!r}")
        files += found
    return files


def read_documents(path: Path, boundary: str = FILE) -> Iterator[Document]:
    """The documents of a file, of which no more than one (Parquet: 1024) is in memory.

    Args:
        path: JSONL has one a line, Parquet one a row, both under the name "text"; anything else is
            text. `.gz` and `.xz` are read through.
        boundary: "file": a text file is one document. "title": one starts at every line "= Title ="
            (with spaces around, as WikiText has; "= = Section = =" starts none), as in
            lm-evaluation-harness's WikiText; the newline before such a line belongs to none.
    Raises:
        ValueError: a line without a "text", a damaged file, more than can be meant; names file and
            line.
    """
    if path.suffix == PARQUET:
        yield from _parquet(path)
        return
    plain = path.with_suffix("") if path.suffix in OPENERS else path
    read = {FILE: _whole, TITLE: _titled}[boundary] if plain.suffix not in JSONL else _jsonl
    with unpacked("data", path) as (file, raw):
        yield from read(path, file, raw)


@contextlib.contextmanager
def unpacked(name: str, path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """What is in a file, and the file itself; they are the same unless it is `.gz` or `.xz`.

    Raises:
        ValueError: in the body, of a compressed file that is damaged; starts with `name`.
    """
    with path.open("rb") as raw, OPENERS.get(path.suffix, lambda file: file)(raw) as file:
        try:
            yield file, raw
        except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{name}: {path}: wanted a whole compressed file: {error}") from error


def bounded_lines(name: str, path: Path, file: BinaryIO) -> Iterator[bytes]:
    """The lines of `file`.

    Raises:
        ValueError: one is longer than MAX_LINE_BYTES, of which no more is read; the message starts
            with `name`.
    """
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise ValueError(
                f"{name}: {path}:{number}: wanted lines of at most {MAX_LINE_BYTES} bytes"
            )
        yield line


def _check_unpacked(path: Path, size: int) -> None:
    if size > MAX_UNPACKED_BYTES:
        raise ValueError(
            f"data: {path}: wanted documents of at most {MAX_UNPACKED_BYTES} bytes in a compressed "
            "file; unpack it if it is what it should be"
        )


def _whole(path: Path, file: BinaryIO, raw: BinaryIO) -> Iterator[Document]:
    text = file.read() if file is raw else file.read(MAX_UNPACKED_BYTES + 1)
    if file is not raw:
        _check_unpacked(path, len(text))
    yield Document(text, str(path), raw.tell())


def is_title(line: bytes) -> bool:
    """Whether a document starts at this line of a Wikipedia-like text."""
    line = line.strip()
    if line[:1] != b"=" or line[-1:] != b"=":
        return False
    line = line.replace(b"= = =", b"===").replace(b"= =", b"==")
    return line.startswith(b"= ") and line.endswith(b" =")


def _titled(path: Path, file: BinaryIO, raw: BinaryIO) -> Iterator[Document]:
    lines: list[bytes] = []
    start, size = 1, 0
    for number, line in enumerate(bounded_lines("data", path, file), start=1):
        if is_title(line):
            text = b"".join(lines).removesuffix(b"\n")
            if text.strip():
                yield Document(text, f"{path}:{start}", raw.tell())
            lines, start, size = [], number, 0
        lines.append(line)
        size += len(line)
        if file is not raw:
            _check_unpacked(path, size)
    text = b"".join(lines)
    if text.strip():
        yield Document(text, f"{path}:{start}", raw.tell())


def _jsonl(path: Path, file: BinaryIO, raw: BinaryIO) -> Iterator[Document]:
    for number, line in enumerate(bounded_lines("data", path, file), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            text = json.loads(line)["text"].encode()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(f'data: {where}: wanted a JSON object with a "text"') from error
        yield Document(text, where, raw.tell())


def _parquet(path: Path) -> Iterator[Document]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError("data: Parquet wants the package pyarrow: pip install pyarrow") from error
    try:
        file = pyarrow.parquet.ParquetFile(path)
        size, rows, number = path.stat().st_size, file.metadata.num_rows, 0
        for batch in file.iter_batches(PARQUET_ROWS, columns=["text"]):
            for value in batch.column("text"):
                number += 1
                where = f"{path}, row {number}"
                text = value.as_py()
                if not isinstance(text, str):
                    raise ValueError(f"data: {where}: wanted a text, got {type(text).__name__}")
                yield Document(text.encode(), where, size * number // rows)
    except (pyarrow.ArrowException, KeyError, OSError) as error:  # OSError: damaged pages
        raise ValueError(f'data: {path}: wanted Parquet with a column "text": {error}') from error
