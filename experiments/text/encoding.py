# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What a process that tokenizes runs. Imports little, as every such process starts anew."""

import numpy as np

from experiments.text.tokenizers import Tokenizer, load_tokenizer

_loaded: dict[str, Tokenizer] = {}  # a process has one tokenizer; loading it takes a while


def start(name: str) -> None:
    """Loads the tokenizer of this process."""
    _loaded["tokenizer"] = load_tokenizer(name)


def encode(documents: list[tuple[bytes, str]]) -> tuple[np.ndarray, np.ndarray]:
    """(ids of all documents, each after the document_start [N] uint32; tokens of each [M] int64).

    `documents`: (UTF-8, where it comes from). Raises ValueError, naming the place, for other text.
    """
    tokenizer = _loaded["tokenizer"]
    ids, lengths = [], []
    for text, where in documents:
        try:
            new = tokenizer.encode(text.decode())
        except UnicodeDecodeError as error:
            raise ValueError(f"data: {where}: wanted UTF-8: {error}") from error
        except ValueError as error:
            raise ValueError(f"data: {where}: {str(error).removeprefix('data: ')}") from error
        ids.append(tokenizer.document_start)
        ids += new
        lengths.append(1 + len(new))
    return np.array(ids, np.uint32), np.array(lengths, np.int64)
