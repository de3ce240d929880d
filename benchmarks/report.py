"""What was measured, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.measuring import Comparison, Curves, Judgement, Result, judgements, summary


def report(
    facts: Mapping[str, str], results: Mapping[str, Sequence[Result]], pictures: Mapping[str, str] | None = None
) -> str:
    """Return the whole report: the circumstances, how the goals were kept, and the results of every workload.

    Args:
        facts: what is to be known of the circumstances, by name.
        results: what came of each workload.
        pictures: where there is a picture of a workload, as seen from the report.
    """
    parts = ["# Benchmarks", _table(["", ""], facts.items())]
    goals = _goals([result for found in results.values() for result in found])
    if goals:
        parts += ["## Goals", goals]
    for workload, found in results.items():
        parts.append(f"## {workload}")
        if pictures and workload in pictures:
            parts.append(f"![The results of {workload}, as in the tables below]({pictures[workload]})")
        parts += [_section(result) for result in found]
    return "\n\n".join(parts) + "\n"


def _goals(results: Sequence[Result]) -> str:
    rows = [
        [result.title, judgement.wanted, f"{judgement.found:,.3g}", _verdict(judgement, result.why)]
        for result in results
        for judgement in judgements(result)
    ]
    heads = ["Work", "Goal", "Found", ""], ["---", "---", "---:", "---"]
    return "\n".join(_line(cells) for cells in (*heads, *rows)) if rows else ""


def _verdict(judgement: Judgement, why: str) -> str:
    if judgement.met:
        return "met"
    # Of nothing, no share can be told.
    missed = f"**missed** by {judgement.found / judgement.at_most - 1:.0%}" if judgement.at_most else "**missed**"
    return f"{missed}: {why}" if why else missed


def _section(result: Result) -> str:
    return _curves(result) if isinstance(result, Curves) else _comparison(result)


def _comparison(comparison: Comparison) -> str:
    unit = comparison.unit
    heads = ["Variant", "Samples", f"Lower quartile, {unit}", f"Median, {unit}", f"Upper quartile, {unit}"]
    table = _table([*heads, f"Times {comparison.baseline}"], (_row(comparison, name) for name in comparison.samples))
    return "\n\n".join([f"### {comparison.title}", comparison.method, table])


def _row(comparison: Comparison, variant: str) -> list[str]:
    samples = comparison.samples[variant]
    found = summary(samples)
    quartiles = [f"{value:,.{comparison.digits}f}" for value in (found.lower, found.median, found.upper)]
    return [variant, f"{len(samples):,}", *quartiles, f"{comparison.ratio(variant):.2f}"]


def _curves(curves: Curves) -> str:
    sizes = sorted({size for measured in curves.samples.values() for size in measured})
    heads = ["Variant", *(f"{size:,} {curves.sizes_of}: p50 / p99, {curves.unit}" for size in sizes)]
    rows = ([variant, *(_point(curves, variant, size) for size in sizes)] for variant in curves.samples)
    return "\n\n".join([f"### {curves.title}", curves.method, _table(heads, rows)])


def _point(curves: Curves, variant: str, size: int) -> str:
    return " / ".join(f"{curves.at(variant, size, percent):,.{curves.digits}f}" for percent in (50, 99))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    # Words to the left, numbers to the right.
    rule = ["---", *("---:" if len(heads) > 2 else "---" for _ in heads[1:])]
    return "\n".join(_line(cells) for cells in (heads, rule, *rows))
