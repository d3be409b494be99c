# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The benchmark of resumed runs, with a small model."""

import copy
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks import resume


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    sizes = {"steps": 4 * resume.WARM_UP, "rows": 1, "columns": 16}
    values = SimpleNamespace(preset="transformer_1b3", reduced=True, **sizes)
    folder = tmp_path_factory.mktemp("resume")
    return {name: resume.run_part(name, values, folder) for name in ("unbroken", "resumed")}


def test_a_resumed_run_equals_the_unbroken_one(results):
    assert len(results["unbroken"]["losses"]) == 2 * len(results["resumed"]["losses"])
    assert resume.differences(results) == {"resumed": {"equal": True, "loss_difference": 0.0}}


@pytest.mark.parametrize("name", ["losses", "state"])
def test_another_number_anywhere_is_a_difference(results, name):
    other = copy.deepcopy(results)
    other["resumed"][name][0] += 1
    found = resume.differences(other)["resumed"]
    assert found == {"equal": False, "loss_difference": 0.0}
    record = {
        "settings": {"deterministic": other, "default": results | {"again": other["resumed"]}}
    }
    record["settings"]["default"]["again"]["losses"][-1] += 0.5
    lines = resume.table(record).splitlines()
    assert "| no | 5.0e-01 | – |" in lines[2] and "| yes | 0.0e+00 | 5.0e-01 |" in lines[3]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32"])
def test_a_fingerprint_sees_every_bit_and_the_order(dtype):
    x = jnp.asarray([1, 2, 3, 0], dtype)
    others = [x[::-1], -x, x.at[0].add(1)] + ([] if dtype == "int32" else [x.at[3].multiply(-1)])
    prints = [resume.fingerprint({"x": y}) for y in (x, *others)]
    assert len({tuple(p) for p in prints}) == 1 + len(others)
    assert resume.fingerprint({"key": jax.random.key(0)}) != resume.fingerprint(
        {"key": jax.random.key(1)}
    )
