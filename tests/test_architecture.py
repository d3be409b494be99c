# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""The import arrows point one way, files carry their header, README tells the truth."""

import ast
import itertools
import re
import tomllib
import types
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from experiments.faults.run import make_faults
from experiments.flags import GROUPS, SWEEP
from experiments.presets import PRESETS

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pallas_kernels", "deltanet_jax", "experiments")
SOURCES = [p for name in (*PACKAGES, "tests") for p in sorted((ROOT / name).rglob("*.py"))]

# What a package must not import.
FORBIDDEN = {
    "pallas_kernels": {"deltanet_jax", "experiments", "tests", "flax", "absl", "optax", "orbax"},
    "deltanet_jax": {"experiments", "tests", "absl"},
    "experiments": {"tests"},
}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_arrows_point_down(package):
    for path in SOURCES:
        if path.relative_to(ROOT).parts[0] == package:
            wrong = FORBIDDEN[package] & set(imports(path))
            assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


# What runs code that it was given as data, or unpacks archives without looking at their names.
DANGEROUS_CALLS = {"eval", "exec", "compile", "__import__", "extractall", "unpack_archive"}
DANGEROUS_IMPORTS = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "yaml"}


def dangers(text):
    """Calls and imports that execute data, by name; methods called compile are not Python's."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            function = node.func
            name = getattr(function, "attr", getattr(function, "id", None))
            owned = isinstance(function, ast.Attribute) and name in ("compile", "eval")
            if name in DANGEROUS_CALLS and not owned:
                yield name
            keywords = {k.arg: getattr(k.value, "value", None) for k in node.keywords}
            yield from ({"allow_pickle", "trust_remote_code", "shell"} & keywords.keys()) - {
                k for k, v in keywords.items() if v is False
            }
        elif isinstance(node, ast.Import):
            yield from {alias.name.split(".")[0] for alias in node.names} & DANGEROUS_IMPORTS
        elif isinstance(node, ast.ImportFrom):
            yield from {node.module.split(".")[0]} & DANGEROUS_IMPORTS


def test_nothing_executes_data():
    for path in SOURCES:
        if path.relative_to(ROOT).parts[0] in PACKAGES:
            assert not list(dangers(path.read_text())), path


@pytest.mark.parametrize(
    "text",
    [
        "eval('1')",
        "exec(text)",
        "from pickle import loads",
        "import yaml",
        "np.load(name, allow_pickle=True)",
        "subprocess.run(command, shell=flag)",
        "archive.extractall(folder)",
        "builtins.exec(text)",
    ],
)
def test_dangers_are_seen(text):
    assert list(dangers(text))


def test_flags_are_defined_in_files_of_flags():
    for path in SOURCES:
        if path.name == "flags.py":  # they are the command's, and so in its --help
            assert "\nflags.disclaim_key_flags()\n" in path.read_text(), path
        elif path.name != Path(__file__).name:
            assert "flags.DEFINE" not in path.read_text(), path


def test_every_command_refuses_what_is_no_flag():
    for path in SOURCES:
        if path.relative_to(ROOT).parts[0] == "experiments" and path.name != "command.py":
            assert "app.run(" not in path.read_text(), path


def test_every_file_has_its_header():
    for path in SOURCES:
        text = path.read_text()
        assert not text or "SPDX-License-Identifier: Apache-2.0" in text, path


def test_files_stay_readable():
    for path in SOURCES:
        assert len(path.read_text().splitlines()) <= 450, path


def test_what_is_pinned_is_in_a_range_of_the_package():
    """So that `pip install .[triton]` takes what `make install GPU=1` does, or near it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = {}
    for text in itertools.chain(
        project["dependencies"], *project["optional-dependencies"].values()
    ):
        wanted = Requirement(text)
        ranges[wanted.name] = ranges.get(wanted.name, SpecifierSet()) & wanted.specifier
    for name in ("requirements.txt", "requirements-gpu.txt"):
        for line in (ROOT / name).read_text().splitlines():
            if line and not line.startswith("#"):
                pin = Requirement(line)
                (version,) = (part.version for part in pin.specifier)
                assert pin.name in ranges and ranges[pin.name].contains(version), line
    assert not ranges["triton"].contains("3.7.0")


def documents():
    return [p for p in ROOT.rglob("*.md") if not {".venv", ".venv-aot"} & {*p.parts}]


def test_commands_in_the_documents_exist():
    """Every `python -m experiments.x --flag` and `make x` in the documents can be typed."""
    flags_text = "".join(path.read_text() for path in SOURCES if path.name == "flags.py")
    known = {name for group in GROUPS.values() for name in group}
    known |= set(SWEEP)
    known |= set(re.findall(r'DEFINE_\w+\(\s*"(\w+)"', flags_text))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in documents():
        text = path.read_text()
        for module in re.findall(r"python -m (experiments[\w.]*)", text):
            assert (ROOT / (module.replace(".", "/") + ".py")).exists(), f"{path}: {module}"
        for flag in re.findall(r"(?<=[\s`])--(?!xla_)(\w+)=", text):
            assert flag in known, f"{path}: --{flag}"
        for preset in re.findall(r"--preset=([\w/-]+)", text):
            assert preset in {*PRESETS, "NAME"}, f"{path}: {preset}"
        for target in re.findall(r"`make (\w+)", text):
            assert target in targets, f"{path}: make {target}"


def test_links_in_the_documents_lead_somewhere():
    for path in documents():
        for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / link).exists(), f"{path}: {link}"


FAULTS = set(
    make_faults(Path(), types.SimpleNamespace(seed=0, kills=1, others=1, at_once=1, files=1))
)


def test_every_fault_is_shown_by_tests_and_kinds_of_faults_that_exist():
    """Each row of the table in docs/reliability.md names one at least."""
    text = (ROOT / "docs" / "reliability.md").read_text()
    text = text.split("## Faults one by one")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| (G?\d+) \|(.*)\|$", text, re.MULTILINE))
    wanted = [*(str(n) for n in range(1, 25)), *(f"G{n}" for n in range(1, 7))]
    assert list(rows) == wanted
    files = {p.name: p.read_text() for p in SOURCES if p.name.startswith("test_")}
    for number in wanted:
        tests = re.findall(r"`(test_\w+\.py)::(test_\w+)`", rows[number])
        for name, test in tests:
            assert f"def {test}(" in files[name], f"{number}: {name}::{test}"
        kinds = re.findall(r"faults `(\w+)`", rows[number])
        assert set(kinds) <= FAULTS, f"{number}: {kinds}"
        assert tests or kinds, number
