# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""One run's checkpoint on several tasks: what is asked is kept, so that it goes on where it was."""

import dataclasses
import json
from pathlib import Path

from deltanet_jax.train.files import write_atomically
from experiments.evaluation import metrics
from experiments.evaluation.scoring import Results, Scorer
from experiments.evaluation.tasks import read_questions
from experiments.restored import restore_model, tokenizer_of
from pallas_kernels._common.timing import machine_info

OFFLINE = "offline.json"


@dataclasses.dataclass(frozen=True)
class TaskOptions:
    """What `evaluate_tasks` does, named and described as the flags of experiments.evaluate are."""

    tasks: tuple[str, ...]
    tokenizer: str | None = None
    data: str | None = None
    limit: int | None = None
    max_length: int = 2048
    batch_tokens: int = 16_384
    harness: bool = False
    include_path: str | None = None

    @classmethod
    def from_flags(cls, values) -> "TaskOptions | None":
        """Of parsed flags; None without --tasks.

        Raises:
            ValueError: a flag that would come to nothing; the message starts with its name.
        """
        found = {field.name: getattr(values, field.name) for field in dataclasses.fields(cls)}
        if values.tasks is None:
            for name in ("tokenizer", "data", "limit", "harness", "include_path"):
                if found[name]:
                    raise ValueError(f"{name}: wanted --tasks with it, got none")
            return None
        if values.harness and values.data is not None:
            raise ValueError(f"data: wanted none with --harness, got {values.data!r}")
        if values.include_path is not None and not values.harness:
            raise ValueError(f"include_path: wanted --harness with it, got {values.include_path!r}")
        return cls(**found | {"tasks": tuple(found["tasks"])})

    def questions(self) -> dict[str, list]:
        """What each offline task asks. Raises ValueError like `evaluate_tasks`."""
        if not self.tasks:
            raise ValueError("tasks: wanted at least one, got none")
        if self.data is None:
            raise ValueError("data: wanted the folder with the tasks' files, got none")
        return {name: read_questions(name, Path(self.data), self.limit) for name in self.tasks}


def step_folder(workdir: Path, step: int) -> Path:
    """Where what is found of a checkpoint goes."""
    return workdir / "evaluation" / f"step-{step}"


def evaluate_tasks(workdir: Path, values: TaskOptions) -> dict[str, object]:
    """Figures of every task, and what they were made with.

    Writes WORKDIR/evaluation/step-N/: requests.jsonl (every answer of the model, as it comes) and
    offline.json or harness.json (what is returned, and the machine).

    Raises:
        ValueError: a flag or a file is not as wanted; the message starts with the flag's name.
        ImportError: a package that a flag needs is missing.
    """
    if values.harness:
        if not values.tasks:
            raise ValueError("tasks: wanted at least one, got none")
        from experiments.evaluation.harness import run_harness  # an optional package
    else:
        questions = values.questions()
    step, config, model = restore_model(workdir)
    tokenizer = tokenizer_of(config, values.tokenizer)
    folder = step_folder(workdir, step)
    folder.mkdir(parents=True, exist_ok=True)
    depends_on = {
        "step": step,
        "tokenizer": tokenizer.digest,
        "max_length": values.max_length,
        "batch_tokens": values.batch_tokens,
    }
    scorer = Scorer(
        model,
        tokenizer,
        max_length=values.max_length,
        batch_tokens=values.batch_tokens,
        results=Results(folder / "requests.jsonl", json.dumps(depends_on)),
    )
    if values.harness:
        figures = run_harness(scorer, values.tasks, values.include_path, values.limit)
    else:
        figures = {name: metrics.score(asked, scorer) for name, asked in questions.items()}
        for name, asked in questions.items():
            figures[name]["documents"] = len(asked)
    record = {**depends_on, "limit": values.limit, "tasks": figures}
    name = "harness.json" if values.harness else OFFLINE
    write_atomically(
        folder / name, json.dumps(record | {"machine": machine_info()}, indent=2) + "\n"
    )
    return record
