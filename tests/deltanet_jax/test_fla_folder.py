# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Safetensors that nobody should have written: refused at once, by a message."""

import json
import time
import tracemalloc

import numpy as np
import pytest
from safetensors.numpy import save_file

from deltanet_jax.fla.folder import MAX_HEADER_BYTES, Folder, new_folder

GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def file_of(header, data=bytes(8), length=None):
    """A safetensors file, by hand."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "wanted a header of 2 to"),
        (b"\x02\0\0", "wanted a header of 2 to"),
        (file_of({}, length=2**63), "got one of 9223372036854775808 in"),
        (file_of({}, length=1000), "got one of 1000 in 18"),
        (file_of({"a": GOOD}, data=b""), "a safetensors file"),
        (file_of({"a": GOOD}, data=bytes(9)), "a safetensors file"),
        (file_of({"a": GOOD, "b": GOOD}), "a safetensors file"),
        (file_of({"a": GOOD | {"data_offsets": [4, 12]}}, data=bytes(12)), "a safetensors file"),
        (file_of({"a": GOOD | {"data_offsets": [8, 0]}}), "a safetensors file"),
        (file_of({"a": GOOD | {"shape": [2**62, 4]}}), "a safetensors file"),
        (file_of({"a": GOOD | {"shape": [-2]}}), "a safetensors file"),
        (file_of({"a": GOOD | {"dtype": "object"}}), "a safetensors file"),
        (file_of([GOOD]), "a safetensors file"),
        (file_of(b"[" * 10**6), "a safetensors file"),
        (file_of(b"\xff\xfe" * 10), "a safetensors file"),
        (file_of({"a": GOOD | {"dtype": "I64", "shape": [1]}}), "a: wanted a dtype of"),
    ],
)
def test_damaged_and_hostile_files_are_refused_at_once(tmp_path, content, message):
    (tmp_path / "model.safetensors").write_bytes(content)
    began = time.perf_counter()
    tracemalloc.start()
    with pytest.raises(ValueError, match=message):
        Folder(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.perf_counter() - began < 2 and peak < 20e6


def test_a_longer_header_than_any_good_one_is_not_read(tmp_path):
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write((MAX_HEADER_BYTES + 1).to_bytes(8, "little"))
        file.truncate(2**40)  # a hole, no bytes on disk
    with pytest.raises(ValueError, match="wanted a header of 2 to"):
        Folder(tmp_path)


def index(table):
    return json.dumps({"metadata": {}, "weight_map": table})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            index({"a": "../part.safetensors"}),
            "a: wanted a file's name in the folder, got '../part",
        ),
        (index({"a": "/etc/passwd"}), "wanted a file's name in the folder, got '/etc/passwd'"),
        (index({"a": "x\0.safetensors"}), "wanted a file's name"),
        (index({"a": "part.bin"}), "wanted a file's name"),
        (index({"a": 3}), "wanted a file's name"),
        (index({"a": "gone.safetensors"}), "gone.safetensors: wanted a safetensors file: No such"),
        (index({"a": "part.safetensors"}), r"missing \[\], unexpected \['b'\]"),
        (index(dict.fromkeys("abc", "part.safetensors")), r"missing \['c'\], unexpected \[\]"),
        (index({}), "wanted an object with a weight_map"),
        ("[]", "wanted an object with a weight_map"),
        ("{" * 10**5, "wanted JSON"),
    ],
)
def test_an_index_that_leads_elsewhere_or_does_not_fit_is_refused(tmp_path, text, message):
    folder = tmp_path / "folder"
    folder.mkdir()
    for place in (folder, tmp_path):
        save_file({n: np.zeros(2, np.float32) for n in "ab"}, place / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        Folder(folder)


def test_folders_of_other_formats_or_two_at_once_are_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ValueError, match=r"wanted model.safetensors .*other formats are not read"):
        Folder(tmp_path)
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "model.safetensors")
    with Folder(tmp_path) as folder:
        assert folder.read("a").tolist() == [0, 0]
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="got both"):
        Folder(tmp_path)


def test_a_folder_whose_writing_fails_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="disk"), new_folder(tmp_path / "new") as folder:
        (folder / "half").write_text("half")
        raise OSError("no disk left")
    assert list(tmp_path.iterdir()) == []
