# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Rows of measurements on disk: JSON lines, one file per device and operator.

Every row is complete in itself: operator, shape, mode, implementation, times, errors, floors and
the machine. Rows are appended; where one shape, mode and implementation was measured several
times, readers take the latest.
"""

import datetime
import importlib.metadata
import json
import os
import re
import subprocess
from pathlib import Path

from pallas_kernels._common.timing import machine_info

ROOT = Path(__file__).resolve().parent / "results"
OURS = ("pallas", "xla", "pallas_save")
PACKAGES = ("torch", "triton", "jax-triton", "fla-core", "flashinfer-python")
# What every row has, with its type; the rest is optional.
FIELDS = {
    "op": str,
    "shape": dict,
    "dtype": str,
    "mode": str,
    "implementation": str,
    "method": str,
    "median_ms": float,
    "times_ms": list,
    "rms_error": dict,
    "run": str,
    "device": str,
    "commit": str,
    "date": str,
}


def machine(commit: str | None) -> dict[str, object]:
    """`machine_info`, driver and versions of peers; `commit` stands in where there is no git."""
    info = machine_info()
    if commit:
        info |= {"commit": commit, "uncommitted_changes": None}
    info["driver"] = _driver()
    info["triton_cache"] = "TRITON_CACHE_DIR" in os.environ
    for package in PACKAGES:
        try:
            info[package.replace("-", "_")] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            info[package.replace("-", "_")] = None
    return info


def now() -> str:
    """The date and time of a row, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def path_of(folder: Path, row: dict) -> Path:
    """FOLDER/nvidia-h200/delta_rule.jsonl."""
    device = re.sub(r"[^a-z0-9]+", "-", str(row["device"]).lower()).strip("-")
    return folder / device / f"{row['op']}.jsonl"


def check(row: dict) -> None:
    """Raises ValueError, with the field's name, if a row lacks what readers rely on."""
    for name, kind in FIELDS.items():
        if not isinstance(row.get(name), kind):
            raise ValueError(f"{name}: wanted {kind.__name__}, got {row.get(name)!r}")
    if not row["times_ms"]:
        raise ValueError("times_ms: wanted at least one time")


def append(folder: Path, row: dict) -> Path:
    """Adds a row to its file at once; an interrupted run keeps the rows it finished."""
    check(row)
    return append_line(path_of(folder, row), row)


def append_line(path: Path, row: dict) -> Path:
    """Adds a line of JSON to a file, on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return path


def read(path: Path) -> list[dict]:
    """The rows of a file, checked; none if there is no file."""
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        check(row)
    return rows


def latest(rows: list[dict]) -> dict[tuple, dict[str, dict]]:
    """(shape's sizes, mode) -> implementation -> row, all of one run.

    Of each shape and mode: the latest run with both ours and a peer's row, or the latest with ours.
    Ratios are thus always of one process on one machine. Seconds to the first result, which a run
    that compiles ahead does not have, are the latest of that implementation at that commit.
    """
    rows = sorted(rows, key=lambda r: r["date"])
    firsts = {}
    for row in rows:
        key = (*row["shape"].values(), row["mode"], row["implementation"], row["commit"])
        if row.get("first_call_s") is not None:
            firsts[key] = row["first_call_s"]
    runs: dict[tuple, dict[str, dict[str, dict]]] = {}
    for row in rows:
        sizes, mode = tuple(row["shape"].values()), row["mode"]
        first = firsts.get((*sizes, mode, row["implementation"], row["commit"]))
        row = row | {"first_call_s": first}
        key = (sizes, mode)
        runs.setdefault(key, {}).setdefault(row["run"], {})[row["implementation"]] = row
    chosen = {}
    for key, by_run in runs.items():
        with_ours = [found for found in by_run.values() if set(found) & set(OURS)]
        with_both = [found for found in with_ours if set(found) - set(OURS)]
        if with_ours:
            chosen[key] = (with_both or with_ours)[-1]
    return chosen
