# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""How every command begins: with its flags parsed, and nothing else on its line."""

import sys
from collections.abc import Callable

from absl import app, flags


def run(main: Callable[[list[str]], None]) -> None:
    """Runs `main` once flags are parsed; ends the process if there was more, or one is NaN.

    Abseil passes such words over: the second of `--data a b`, the value of `--concatenate false`,
    which is --concatenate. And NaN is beyond no bound.
    """

    def checked(argv: list[str]) -> None:
        if argv[1:]:
            rest = " ".join(argv[1:])
            sys.exit(f"error: wanted flags alone, like --name=value, got {rest!r}")
        for name in flags.FLAGS:
            if (value := flags.FLAGS[name].value) != value:
                sys.exit(f"error: --{name}: wanted a number, got {value}")
        main(argv)

    app.run(checked)
