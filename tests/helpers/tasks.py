# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""Tasks that crash, and rows of metrics to compare runs by."""

import grain


class Crash(Exception):
    pass


class Wrapped:
    """A task whose training batches pass through a function of the batch's number.

    The number counts from where the data was set to, not from the start of a run. `evaluating` is
    called before every evaluation with its number.
    """

    def __init__(self, task, change=lambda number, batch: batch, evaluating=lambda number: None):
        self.task, self.change, self.evaluating = task, change, evaluating
        self.vocab_size, self.metrics = task.vocab_size, task.metrics
        self.evaluations = 0

    def eval_dataset(self):
        self.evaluations += 1
        self.evaluating(self.evaluations)
        return self.task.eval_dataset()

    def train_dataset(self, batch_size):
        class Dataset(grain.IterDataset):
            def __iter__(dataset):
                inner = self.task.train_dataset(batch_size).__iter__()
                return Iterator(inner, self.change)

        class Iterator(grain.DatasetIterator):
            def __init__(self, inner, change):
                super().__init__()
                self.inner, self.change, self.number = inner, change, 0

            def __next__(self):
                self.number += 1
                return self.change(self.number, next(self.inner))

            def get_state(self):
                return self.inner.get_state()

            def set_state(self, state):
                self.inner.set_state(state)

        return Dataset()


def crash_at(step):
    def change(number, batch):
        if number == step:
            raise Crash
        return batch

    return change


def without_speed(rows):
    """Rows of metrics.jsonl without what depends on the clock."""
    return [{k: v for k, v in r.items() if not k.startswith("perf/")} for r in rows]
