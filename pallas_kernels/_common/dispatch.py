# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The only copy of "which implementation runs": names, order of preference, reasons, one log line.

An operator lists its implementations; this file picks one. It knows nothing of any operator.
"""

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax

from pallas_kernels._common.varying import vary_alike

logger = logging.getLogger("pallas_kernels")
_announced: set[tuple[str, str]] = set()


@dataclass(frozen=True)
class Implementation:
    """One way to compute an operator.

    Attributes:
        name: what users pass as `implementation=`.
        run: the function; all implementations of an operator share its signature.
        unsupported: called with `run`'s arguments; returns why they cannot run here, or None.
        avoided: likewise, why it runs here only if asked for by name, or None.
    """

    name: str
    run: Callable
    unsupported: Callable[..., str | None]
    avoided: Callable[..., str | None] = lambda *args, **kwargs: None


def choose(
    operator: str, implementations: Sequence[Implementation], requested: str | None, *args, **kwargs
) -> Implementation:
    """Picks the implementation of `operator` that will run on these arguments.

    Args:
        operator: the operator's name, for messages.
        implementations: in order of preference.
        requested: a name, or None for the first that can run. A choice made by None is logged at
            INFO once per process, with the reasons against the ones preferred to it.
        *args, **kwargs: what the implementation will be called with.
    Raises:
        ValueError: `requested` is no implementation of this operator.
        NotImplementedError: the requested one (or, with None, every one) cannot run here.
    """
    if requested is not None:
        names = [i.name for i in implementations]
        if not isinstance(requested, str) or requested not in names:
            raise ValueError(
                f"implementation: wanted one of {tuple(names)} or None, got {requested!r}"
            )
        chosen = implementations[names.index(requested)]
        reason = chosen.unsupported(*args, **kwargs)
        if reason is not None:
            raise NotImplementedError(f"{operator}(implementation={requested!r}): {reason}")
        return chosen

    reasons = []
    for candidate in implementations:
        reason = candidate.unsupported(*args, **kwargs) or candidate.avoided(*args, **kwargs)
        if reason is None:
            if (operator, candidate.name) not in _announced:
                _announced.add((operator, candidate.name))
                because = "".join(f"; not {r}" for r in reasons)
                logger.info("%s: using implementation %r%s", operator, candidate.name, because)
            return candidate
        reasons.append(f"{candidate.name!r} ({reason})")
    raise NotImplementedError(f"{operator}: no implementation can run here: {'; '.join(reasons)}")


@functools.cache
def jitted(run: Callable, **options) -> Callable:
    """`run` with `options`, compiled once for each, so that eager calls are not op by op."""
    return jax.jit(functools.partial(run, **options))


def call(
    operator: str,
    implementations: Sequence[Implementation],
    requested: str | None,
    *args,
    **options,
):
    """What the implementation that `choose` picks returns for these arguments, compiled."""
    chosen = choose(operator, implementations, requested, *args, **options)
    return jitted(chosen.run, **options)(*vary_alike(args))
