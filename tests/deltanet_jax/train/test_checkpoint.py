# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: verified bytes, damage moved aside, atomic saves, failed saves, what is kept."""

import functools
import hashlib
import json
import logging
import os
import resource
import shutil
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp

from deltanet_jax.train import checkpoint, manifest
from deltanet_jax.train import files as train_files
from deltanet_jax.train.checkpoint import CheckpointError, Checkpoints
from deltanet_jax.train.guard import init_guard
from deltanet_jax.train.step import TrainState
from tests.helpers.compare import equal_bits


class Position:
    """Where the data stands, as much of an iterator as checkpoints need."""

    def __init__(self, place=0):
        self.place = place

    def get_state(self):
        return {"place": self.place}

    def set_state(self, state):
        self.place = state["place"]


def state_of(step, size=300):
    """Numbers that tell one step from another."""
    weights = {"kernel": jax.random.normal(jax.random.key(step), (size,))}
    key = jax.random.key_data(jax.random.key(7))
    return TrainState(jnp.int32(step), weights, {"mu": weights["kernel"] * 2}, key, init_guard())


def abstract():
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), state_of(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints of steps 1 and 2; not to be changed."""
    directory = tmp_path_factory.mktemp("saved")
    with Checkpoints(directory, 2, {"config": {"seed": 3}}) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state_of(step), Position(10 * step))
    return directory


@pytest.fixture
def copy(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "checkpoints")


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_state_and_position_come_back_bit_for_bit(saved):
    data = Position()
    with Checkpoints(saved) as checkpoints:
        assert checkpoints.newest() == 2
        restored = checkpoints.restore(2, abstract(), data)
        facts = checkpoints.facts(2)
    assert equal_bits(restored, state_of(2)) and not equal_bits(restored, state_of(1))
    assert data.place == 20
    assert facts["config"] == {"seed": 3} and facts["step"] == 2 and facts["format_version"] == 2
    assert set(facts["files"]) == set(files(saved / "2")) - {manifest.NAME}
    assert facts["arrays"]["weights/kernel"] == "float32[300]"


def test_arrays_of_the_formats_of_before_come_back(tmp_path, monkeypatch):
    """Format 1 hashed whole files, and arrays were compressed."""
    monkeypatch.setattr(checkpoint, "_uncompressed", ocp.Context)
    monkeypatch.setattr(manifest, "FORMAT_VERSION", 1)
    with Checkpoints(tmp_path, 1) as checkpoints:
        checkpoints.save(1, state_of(1), Position())
    monkeypatch.undo()
    with Checkpoints(tmp_path) as checkpoints:
        assert equal_bits(checkpoints.restore(checkpoints.newest(), abstract()), state_of(1))
        assert checkpoints.facts(1)["format_version"] == 1


def flip(path, byte=None):
    content = bytearray(path.read_bytes())
    bit = int(np.random.default_rng(len(content)).integers(8 * len(content)))
    bit = bit if byte is None else 8 * byte
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


DAMAGES = {
    "flip": flip,
    "halve": lambda path: os.truncate(path, path.stat().st_size // 2),
    "delete": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_is_found_moved_aside_and_the_step_before_restored(
    saved, tmp_path, caplog, damage
):
    for number, name in enumerate(files(saved / "2")):
        if damage != "delete" and not (saved / "2" / name).stat().st_size:
            continue  # there is nothing in it
        copy = shutil.copytree(saved, tmp_path / str(number))
        DAMAGES[damage](copy / "2" / name)
        caplog.clear()
        with Checkpoints(copy, 2) as checkpoints, caplog.at_level(logging.WARNING):
            assert checkpoints.newest() == 1, name
        assert f"checkpoint of step 2 is damaged: {name}: " in caplog.text
        assert (copy / "2.damaged").is_dir() and not (copy / "2").exists()
        with Checkpoints(copy) as checkpoints:
            assert [(f.name, f.problem is None) for f in checkpoints.check_all()] == [
                ("1", True),
                ("2.damaged", False),
            ]


def test_what_is_newest_does_not_depend_on_clocks(copy):
    """Files of step 1 from the future, those of step 2 from 1970."""
    for step, seconds in ((1, 4e9), (2, 0)):
        for path in (copy / str(step), *(copy / str(step)).rglob("*")):
            os.utime(path, (seconds, seconds))
    with Checkpoints(copy, 2) as checkpoints:
        assert checkpoints.newest() == 2


def test_what_is_restored_instead_is_the_older_state(copy):
    flip(copy / "2" / "state" / "_METADATA")
    with Checkpoints(copy, 2) as checkpoints:
        assert equal_bits(checkpoints.restore(checkpoints.newest(), abstract()), state_of(1))


def test_reading_moves_and_removes_nothing(copy):
    (copy / "3.saving").mkdir()
    flip(copy / "2" / manifest.NAME)
    with Checkpoints(copy) as checkpoints:
        assert checkpoints.newest() == 1
    assert {p.name for p in copy.iterdir()} == {"1", "2", "3.saving"}


def test_leftovers_of_a_killed_save_are_removed_at_the_next_start(copy):
    for name in ("3.saving", "3.saving.orbax-checkpoint-tmp", "1.removing", "7.damaged"):
        (copy / name).mkdir()
    with Checkpoints(copy, 2) as checkpoints:
        assert checkpoints.newest() == 2
    assert {p.name for p in copy.iterdir()} == {"1", "2", "7.damaged"}


def test_a_save_killed_before_its_manifest_is_as_if_it_had_not_begun(copy, monkeypatch):
    def killed(folder, facts):
        raise InterruptedError

    monkeypatch.setattr(manifest, "write", killed)
    with Checkpoints(copy, 2) as checkpoints:
        checkpoints.save(3, state_of(3), Position())
        with pytest.raises(CheckpointError, match="step 3 .*newest one on disk is of step 2"):
            checkpoints.wait()
        assert checkpoints.newest() == 2


def test_what_a_failed_save_leaves_late_goes_in_the_end(copy, monkeypatch):
    """Orbax may be at it still when the next save makes room."""
    with Checkpoints(copy, 2) as checkpoints:
        with monkeypatch.context() as broken:
            broken.setattr(manifest, "write", lambda *_: os.fsync(-1))
            checkpoints.save(3, state_of(3), Position())
            with pytest.raises(CheckpointError, match="step 3 could not be saved"):
                checkpoints.wait()
        checkpoints.save(4, state_of(4), Position())
        (copy / "3.saving.orbax-checkpoint-tmp").mkdir()
    assert {p.name for p in copy.iterdir()} == {"2", "4"}


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def test_a_manifest_of_the_first_format_is_verified_by_whole_files(tmp_path, monkeypatch):
    """However small the pieces of today's; a flip is found by both."""
    monkeypatch.setitem(manifest.PIECE_BYTES, 2, 10)
    path = tmp_path / "file"
    path.write_bytes(bytes(range(35)))
    manifest.write(tmp_path, {})
    digests = [hashlib.sha256(path.read_bytes()[i : i + 10]).digest() for i in (0, 10, 20, 30)]
    assert manifest.verify(tmp_path)["files"]["file"]["sha256"] == sha256(b"".join(digests))
    today = (tmp_path / manifest.NAME).read_text()
    entry = {"bytes": 35, "sha256": sha256(path.read_bytes())}
    first = manifest._sealed({"format_version": 1, "files": {"file": entry}})
    for text in (first, today):
        (tmp_path / manifest.NAME).write_text(text)
        manifest.verify(tmp_path)
        for place in (0, 9, 10, 34):
            flip(path, place)
            with pytest.raises(manifest.Damaged, match="^file: its SHA-256 is not the manifest's"):
                manifest.verify(tmp_path)
            flip(path, place)


def test_early_hashes_give_way_and_what_has_not_begun_is_left_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setitem(manifest.PIECE_BYTES, 2, 100)
    monkeypatch.setattr(manifest, "EARLY_BYTES", 100)
    monkeypatch.setattr(manifest, "THREADS", 1)
    begun, go_on, priorities = threading.Event(), threading.Event(), []

    def digest(file, start, size):
        priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        begun.set()
        assert go_on.wait(timeout=20)
        return b"early"

    monkeypatch.setattr(manifest, "_digest", digest)
    (tmp_path / "7.saving").mkdir()
    path = tmp_path / "7.saving" / "data"
    path.write_bytes(b"x" * 300)
    with manifest.Early(tmp_path, "7.saving") as early:
        assert begun.wait(timeout=20)
        early.stop()
        go_on.set()
        assert [early.get(path, start, 100) for start in (0, 100, 200)] == [b"early", None, None]
    here = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert priorities == [max(here, manifest.NICENESS)]


def test_files_are_hashed_while_they_grow(tmp_path, monkeypatch):
    """What is known early is what is hashed in the end, of this file and of no other."""
    monkeypatch.setitem(manifest.PIECE_BYTES, 2, 100)
    monkeypatch.setattr(manifest, "EARLY_BYTES", 100)
    monkeypatch.setattr(manifest, "LOOK_SECONDS", 0.001)
    sent = []
    monkeypatch.setattr(manifest, "start_sync", lambda _, *place: sent.append(place))
    content = np.random.default_rng(0).bytes(1050)
    folder = tmp_path / "7.saving"
    folder.mkdir()
    path = folder / "data.part"
    pieces = [(start, min(100, 1050 - start)) for start in range(0, 1050, 100)]
    with manifest.Early(tmp_path, "7.saving") as early:
        with path.open("wb") as file:
            for start in range(0, len(content), 70):
                file.write(content[start : start + 70])
                file.flush()
                time.sleep(0.003)
        deadline = time.monotonic() + 20
        while early.get(path, *pieces[-1]) is None and time.monotonic() < deadline:
            time.sleep(0.01)
        path = path.rename(folder / "data")
        early.stop()
        for start, size in pieces:
            wanted = hashlib.sha256(content[start : start + size]).digest()
            assert early.get(path, start, size) == wanted
        assert set(sent) >= set(pieces)  # begun to be written to the disk
        (folder / "other").write_bytes(content)
        assert early.get(folder / "other", *pieces[0]) is None
        with path.open("ab") as file:  # its last piece is another one now
            file.write(content[:20])
        monkeypatch.setattr(manifest, "_piece", _only([(path, 1000, 70)]))
        (folder / "other").unlink()
        manifest.write(folder, {}, early)
    monkeypatch.undo()
    monkeypatch.setitem(manifest.PIECE_BYTES, 2, 100)
    manifest.verify(folder)


@pytest.mark.parametrize("system_has_it", [True, False])
def test_beginning_to_write_out_promises_nothing_and_fails_nobody(
    tmp_path, monkeypatch, system_has_it
):
    if not system_has_it:
        monkeypatch.setattr(train_files, "_sync_file_range", None)
    with (tmp_path / "file").open("w+b") as file:
        file.write(b"x" * 5000)
        file.flush()
        train_files.start_sync(file.fileno(), 0, 5000)
    assert (tmp_path / "file").read_bytes() == b"x" * 5000
    train_files.start_sync(-1, 0, 5000)


def _only(allowed, piece=manifest._piece):
    """`piece` for these places alone."""

    def hashed(*place):
        assert place in allowed
        return piece(*place)

    return hashed


class Disk:
    """What a power cut would leave: of each file and folder, what was in it when it was synced.

    Attributes:
        early: at every name given by os.rename or os.replace, what of the thing named, and of what
            else is in its folder if it is a manifest, was not on the disk by then.
    """

    def __init__(self, monkeypatch):
        self._synced: dict[int, object] = {}  # by inode, which a renamed file keeps
        self.early: dict[Path, list[Path]] = {}
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self._watched_fsync)
        for name in ("rename", "replace"):
            monkeypatch.setattr(os, name, functools.partial(self._move, getattr(os, name)))

    def has(self, path):
        """Whether its content, or the names in it, are on the disk as they are now."""
        return self._synced.get(path.stat().st_ino) == self._content(path)

    def _content(self, path):
        return {p.name for p in path.iterdir()} if path.is_dir() else path.read_bytes()

    def _watched_fsync(self, descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        self._synced[path.stat().st_ino] = self._content(path)
        self._fsync(descriptor)

    def _move(self, move, old, new):
        if Path(new).name in (manifest.NAME, "3"):  # others are Orbax's
            root = Path(old).parent if Path(new).name == manifest.NAME else Path(old)
            parts = [*root.rglob("*"), *([Path(old)] if root == Path(old) else [])]
            self.early[Path(new)] = [path for path in parts if not self.has(path)]
        move(old, new)


@pytest.mark.parametrize("forgotten", ["", "manifest", "checkpoint"])
def test_a_checkpoint_gets_its_name_when_all_of_it_is_on_disk(tmp_path, monkeypatch, forgotten):
    """And the rows of its steps; were one kind of sync forgotten, it would be seen."""
    disk = Disk(monkeypatch)
    directory, rows = tmp_path / "run" / "checkpoints", tmp_path / "run" / "metrics.jsonl"
    if forgotten:
        monkeypatch.setattr(f"deltanet_jax.train.{forgotten}.sync", lambda path: None)
    with Checkpoints(directory, 2, records=(rows,)) as checkpoints:
        rows.write_text('{"step": 3}\n')
        checkpoints.save(3, state_of(3), Position())
    named, sealed = directory / "3", directory / "3.saving" / manifest.NAME
    assert list(disk.early) == [sealed, named]
    assert bool(disk.early[sealed]) == (forgotten == "manifest")
    assert bool(disk.early[named]) == (forgotten == "manifest")
    others = [disk.has(path) for path in (rows, directory, directory.parent)]
    assert others == [forgotten != "checkpoint"] * 3
    assert disk.has(tmp_path)


@pytest.mark.parametrize("name", ["../1/manifest.json", "/etc/hostname", "linked"])
def test_a_manifest_that_leads_elsewhere_is_damage(copy, name):
    folder = copy / "2"
    os.symlink("/etc/hostname", folder / "linked")
    content = manifest.read(folder)
    path = folder / name
    size = {"bytes": path.stat().st_size, "sha256": sha256(path.read_bytes())}
    text = manifest._sealed(content | {"files": content["files"] | {name: size}})
    (folder / manifest.NAME).write_text(text)
    with pytest.raises(manifest.Damaged, match=f"^{name}: leads out of the folder"):
        manifest.verify(folder)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "[" * 10**6, '{"format_version": 1}', '{"files": 3}', "\0", "1e999"]
)
def test_a_manifest_that_is_none_is_damage(copy, text):
    (copy / "2" / manifest.NAME).write_text(text)
    with Checkpoints(copy) as checkpoints:
        assert checkpoints.newest() == 1


