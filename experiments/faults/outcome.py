# SPDX-FileCopyrightText: 2026 The DeltaNet-JAX Authors
# SPDX-License-Identifier: Apache-2.0
"""What came of a kind of fault."""

import dataclasses

from deltanet_jax.train.manifest import Damaged

SECONDS = 2.0  # of a core; what takes longer to be refused has failed
REFUSALS = (ValueError, TypeError, Damaged)


@dataclasses.dataclass
class Outcome:
    """Counts of one kind of fault.

    Attributes:
        name: the fault.
        caused: how often.
        lost: how often what is promised did not hold.
        problems: a line for each loss.
        figures: other numbers found on the way; of several parts, the largest.
        seconds: that it took.
    """

    name: str
    caused: int = 0
    lost: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)
    figures: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: float = 0.0

    def add_problem(self, problem: str | None) -> None:
        """Counts a loss if there is one."""
        if problem is not None:
            self.lost += 1
            self.problems.append(problem)

    def __add__(self, other: "Outcome") -> "Outcome":
        """Of both together, parts of one kind that were caused side by side."""
        figures = self.figures | other.figures
        return Outcome(
            self.name,
            self.caused + other.caused,
            self.lost + other.lost,
            self.problems + other.problems,
            {k: max(o.figures.get(k, 0.0) for o in (self, other)) for k in figures},
            max(self.seconds, other.seconds),
        )


def parts(count: int, most: int) -> list[int]:
    """`count` in at most so many parts of about the same size."""
    most = min(count, most)
    return [count // most + (i < count % most) for i in range(most)]
