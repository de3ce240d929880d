"""Measuring variants side by side, and what can be said of the samples."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import attrs

T = TypeVar("T")


def interleaved(variants: Mapping[str, Callable[[], T]], *, rounds: int) -> dict[str, list[T]]:
    """Take a sample of each variant in turn, A B C A B C.

    Whatever else the machine does meanwhile, and whatever grows with time, then meets all of them alike.
    """
    samples: dict[str, list[T]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, measure in variants.items():
            samples[name].append(measure())
    return samples


@attrs.frozen
class Summary:
    """The quartiles of some samples: unlike mean and deviation, they do not follow the odd sample that was disturbed."""

    lower: float
    median: float
    upper: float


def summary(samples: Sequence[float]) -> Summary:
    """Return the quartiles of at least two samples."""
    return Summary(*statistics.quantiles(samples, n=4, method="inclusive"))


@attrs.frozen
class Goal:
    """How many times the median of the baseline that of a variant is to be at most."""

    variant: str
    at_most: float


@attrs.frozen(kw_only=True)
class Comparison:
    """The samples of some variants, one of which is what the others are compared to."""

    title: str
    method: str
    """What exactly was measured, for a reader who doubts it."""
    unit: str
    digits: int
    """How many decimal places of the unit mean something."""
    samples: Mapping[str, Sequence[float]]
    baseline: str = "bare"
    goal: Goal | None = None

    def ratio(self, variant: str) -> float:
        """Return the median of a variant as a multiple of that of the baseline."""
        return statistics.median(self.samples[variant]) / statistics.median(self.samples[self.baseline])
