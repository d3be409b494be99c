# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Signals, the watchdog, the lock and unwritable directories, without a model."""

import os
import signal
import subprocess
import sys
import time

import jax
import pytest

from deltanet_jax.sharding import MeshConfig, make_mesh
from deltanet_jax.train.files import locked, prepare_directory, read_json, write_atomically
from deltanet_jax.train.stop import HUNG, INTERRUPTED, Stop, _Agreement

# Says "ready", then is busy in one call that leaves Python no chance to run a handler.
BUSY = """
import hashlib, sys
from deltanet_jax.train.stop import Stop
stop = Stop()
with stop.on_signals(processes=False):
    stop.unsaved = bool(int(sys.argv[1]))
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""
HANGS = """
import time
from deltanet_jax.train.watchdog import Watchdog
def stuck(): time.sleep(60)
with Watchdog(0.5) as watchdog:
    watchdog.touch()
    stuck()
"""


def start(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_signals_and_hangs_end_processes_with_their_codes():
    """Three processes side by side: a signal before work, a second signal, a hang."""
    idle, busy, hung = start(BUSY, "0"), start(BUSY, "1"), start(HANGS)
    try:
        for process in (idle, busy):
            assert process.stdout.readline() == "ready\n"
        idle.send_signal(signal.SIGINT)
        busy.send_signal(signal.SIGTERM)
        assert "saves and ends" in "".join(busy.stderr.readline() for _ in range(2))
        assert busy.poll() is None
        busy.send_signal(signal.SIGTERM)
        began = time.monotonic()
        outputs = [process.communicate(timeout=60)[1] for process in (idle, busy, hung)]
        assert time.monotonic() - began < 20
    finally:
        for process in (idle, busy, hung):
            process.kill()
    assert (idle.returncode, "no step was done" in outputs[0]) == (INTERRUPTED, True)
    assert (busy.returncode, "SIGTERM again" in outputs[1]) == (128 + signal.SIGTERM, True)
    assert hung.returncode == HUNG
    assert "nothing happened for" in outputs[2] and "in stuck" in outputs[2]


def test_a_signal_asks_and_handlers_are_put_back():
    before = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    stop = Stop()
    with stop.on_signals(processes=False):
        stop.unsaved = True
        assert not stop.asked()
        os.kill(os.getpid(), signal.SIGTERM)
        deadline = time.monotonic() + 10
        while not stop.asked() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert stop.asked()
    assert {s: signal.getsignal(s) for s in before} == before
    assert signal.set_wakeup_fd(-1) == -1


def test_processes_agree_one_call_late():
    agreement = _Agreement(make_mesh(MeshConfig(data=4, tensor=2), jax.devices()))
    assert [agreement.any(flag) for flag in (False, True, False, False)] == [
        False,
        False,
        True,
        False,
    ]


def test_a_directory_has_one_holder(tmp_path):
    with (
        locked(tmp_path),
        pytest.raises(ValueError, match=f"in use by another run, process {os.getpid()} on"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


def test_directories_that_will_not_do_are_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="^workdir: wanted a directory to write to: .*Not a dir"):
        prepare_directory(tmp_path / "file" / "run", 0)
    with pytest.raises(ValueError, match="^workdir: wanted 1,152,921,504,606,846,976 bytes free"):
        prepare_directory(tmp_path, 2**60)
    prepare_directory(tmp_path / "a" / "b", 1)
    assert not list((tmp_path / "a" / "b").iterdir())


def test_a_write_that_fails_leaves_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    write_atomically(path, "old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"


@pytest.mark.parametrize("text", ["{", "[" * 10**6, "\xff\xfe"])
def test_json_that_is_none_names_the_file(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("latin1"))
    with pytest.raises(ValueError, match=r"config.json: wanted JSON"):
        read_json(path)


def test_json_of_any_size_is_not_read(tmp_path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match="wanted at most 8388608 bytes of JSON, got 1099511627776"):
        read_json(path)
