"""Measuring variants side by side, and what can be said of the samples."""

from __future__ import annotations

import math
import statistics
from abc import ABC, abstractmethod
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
    goals: Sequence[Goal] = ()

    def median(self, variant: str) -> float:
        """Return the median of a variant, in the unit."""
        return statistics.median(self.samples[variant])

    def ratio(self, variant: str) -> float:
        """Return the median of a variant as a multiple of that of the baseline."""
        return self.median(variant) / self.median(self.baseline)

    def added(self, variant: str) -> float:
        """Return by how much the median of a variant is above that of the baseline, in the unit."""
        return self.median(variant) - self.median(self.baseline)


@attrs.frozen
class Goal(ABC):
    """What a variant is to keep to."""

    variant: str
    at_most: float

    @abstractmethod
    def wanted(self, comparison: Comparison) -> str:
        """Return the goal in words."""

    @abstractmethod
    def found(self, comparison: Comparison) -> float:
        """Return what was measured of it."""

    def met(self, comparison: Comparison) -> bool:
        """Return whether it was kept to. What is judged is what was measured, and not what is left of it in print."""
        return self.found(comparison) <= self.at_most


@attrs.frozen
class Times(Goal):
    """How many times the median of the baseline that of a variant is."""

    def wanted(self, comparison: Comparison) -> str:
        return f"{self.variant}: at most {self.at_most:.3g} times {comparison.baseline}"

    def found(self, comparison: Comparison) -> float:
        return comparison.ratio(self.variant)


@attrs.frozen
class Share(Goal):
    """What a variant adds to the baseline, as a share of what another one adds."""

    other: str

    def wanted(self, comparison: Comparison) -> str:
        return f"{self.variant}: adds at most {self.at_most:.3g} times what {self.other} adds to {comparison.baseline}"

    def found(self, comparison: Comparison) -> float:
        other = comparison.added(self.other)
        # Where noise hides what the other one adds, there is nothing to have a share of, and the goal is not met.
        return comparison.added(self.variant) / other if other > 0 else math.inf


@attrs.frozen
class Added(Goal):
    """What a variant adds to the baseline, in the unit."""

    def wanted(self, comparison: Comparison) -> str:
        return f"{self.variant}: at most {self.at_most:,.6g} {comparison.unit} above {comparison.baseline}"

    def found(self, comparison: Comparison) -> float:
        return comparison.added(self.variant)


@attrs.frozen
class Within(Goal):
    """The median of a variant, in the unit."""

    def wanted(self, comparison: Comparison) -> str:
        return f"{self.variant}: at most {self.at_most:,.6g} {comparison.unit}"

    def found(self, comparison: Comparison) -> float:
        return comparison.median(self.variant)
