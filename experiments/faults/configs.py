# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Configs that no run should have: refused by a message, or the same after a round trip."""

import dataclasses
import json
import re
import typing

from hypothesis import strategies as st

from deltanet_jax.config import Config
from experiments.faults.fuzz import JSON, try_cases
from experiments.faults.outcome import Outcome
from experiments.flags import GROUPS, run_config_from_flags
from experiments.presets import PRESETS
from experiments.run_config import RunConfig

KINDS = {
    "int": st.integers(-1, 300) | st.integers(),
    "float": st.floats(0, 1) | st.floats(),
    "bool": st.booleans(),
    "str": st.sampled_from(("float32", "bfloat16", "none", "l2", "silu")) | st.text(max_size=9),
}

FLAG_KINDS = {name: kind for group in GROUPS.values() for name, (kind, _) in group.items()}


@st.composite
def _near(draw: st.DrawFn, config: Config) -> dict:
    """JSON of a config with one to three fields, at any depth, of another value or kind."""
    data = config.to_dict()
    for _ in range(draw(st.integers(1, 3))):
        place, here = config, data
        while True:
            name = draw(st.sampled_from(sorted(f.name for f in dataclasses.fields(place))))
            value = getattr(place, name)
            if not isinstance(value, Config) or not isinstance(here.get(name), dict):
                break
            place, here = value, here[name]
        if isinstance(value, tuple) and value:
            new = st.lists(st.sampled_from(place.to_dict()[name]) | JSON)
        else:
            hint = typing.get_type_hints(type(place))[name]
            new = KINDS.get(getattr(hint, "__name__", ""), JSON)
        here[name] = draw(new | JSON)
    return data


@st.composite
def _flags(draw: st.DrawFn) -> dict[str, object]:
    """One to four flags of a run, with values of their types."""
    names = st.lists(st.sampled_from(sorted(FLAG_KINDS)), min_size=1, max_size=4, unique=True)
    lists = st.lists(KINDS["str"])
    values = {name: draw(KINDS.get(FLAG_KINDS[name], lists)) for name in draw(names)}
    return {"preset": draw(st.sampled_from(sorted(PRESETS))), **values}


def _names_a_flag(message: str, given: dict[str, object]) -> bool:
    """Whether it begins with a flag, and one of those given is in it."""
    begins = re.match(r"\w*", message)[0] in {*FLAG_KINDS, "preset"}
    return begins and any(name.removeprefix("mesh_") in message for name in given)


def _bases() -> list[RunConfig]:
    """One preset of each task and pattern of mixers."""
    configs = [make() for make in PRESETS.values()]
    kinds = [(type(c.task), *map(type, c.model.layer_pattern)) for c in configs]
    return list(dict(zip(kinds, configs, strict=True)).values())


def hostile_configs(seed: int, count: int) -> Outcome:
    """`count` configs, half of them from files, half from flags."""
    outcome = Outcome("an impossible config or flag")
    taken = 0

    def take(config: RunConfig) -> None:
        nonlocal taken
        text = config.to_json()
        again = RunConfig.from_json(text).to_json()
        if again != text:
            raise AssertionError(f"{text} became {again}")
        taken += 1

    def read(data: dict) -> None:
        take(RunConfig.from_json(json.dumps(data)))

    def run(values: dict[str, object]) -> None:
        try:
            config = run_config_from_flags(values)
        except ValueError as error:
            if not _names_a_flag(str(error), values):
                raise AssertionError(f"{error}: names no flag of {values}") from error
            raise
        take(config)

    near = st.sampled_from(_bases()).flatmap(_near)
    try_cases(outcome, "config.json", near, -(-count // 2), seed, read)
    try_cases(outcome, "flags", _flags(), max(1, count // 2), seed, run)
    outcome.figures["taken_as_good_configs"] = float(taken)
    return outcome