def test_a_newer_format_is_refused_not_moved(copy):
    path = copy / "2" / manifest.NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 3}))
    with (
        Checkpoints(copy, 2) as checkpoints,
        pytest.raises(ValueError, match=r"2/manifest.json: wanted format_version up to 2, got 3"),
    ):
        checkpoints.newest()
    assert (copy / "2").is_dir()


def _cast(x):
    return jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=x.sharding)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {"kernel": _cast(w["kernel"])}, r"wanted bfloat16\[300\], got float32\[300\]"),
        (lambda w: {}, r"weights/kernel: wanted no such array, got float32\[300\]"),
        (lambda w: {**w, "bias": w["kernel"]}, "weights/bias: wanted .*, got no such array"),
    ],
)
def test_arrays_unlike_the_wanted_are_refused_by_name(saved, change, message):
    state = abstract()
    with Checkpoints(saved) as checkpoints, pytest.raises(ValueError, match=message):
        checkpoints.restore(2, state._replace(weights=change(state.weights)))


def test_a_full_disk_fails_one_save_and_leaves_the_rest(copy):
    """Files may grow to 50,000 bytes: the save fails; later the next one succeeds."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(copy, 3) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, old[1]))
        try:
            with pytest.raises(CheckpointError, match="step 3 .*newest one on disk is of step 2"):
                checkpoints.save(3, state_of(3, size=30_000), Position())
                checkpoints.wait()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
        assert checkpoints.newest() == 2
        checkpoints.save(4, state_of(4), Position())
        checkpoints.wait()
        assert checkpoints.newest() == 4


def test_the_newest_are_kept_and_older_ones_leave_after_the_newer_one_is_whole(copy, monkeypatch):
    seen = []
    write = manifest.write

    def watched(folder, facts, early):
        seen.append({p.name for p in copy.iterdir()} - {folder.name})
        write(folder, facts, early)

    monkeypatch.setattr(manifest, "write", watched)
    with Checkpoints(copy, 1) as checkpoints:
        for step in (3, 4):
            checkpoints.save(step, state_of(step), Position())
        checkpoints.wait()
        assert checkpoints.steps == [4]
    assert seen == [{"1", "2"}, {"3"}]


def test_multiples_are_kept_for_good(copy):
    with Checkpoints(copy, 1, keep_every=2) as checkpoints:
        for step, kept in ((3, [2, 3]), (4, [2, 4]), (5, [2, 4, 5])):
            checkpoints.save(step, state_of(step), Position())
            checkpoints.wait()
            assert checkpoints.steps == kept
