"""Measuring variants side by side, and what can be said of the samples."""

from __future__ import annotations

import math
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

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
    """Return the quartiles of samples."""
    return Summary(percentile(samples, 25), percentile(samples, 50), percentile(samples, 75))


def percentile(samples: Sequence[float], percent: int) -> float:
    """Return the value that so many of a hundred samples do not exceed."""
    # There is nothing between the samples where there is only one, as of what never varies.
    return statistics.quantiles(samples, n=100, method="inclusive")[percent - 1] if len(samples) > 1 else samples[0]


@attrs.frozen(kw_only=True)
class Judgement:
    """How a goal was kept."""

    wanted: str
    found: float
    at_most: float

    @property
    def met(self) -> bool:
        """Whether it was kept. What is judged is what was measured, and not what is left of it in print."""
        return self.found <= self.at_most


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
    why: str = ""
    """What is known of goals that are missed."""

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


@attrs.frozen
class Percentile(Goal):
    """What most of the samples of a variant keep to, in the unit."""

    percent: int

    def wanted(self, comparison: Comparison) -> str:
        return f"{self.variant}: {self.percent} of 100 within {self.at_most:,.6g} {comparison.unit}"

    def found(self, comparison: Comparison) -> float:
        return percentile(comparison.samples[self.variant], self.percent)


@attrs.frozen(kw_only=True)
class Curves:
    """The samples of some variants at several sizes of what they work on."""

    title: str
    method: str
    unit: str
    digits: int
    sizes_of: str
    """What the sizes count."""
    samples: Mapping[str, Mapping[int, Sequence[float]]]
    """Of each variant, at each size."""
    goals: Sequence[Growth] = ()
    why: str = ""
    """What is known of goals that are missed."""

    def at(self, variant: str, size: int, percent: int) -> float:
        """Return a point of the curve that is drawn through what so many of a hundred samples do not exceed."""
        return percentile(self.samples[variant][size], percent)


@attrs.frozen
class Growth:
    """How many times the median of a variant at one size that at another size is."""

    variant: str
    at_most: float
    smaller: int
    larger: int

    def wanted(self, curves: Curves) -> str:
        """Return the goal in words."""
        sizes = f"{self.larger:,} {curves.sizes_of} at most {self.at_most:.3g} times that of {self.smaller:,}"
        return f"{self.variant}: the median of {sizes}"

    def found(self, curves: Curves) -> float:
        """Return what was measured of it."""
        return curves.at(self.variant, self.larger, 50) / curves.at(self.variant, self.smaller, 50)


Result = Comparison | Curves
"""What comes of a workload."""


def judgements(result: Result) -> list[Judgement]:
    """Return how the goals of a result were kept."""
    goals: Sequence[Any] = result.goals  # which are goals of such a result
    return [Judgement(wanted=goal.wanted(result), found=goal.found(result), at_most=goal.at_most) for goal in goals]
