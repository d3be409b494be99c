# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""How every command begins: with its flags parsed, and nothing else on its line."""

import sys
from collections.abc import Callable

from absl import app


def run(main: Callable[[list[str]], None]) -> None:
    """Runs `main` once flags are parsed; ends the process if there was more than flags.

    Abseil passes such words over: the second of `--data a b`, the value of `--concatenate false`,
    which is --concatenate.
    """

    def checked(argv: list[str]) -> None:
        if rest := " ".join(argv[1:]):
            sys.exit(f"error: wanted flags alone, like --name=value, got {rest!r}")
        main(argv)

    app.run(checked)
