"""What was measured, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.measuring import Comparison, Goal, summary


def report(facts: Mapping[str, str], results: Mapping[str, Sequence[Comparison]]) -> str:
    """Return the whole report: the circumstances, how the goals were kept, and the comparisons of every workload."""
    parts = ["# Benchmarks", _table(["", ""], facts.items())]
    found = [comparison for comparisons in results.values() for comparison in comparisons]
    if any(comparison.goals for comparison in found):
        parts += ["## Goals", _goals(found)]
    for workload, comparisons in results.items():
        parts += [f"## {workload}", *(_section(comparison) for comparison in comparisons)]
    return "\n\n".join(parts) + "\n"


def _goals(comparisons: Sequence[Comparison]) -> str:
    rows = (
        [comparison.title, goal.wanted(comparison), f"{goal.found(comparison):,.3g}", _verdict(goal, comparison)]
        for comparison in comparisons
        for goal in comparison.goals
    )
    return "\n".join(_line(cells) for cells in (["Work", "Goal", "Found", ""], ["---", "---", "---:", "---"], *rows))


def _verdict(goal: Goal, comparison: Comparison) -> str:
    if goal.met(comparison):
        return "met"
    return f"**missed** by {goal.found(comparison) / goal.at_most - 1:.0%}"


def _section(comparison: Comparison) -> str:
    unit = comparison.unit
    heads = ["Variant", "Samples", f"Lower quartile, {unit}", f"Median, {unit}", f"Upper quartile, {unit}"]
    table = _table([*heads, f"Times {comparison.baseline}"], (_row(comparison, name) for name in comparison.samples))
    return "\n\n".join([f"### {comparison.title}", comparison.method, table])


def _row(comparison: Comparison, variant: str) -> list[str]:
    samples = comparison.samples[variant]
    found = summary(samples)
    quartiles = [f"{value:,.{comparison.digits}f}" for value in (found.lower, found.median, found.upper)]
    return [variant, f"{len(samples):,}", *quartiles, f"{comparison.ratio(variant):.2f}"]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    # Words to the left, numbers to the right.
    rule = ["---", *("---:" if len(heads) > 2 else "---" for _ in heads[1:])]
    return "\n".join(_line(cells) for cells in (heads, rule, *rows))
