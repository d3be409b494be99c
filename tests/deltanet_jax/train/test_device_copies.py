# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Saves from a copy on the devices, as on GPUs, which have memory of their own."""

import functools
import threading

import jax
import pytest

from deltanet_jax.train import checkpoint
from deltanet_jax.train.checkpoint import CheckpointError, Checkpoints, with_shardings
from experiments.faults.damage import Position, make_state
from tests.helpers.compare import equal_bits

state_of = functools.partial(make_state, bytes_each=1200)


def test_a_copy_on_the_devices_is_saved_while_its_state_is_gone(tmp_path, monkeypatch):
    """As on GPUs, whose next step takes the state's memory while the copy goes to the host."""
    begin, start, state = threading.Event(), checkpoint._start, state_of(1)
    abstract = with_shardings(state, jax.tree.map(lambda x: x.sharding, state))

    def late(*arguments):
        assert begin.wait(60)
        return start(*arguments)

    monkeypatch.setattr(checkpoint, "_memory", lambda device: (2**40, 0))
    monkeypatch.setattr(checkpoint, "_start", late)
    with Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(1, state, Position())
        for x in jax.tree.leaves(state):
            x.delete()
        assert not checkpoints.steps
        begin.set()
        checkpoints.wait()
        assert equal_bits(checkpoints.restore(1, abstract), state_of(1))


def test_a_copy_on_the_devices_needs_room_for_every_byte(monkeypatch):
    state = state_of(1)
    count = sum(x.nbytes for x in jax.tree.leaves(state))
    monkeypatch.setattr(checkpoint, "_memory", lambda device: (count, 0))
    copy, why_not = checkpoint._copy_on_devices(state, checkpoint._Peaks())
    assert equal_bits(copy, state) and not why_not
    monkeypatch.setattr(checkpoint, "_memory", lambda device: (count - 1, 0))
    copy, why_not = checkpoint._copy_on_devices(state, checkpoint._Peaks())
    assert copy is None
    assert f"takes {count:,} bytes of" in why_not and f"leave {count - 1:,}" in why_not


def test_what_a_copy_took_is_not_taken_for_the_steps(tmp_path, monkeypatch, caplog):
    """There is room for the steps and one copy, and so for a copy at every save."""
    state = state_of(1)
    count = sum(x.nbytes for x in jax.tree.leaves(state))
    start, in_use, peaks = checkpoint._start, 1000, [1000]

    def starts(folder, copy):
        peaks.append(in_use + count)  # the steps beside it are as large as ever
        return start(folder, copy)

    monkeypatch.setattr(checkpoint, "_memory", lambda device: (1000 + count, max(peaks)))
    monkeypatch.setattr(checkpoint, "_start", starts)
    with caplog.at_level("INFO", "deltanet_jax"), Checkpoints(tmp_path, 1) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state, Position())
        checkpoints.wait()
        assert "steps wait" not in caplog.text
        in_use = 1001  # steps that need more, while a copy is there ...
        checkpoints.save(4, state, Position())
        checkpoints.save(5, state, Position())
        assert caplog.text.count(f"a copy takes {count:,} bytes of") == 1
    with caplog.at_level("INFO", "deltanet_jax"), Checkpoints(tmp_path, 1) as checkpoints:
        peaks[:] = [1001]  # ... and while there is none
        checkpoints.save(6, state, Position())
    assert caplog.text.count(f"steps leave {count - 1:,}") == 2


def test_that_steps_wait_is_said_once(tmp_path, monkeypatch, caplog):
    with caplog.at_level("INFO", "deltanet_jax"), Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(1, state_of(1), Position())
        assert "steps wait" not in caplog.text  # here the devices' memory is the host's
        monkeypatch.setattr(checkpoint, "_memory", lambda device: (0, 0))
        for step in (2, 3):
            checkpoints.save(step, state_of(step), Position())
    assert caplog.text.count("steps wait for saves until the host has its copy: a copy takes") == 1


def test_a_copy_that_cannot_be_saved_is_a_failed_save(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no")

    monkeypatch.setattr(checkpoint, "_memory", lambda device: (2**40, 0))
    monkeypatch.setattr(checkpoint, "_start", fail)
    with Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(1, state_of(1), Position())
        with pytest.raises(CheckpointError, match="step 1 could not be saved: no; there is no"):
            checkpoints.wait()
