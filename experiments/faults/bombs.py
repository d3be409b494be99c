# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Small files that would fill the memory or run a command: python -m experiments.faults.bombs FILE

Reads FILE as what its name says and prints, as JSON, the refusal, seconds of a core, and the peak
of memory.
"""

import gzip
import json
import lzma
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from deltanet_jax.fla.folder import Folder
from deltanet_jax.train import manifest
from deltanet_jax.train.files import MAX_JSON_BYTES
from experiments.faults.outcome import REFUSALS, SECONDS, Outcome
from experiments.run_config import read_run_config
from experiments.tasks.language_modeling.data import read_documents
from experiments.text.documents import MAX_LINE_BYTES
from experiments.text.shards import Ids, read_index

PEAK_BYTES = 2**30
UNPACKED_BYTES = 10 * 2**30
BLOCK = 16 * 2**20

READERS: dict[str, Callable[[Path], object]] = {
    "config.json": lambda path: read_run_config(path.parent),
    "index.json": lambda path: read_index(path.parent),
    "ids.npy": lambda path: Ids([path], [None]).read(0, 1),
    "manifest.json": lambda path: manifest.verify(path.parent),
    "model.safetensors": lambda path: Folder(path.parent),
    "text.jsonl": lambda path: list(read_documents(path)),
    "text.jsonl.gz": lambda path: list(read_documents(path)),
    "text.txt.xz": lambda path: list(read_documents(path)),
}


def _packed(compress: Callable[[bytes], bytes]) -> bytes:
    """Ten gibibytes of one document, in a few megabytes."""
    return compress(b" " * BLOCK) * (UNPACKED_BYTES // BLOCK)


def _of_lists(size: int) -> bytes:
    """JSON of as many objects as have room in `size` bytes."""
    return b"[" + b"[]," * (size // 3 - 2) + b"[]]"


def _header(shape: tuple[int, ...]) -> bytes:
    """A NumPy file that says it is of this shape, and holds nothing."""
    text = f"{{'descr': '<u2', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def _safetensors(shape: list[int]) -> bytes:
    entry = {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 2**62]}}
    text = json.dumps(entry).encode()
    return len(text).to_bytes(8, "little") + text


def _contents(touched: Path) -> dict[str, list[bytes]]:
    """What is put into files, by name. `touched`: a file that no reader may make."""
    pickled = f"cos\nsystem\n(S'touch {touched}'\ntR.".encode()  # what pickle.loads would run
    contents = {name: [pickled] for name in READERS if name.split(".")[-1] not in ("gz", "xz")}
    contents["text.jsonl.gz"] = [_packed(gzip.compress), gzip.compress(pickled)]
    contents["text.txt.xz"] = [_packed(lzma.compress)]
    for name in ("config.json", "index.json", "manifest.json"):
        contents[name] += [b"[" * 10**6, _of_lists(MAX_JSON_BYTES)]
    contents["text.jsonl"].append(_of_lists(MAX_LINE_BYTES))
    contents["ids.npy"].append(_header((2**60,)))
    contents["model.safetensors"].append(_safetensors([2**60]))
    return contents


def bombs(scratch: Path) -> Outcome:
    """Each in a process of its own: refused in time, with little memory, nothing executed."""
    outcome = Outcome("a file that unpacks to 10 GiB, lies about its size, or is a program")
    touched = scratch / "touched"
    peak = slowest = 0.0
    for name, contents in _contents(touched).items():
        for content in contents:
            folder = scratch / f"bomb{outcome.caused}"
            folder.mkdir()
            (folder / name).write_bytes(content)
            command = [sys.executable, "-m", "experiments.faults.bombs", str(folder / name)]
            done = subprocess.run(command, capture_output=True, text=True)
            outcome.caused += 1
            problem = None
            if done.returncode:
                problem = f"{name}: {done.stderr[-300:]}"
            else:
                told = json.loads(done.stdout)
                peak, slowest = max(peak, told["peak_bytes"]), max(slowest, told["seconds"])
                if not told["refusal"] or told["peak_bytes"] > PEAK_BYTES:
                    problem = f"{name}: {told}"
                if told["seconds"] > SECONDS:
                    problem = f"{name}: took {told['seconds']:.1f} s"
            outcome.add_problem("a file was executed" if touched.exists() else problem)
    outcome.figures = {"peak_gibibytes": peak / 2**30, "slowest_bomb_seconds": slowest}
    return outcome


def main() -> None:
    path = Path(sys.argv[1])
    refusal, began = "", time.process_time()
    try:
        READERS[path.name](path)
    except REFUSALS as error:
        refusal = str(error)[:200]
    seconds = time.process_time() - began
    # getrusage would have the peak of the process that started this one in it.
    status = Path("/proc/self/status").read_text()
    peak = 1024 * int(re.search(r"VmHWM:\s*(\d+)", status)[1])
    print(json.dumps({"refusal": refusal, "seconds": seconds, "peak_bytes": peak}))


if __name__ == "__main__":
    main()
