# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Cases that hypothesis makes up: bytes and JSON near good ones, and what must come of each.

A case that fails is made as small as it can be before it is told of.
"""

import json
import time
from collections.abc import Callable

import hypothesis
from hypothesis import strategies as st

from experiments.faults.outcome import REFUSALS, SECONDS, Outcome

SETTINGS = hypothesis.settings(
    database=None,
    deadline=None,  # Outcome's slowest seconds are looked at instead
    suppress_health_check=tuple(hypothesis.HealthCheck),
    print_blob=False,
)
NESTING = b"[" * 100_000

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from((-1, 0, 2**70, 1e308, "", "../../x", "\0")),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


class LostError(Exception):
    """A case that neither worked nor was refused with a message."""


def try_cases[Case](
    outcome: Outcome,
    name: str,
    cases: st.SearchStrategy[Case],
    count: int,
    seed: int,
    act: Callable[[Case], object],
) -> None:
    """`act` takes `count` cases: it returns, or refuses with a message, in `SECONDS` of a core.

    Each counts as caused; of those that fail, the smallest of each kind as lost.
    """

    @hypothesis.seed(seed)
    @hypothesis.settings(SETTINGS, max_examples=count)
    @hypothesis.given(cases)
    def attempt(case: Case) -> None:
        outcome.caused += 1
        began = time.process_time()
        try:
            act(case)
        except REFUSALS as error:
            if not str(error).strip():
                raise LostError(f"{name}: an error without a message: {error!r}") from error
        except Exception as error:
            raise LostError(f"{name}: {type(error).__name__}: {error}"[:300]) from error
        finally:
            seconds.append(time.process_time() - began)

    seconds: list[float] = []
    try:
        attempt()
    except* LostError as errors:
        for error in errors.exceptions:
            examples = " ".join(getattr(error, "__notes__", ()))
            outcome.add_problem(f"{error}: {' '.join(examples.split())[:300]}")
    slowest = max(seconds)
    if slowest > SECONDS:
        outcome.add_problem(f"{name}: took {slowest:.1f} s")
    known = outcome.figures.get("slowest_seconds", 0.0)
    outcome.figures["slowest_seconds"] = max(known, slowest)


@st.composite
def mutated(draw: st.DrawFn, good: bytes) -> bytes:
    """`good` with one to three changes."""
    content = good
    for _ in range(draw(st.integers(1, 3))):
        content = draw(st.sampled_from(CHANGES))(draw, content) if content else content
    return content


def _part(draw: st.DrawFn, content: bytes) -> slice:
    ends = st.integers(0, len(content))
    return slice(*sorted((draw(ends), draw(ends))))


def _flip(draw: st.DrawFn, content: bytes) -> bytes:
    changed = bytearray(content)
    changed[draw(st.integers(0, len(content) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)


def _replace(draw: st.DrawFn, content: bytes) -> bytes:
    """A part cut out, doubled, made deep or anything."""
    part = _part(draw, content)
    anything = st.binary(max_size=64)
    new = draw(st.just(b"") | st.just(content[part] * 2) | st.just(NESTING) | anything)
    return content[: part.start] + new + content[part.stop :]


def _change_json(draw: st.DrawFn, content: bytes) -> bytes:
    """One value of the JSON text, or of one line of it, at any depth; other content is cut."""
    lines = content.splitlines(keepends=True)
    at = draw(st.integers(0, len(lines) - 1))
    for before, text, after in (
        (b"", content, b""),
        (b"".join(lines[:at]), lines[at], b"\n" + b"".join(lines[at + 1 :])),
    ):
        try:
            whole = json.loads(text)
        except (ValueError, RecursionError):
            continue
        return before + json.dumps(_with_change(draw, whole)).encode() + after
    return content[: len(content) // 3]


def _with_change(draw: st.DrawFn, whole: object) -> object:
    place = whole
    while isinstance(place, dict | list) and place:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = draw(st.sampled_from(keys))
        if not isinstance(place[key], dict | list) or not place[key] or draw(st.booleans()):
            place[key] = draw(JSON)
            return whole
        place = place[key]
    return draw(JSON)


CHANGES = (_flip, _replace, _change_json)
