# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""WikiText's word-level perplexity by the rule of lm-evaluation-harness (task `wikitext`).

Every page is turned back into ordinary text, scored whole in windows of the model's length, and the
sum of log-likelihoods is divided by the number of words of the pages as they were.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from experiments.text.documents import TITLE, read_documents

# In this order: (what WikiText's tokenization wrote, ordinary text). The patterns are the harness's
# down to those that match nothing.
REPLACEMENTS: tuple[tuple[str | re.Pattern, str], ...] = (
    ("s '", "s'"),
    (re.compile(r"/' [0-9]/"), r"/'[0-9]/"),
    (" @-@ ", "-"),
    (" @,@ ", ","),
    (" @.@ ", "."),
    *((f" {mark} ", f"{mark} ") for mark in ":;.!?,"),
    (re.compile(r"\(\s*([^\)]*?)\s*\)"), r"(\1)"),
    (re.compile(r"\[\s*([^\]]*?)\s*\]"), r"[\1]"),
    (re.compile(r"{\s*([^}]*?)\s*}"), r"{\1}"),
    (re.compile(r"\"\s*([^\"]*?)\s*\""), r'"\1"'),
    (re.compile(r"'\s*([^']*?)\s*'"), r"'\1'"),
    ("= = = =", "===="),
    ("= = =", "==="),
    ("= =", "=="),
    (" \N{DEGREE SIGN} ", "\N{DEGREE SIGN}"),
    (" \n", "\n"),
    ("\n ", "\n"),
    (" N ", " 1 "),
    (" 's", "'s"),
)


class Page(NamedTuple):
    """A page of WikiText.

    Attributes:
        text: ordinary text, which is scored.
        words: pieces of the page as it was between runs of white space, empty ends included.
        bytes: of the page as it was, in UTF-8.
    """

    text: str
    words: int
    bytes: int


def detokenize(page: str) -> str:
    """The page as ordinary text."""
    for old, new in REPLACEMENTS:
        page = page.replace(old, new) if isinstance(old, str) else old.sub(new, page)
    return page


def read_pages(path: Path) -> list[Page]:
    """The pages of wiki.test.raw, also compressed.

    Raises:
        ValueError: the file is not UTF-8 text or holds no page.
    """
    try:
        pages = [document.text.decode() for document in read_documents(path, TITLE)]
    except UnicodeDecodeError as error:
        raise ValueError(f"wikitext: {path}: wanted UTF-8: {error}") from error
    if not pages:
        raise ValueError(f"wikitext: {path}: wanted pages, got none")
    return [Page(detokenize(p), len(re.split(r"\s+", p)), len(p.encode())) for p in pages]


def rolling_windows(
    ids: Sequence[int], document_start: int, length: int
) -> Iterator[tuple[list[int], list[int]]]:
    """A text cut for scoring: (inputs, the ids to predict at the last positions of the inputs).

    Every id is predicted once. Windows of `length` inputs follow one another; the last one reaches
    back so far that it is as long as the others, where the text allows.

    Args:
        ids: of the text.
        document_start: what the first id is predicted from.
        length: largest number of inputs.
    """
    stream = [document_start, *ids]
    for start in range(0, len(ids), length):
        stop = min(start + length, len(ids))
        whole = start == 0 or stop - start == length
        first = start if whole else max(1, stop - length)  # without document_start
        yield stream[first:stop], list(ids[start:stop])
