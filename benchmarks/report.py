"""What was measured, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.measuring import Comparison, summary


def report(facts: Mapping[str, str], results: Mapping[str, Sequence[Comparison]]) -> str:
    """Return the whole report: the circumstances, and the comparisons of every workload."""
    parts = ["# Benchmarks", _table(["", ""], facts.items())]
    for workload, comparisons in results.items():
        parts += [f"## {workload}", *(_section(comparison) for comparison in comparisons)]
    return "\n\n".join(parts) + "\n"


def _section(comparison: Comparison) -> str:
    unit = comparison.unit
    heads = ["Variant", "Samples", f"Lower quartile, {unit}", f"Median, {unit}", f"Upper quartile, {unit}"]
    table = _table([*heads, f"Times {comparison.baseline}"], (_row(comparison, name) for name in comparison.samples))
    return "\n\n".join([f"### {comparison.title}", comparison.method, table, *_verdict(comparison)])


def _row(comparison: Comparison, variant: str) -> list[str]:
    samples = comparison.samples[variant]
    found = summary(samples)
    quartiles = [f"{value:,.{comparison.digits}f}" for value in (found.lower, found.median, found.upper)]
    return [variant, f"{len(samples):,}", *quartiles, f"{comparison.ratio(variant):.2f}"]


def _verdict(comparison: Comparison) -> list[str]:
    if (goal := comparison.goal) is None:
        return []
    # What is judged is what was measured, and not what is left of it in print.
    ratio = comparison.ratio(goal.variant)
    verdict = "met" if ratio <= goal.at_most else "missed"
    wanted = f"Goal: {goal.variant} takes at most {goal.at_most:g} times what {comparison.baseline} takes"
    return [f"{wanted}. Here: {ratio:.3f} times, **{verdict}**."]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    # Words to the left, numbers to the right.
    rule = ["---", *("---:" if len(heads) > 2 else "---" for _ in heads[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))
