"""What was measured, as pictures: bars with the range of half of the samples, and curves over sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib import rcParams
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from benchmarks.measuring import Comparison, Curves, Result, summary

_COLUMNS = 2
_WIDTH = 7.0
"""Inches of a picture in the figure."""

# The text as outlines: room is made for this font, and where it is missing another one would be cut off.
rcParams["svg.fonttype"] = "path"
# The same numbers make the same file.
rcParams["svg.hashsalt"] = "provenance"


def draw(results: Sequence[Result], file: Path) -> None:
    """Draw the results of a workload side by side into an SVG file."""
    columns = min(_COLUMNS, len(results))
    rows = [results[first : first + columns] for first in range(0, len(results), columns)]
    heights = [max(_height(result) for result in row) for row in rows]
    figure = Figure(figsize=(_WIDTH * columns, sum(heights)), layout="constrained")
    places = figure.subplots(len(rows), columns, height_ratios=heights, squeeze=False)
    for row, its_places in zip(rows, places, strict=True):
        for place in its_places[len(row) :]:
            place.set_axis_off()
        for result, place in zip(row, its_places, strict=False):
            _curves(result, place) if isinstance(result, Curves) else _bars(result, place)
            place.set_title(result.title, fontsize="medium", wrap=True)
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


def _height(result: Result) -> float:
    """Return how many inches of height a picture needs."""
    return 5.0 if isinstance(result, Curves) else 1.4 + 0.35 * len(result.samples)


def _bars(comparison: Comparison, place: Any) -> None:
    base = comparison.median(comparison.baseline)
    names = list(comparison.samples)
    found = [summary(comparison.samples[name]) for name in names]
    medians = [each.median / base for each in found]
    ranges = [
        [(each.median - each.lower) / base for each in found],
        [(each.upper - each.median) / base for each in found],
    ]
    bars = place.barh(names, medians, xerr=ranges, capsize=3, color="#7a9cc6", ecolor="#333333")
    place.bar_label(bars, [f"{median:.2f}" for median in medians], padding=14, fontsize="small")
    place.invert_yaxis()
    place.margins(x=0.15)
    place.set_xlabel(f"times {comparison.baseline}", fontsize="small")


def _curves(curves: Curves, place: Any) -> None:
    for name, measured in curves.samples.items():
        sizes = sorted(measured)
        (line,) = place.plot(sizes, [curves.at(name, size, 50) for size in sizes], marker="o", label=name)
        place.plot(sizes, [curves.at(name, size, 99) for size in sizes], linestyle=":", color=line.get_color())
    place.set_xscale("log")
    place.set_yscale("log")
    # Numbers, as in the tables, and not powers of ten.
    place.xaxis.set_major_formatter("{x:,.0f}")
    place.xaxis.set_minor_formatter(NullFormatter())
    place.yaxis.set_major_formatter("{x:g}")
    place.yaxis.set_minor_formatter("{x:g}")
    place.set_xlabel(curves.sizes_of, fontsize="small")
    place.set_ylabel(f"{curves.unit}: median, and dotted what 99 of 100 keep to", fontsize="small")
    # Beside the curves: over them it hides the ones that matter.
    place.legend(fontsize="x-small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
