# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""JSON lines from files, plain or compressed."""

import json
from pathlib import Path

from experiments.text.documents import bounded_lines, unpacked


def read_json_lines(path: Path, name: str) -> list[dict]:
    """The objects of a file, one a line; empty lines are passed over.

    Args:
        path: JSON lines, `.gz` and `.xz` compressed.
        name: of the flag that the path comes from.
    Raises:
        ValueError: a line that is no JSON object, or far too long; a damaged file; the message
            starts with `name` and has the line.
    """
    rows = []
    with unpacked(name, path) as (file, _):
        for number, line in enumerate(bounded_lines(name, path, file), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{name}: {path}:{number}: wanted JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(
                    f"{name}: {path}:{number}: wanted a JSON object, got {line[:40]!r}"
                )
            rows.append(row)
    return rows
