# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Compiler options of a run."""

import os

import jax

from experiments import platform


def test_determinism_and_cache(monkeypatch, tmp_path):
    given = {}
    monkeypatch.setattr(jax.config, "update", lambda name, value: given.update({name: value}))
    monkeypatch.setenv("XLA_FLAGS", "--xla_one=1")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    platform.configure(deterministic=True, compilation_cache_dir=str(tmp_path))
    assert os.environ["XLA_FLAGS"].split() == ["--xla_one=1", *platform.DETERMINISTIC]
    assert given == {"jax_compilation_cache_dir": str(tmp_path)}


def test_nothing_asked_for_changes_nothing(monkeypatch, tmp_path):
    given = {}
    monkeypatch.setattr(jax.config, "update", lambda name, value: given.update({name: value}))
    monkeypatch.setenv("XLA_FLAGS", "--xla_one=1")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "elsewhere")
    platform.configure(deterministic=False, compilation_cache_dir=str(tmp_path))
    assert os.environ["XLA_FLAGS"] == "--xla_one=1"
    assert given == {}
