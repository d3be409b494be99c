# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Tokenizers behind one interface: bytes, SentencePiece models, GPT-2's byte-pair encoding.

Nothing is downloaded. Text that looks like a special token ("<s>", "<|endoftext|>") is text.
"""

import base64
import binascii
import hashlib
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Protocol

END_OF_TEXT = "<|endoftext|>"
# How GPT-2 splits text before merging (Radford et al. 2019; tiktoken's equivalent, faster pattern).
GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"


class Tokenizer(Protocol):
    """Text to ids and back; `decode(encode(text)) == text`.

    Attributes:
        vocab_size: every id is below it.
        document_start: the id that precedes every document.
        digest: SHA-256 of its files, in hexadecimal.
    """

    vocab_size: int
    document_start: int
    digest: str

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without `document_start`."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of a whole document; bytes that are no UTF-8 become U+FFFD."""
        ...

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The UTF-8 of a document from its start on; special ids are nothing."""
        ...


class _Decodes:
    """Text from bytes, the same for all."""

    def decode(self, ids: Sequence[int]) -> str:
        return self.decode_bytes(ids).decode(errors="replace")


class ByteTokenizer(_Decodes):
    """UTF-8 itself; the zero byte, which text does not contain, starts documents."""

    vocab_size = 256
    document_start = 0
    digest = hashlib.sha256(b"bytes").hexdigest()

    def encode(self, text: str) -> list[int]:
        """Raises ValueError if `text` contains a zero byte."""
        encoded = text.encode()
        if self.document_start in encoded:
            raise ValueError("data: wanted text, got a zero byte")
        return list(encoded)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return bytes(ids).replace(b"\0", b"")


class SentencePieceTokenizer(_Decodes):
    """A SentencePiece model (Kudo, Richardson 2018); documents start with its `bos`."""

    def __init__(self, path: Path):
        library = _import("sentencepiece")
        content = path.read_bytes()
        try:
            self._model = library.SentencePieceProcessor(model_proto=content)
        except (RuntimeError, OSError) as error:
            raise ValueError(f"tokenizer: {path}: wanted a SentencePiece model") from error
        self.vocab_size = self._model.vocab_size()
        self.document_start = self._model.bos_id()
        if self.document_start < 0:
            raise ValueError(f"tokenizer: {path}: wanted a model with a bos piece, got none")
        self.digest = hashlib.sha256(content).hexdigest()
        self._bytes = [self._bytes_of(i) for i in range(self.vocab_size)]
        self._has_prefix = self._bytes[self._model.encode("x")[0]].startswith(b" ")

    def _bytes_of(self, index: int) -> bytes:
        if self._model.is_control(index):
            return b""
        if self._model.is_byte(index):
            return bytes([int(self._model.id_to_piece(index)[3:5], 16)])
        if self._model.is_unknown(index):
            return "\N{REPLACEMENT CHARACTER}".encode()
        return self._model.id_to_piece(index).replace("\N{LOWER ONE EIGHTH BLOCK}", " ").encode()

    def encode(self, text: str) -> list[int]:
        return self._model.encode(text)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        text = b"".join(self._bytes[i] for i in ids)
        # The model writes a space before a document's first word.
        return text[1:] if self._has_prefix and text.startswith(b" ") else text


class GPT2Tokenizer(_Decodes):
    """GPT-2's byte-pair encoding; documents start with its end of text."""

    def __init__(self, ranks: dict[bytes, int], digest: str):
        library = _import("tiktoken")
        self.document_start = len(ranks)
        self.vocab_size = len(ranks) + 1
        self.digest = digest
        self._encoding = library.Encoding(
            "gpt2",
            pat_str=GPT2_PATTERN,
            mergeable_ranks=ranks,
            special_tokens={END_OF_TEXT: self.document_start},
        )

    def encode(self, text: str) -> list[int]:
        return self._encoding.encode_ordinary(text)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return self._encoding.decode_bytes([i for i in ids if i != self.document_start])


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer that `name` says.

    Args:
        name: "bytes"; a SentencePiece file, `*.model`; a folder with GPT-2's `*encoder.json` and
            `*vocab.bpe`; a file in tiktoken's format, `*.tiktoken`, with GPT-2's vocabulary.
    Raises:
        ValueError: none of these, or a damaged file; the message starts with "tokenizer:".
        ImportError: the package that reads it is missing; says what to install.
    """
    path = Path(name)
    if name == "bytes":
        return ByteTokenizer()
    if path.is_dir():
        return _read_gpt2_folder(path)
    if path.is_file() and path.suffix == ".model":
        return SentencePieceTokenizer(path)
    if path.is_file() and path.suffix == ".tiktoken":
        return _read_tiktoken(path)
    raise ValueError(
        'tokenizer: wanted "bytes", a SentencePiece file *.model, a folder with GPT-2\'s '
        f"encoder.json and vocab.bpe, or a file *.tiktoken; got {name!r}"
    )


def _import(package: str) -> ModuleType:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"tokenizer: wanted the package {package}: pip install {package}"
        ) from error


def printable_bytes() -> dict[str, int]:
    """GPT-2's files write every byte as one printable character: itself, or one from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def _read_gpt2_folder(folder: Path) -> GPT2Tokenizer:
    found = []
    for pattern in ("*encoder.json", "*vocab.bpe"):
        paths = sorted(folder.glob(pattern))
        if len(paths) != 1:
            raise ValueError(f"tokenizer: wanted one {pattern} in {folder}, got {len(paths)}")
        found.append(paths[0].read_bytes())
    characters = printable_bytes()
    try:
        ids = json.loads(found[0])
        end = ids.pop(END_OF_TEXT)
        ranks = {bytes(characters[c] for c in token): rank for token, rank in ids.items()}
        lines = found[1].decode().splitlines()[1:]  # the first is the version
        merges = [line.replace(" ", "") for line in lines if line]
        in_order = [ids.get(merge) for merge in merges] == list(range(256, 256 + len(merges)))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(
            f"tokenizer: {folder}: wanted GPT-2's encoder.json and vocab.bpe"
        ) from error
    # Merging goes by rank, so an id is its rank: 256 bytes, then the merges in order.
    if not in_order or end != 256 + len(merges):
        raise ValueError(f"tokenizer: {folder}: wanted encoder.json's ids in vocab.bpe's order")
    _check_ranks(ranks, str(folder))
    return GPT2Tokenizer(ranks, hashlib.sha256(b"".join(found)).hexdigest())


def _read_tiktoken(path: Path) -> GPT2Tokenizer:
    content = path.read_bytes()
    try:
        pairs = [line.split() for line in content.splitlines() if line.strip()]
        ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in pairs}
    except (ValueError, binascii.Error) as error:
        raise ValueError(f'tokenizer: {path}: wanted lines of "BASE64 RANK"') from error
    _check_ranks(ranks, str(path))
    return GPT2Tokenizer(ranks, hashlib.sha256(content).hexdigest())


def _check_ranks(ranks: dict[bytes, int], where: str) -> None:
    ids = [rank for rank in ranks.values() if isinstance(rank, int)]
    if sorted(ids) != list(range(len(ranks))) or not all(
        bytes([byte]) in ranks for byte in range(256)
    ):
        raise ValueError(f"tokenizer: {where}: wanted every byte, and ids from 0 without a gap")
