# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""WikiText's raw files as pages, and its spaces undone as lm-evaluation-harness undoes them."""

import re

HEADING = re.compile(r"^ = [^=].* = $")

# In this order; the second does nothing to ordinary text, and is kept as published.
REPLACEMENTS = (
    ("s '", "s'"),
    (re.compile(r"/' [0-9]/"), r"/'[0-9]/"),
    (" @-@ ", "-"),
    (" @,@ ", ","),
    (" @.@ ", "."),
    (" : ", ": "),
    (" ; ", "; "),
    (" . ", ". "),
    (" ! ", "! "),
    (" ? ", "? "),
    (" , ", ", "),
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


def pages(text: str) -> list[str]:
    """A file's pages; one starts at a heading " = Title = " that stands between empty lines."""
    found: list[list[str]] = []
    lines = text.splitlines(keepends=True)
    for i, line in enumerate(lines):
        alone = all(not lines[j].strip() for j in (i - 1, i + 1) if 0 <= j < len(lines))
        if not found or (alone and HEADING.match(line.rstrip("\n"))):
            found.append([])
        found[-1].append(line)
    whole = ["".join(page) for page in found]
    # What stands before the first heading is the first page's.
    return [whole[0] + whole[1], *whole[2:]] if len(whole) > 1 and not whole[0].strip() else whole


def detokenize(page: str) -> str:
    """The page as it was written, about. Source: EleutherAI's task `wikitext`."""
    for old, new in REPLACEMENTS:
        page = page.replace(old, new) if isinstance(old, str) else old.sub(new, page)
    return page
