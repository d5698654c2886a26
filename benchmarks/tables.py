"""One table, shown to people in a terminal, in Markdown, and as bars."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.timing import table

Cell = str | float


@dataclass(frozen=True)
class Table:
    """`title` says what the rows are; the first column names them. Numbers show two digits."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    def text(self) -> str:
        """For a terminal."""
        return f"{self.title}\n{table(self.header, self.rows)}"

    def markdown(self) -> str:
        """For a page."""
        lines = [
            self.header,
            ["---"] * len(self.header),
            *([c if isinstance(c, str) else f"{c:.2f}" for c in row] for row in self.rows),
        ]
        return "\n".join([f"**{self.title}**", "", *(f"| {' | '.join(line)} |" for line in lines)])


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that `write_outputs` reads."""
    parser.add_argument("--markdown", type=Path, metavar="OUT", help="file that receives the tables as well")
    parser.add_argument("--plot", type=Path, metavar="OUT", help="PNG file that receives the times as bars")


def write_outputs(
    arguments: argparse.Namespace,
    command: str,
    tables: Sequence[Table],
    unit: str,
    bars: Mapping[str, Mapping[str, float]],
) -> None:
    """Print the tables, and write what the flags ask for: the page with `command` above it, the bars in `unit`."""
    print("\n\n".join(["", *(each.text() for each in tables)]))
    if arguments.markdown:
        write_markdown(arguments.markdown, command, tables)
    if arguments.plot:
        plot_bars(arguments.plot, unit, bars)


def write_markdown(path: Path, command: str, tables: Sequence[Table]) -> None:
    """Write a page: the command that made it, then the tables."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join([f"`{command}`", *(each.markdown() for each in tables)]) + "\n")


def plot_bars(path: Path, unit: str, groups: Mapping[str, Mapping[str, float]]) -> None:
    """Draw one field of horizontal bars per group, in their order, as PNG: title → label → value in `unit`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = {title: bars for title, bars in groups.items() if bars}
    bar_count = sum(len(bars) + 1 for bars in shown.values())
    figure = Figure(figsize=(8, 0.8 + 0.36 * bar_count), layout="constrained")
    fields = figure.subplots(len(shown), 1, squeeze=False, height_ratios=[len(bars) + 1 for bars in shown.values()])
    for (title, bars), field in zip(shown.items(), fields[:, 0], strict=True):
        drawn = field.barh(list(bars), list(bars.values()), color="tab:blue")
        field.bar_label(drawn, fmt="%.4g", padding=3)
        field.invert_yaxis()
        field.margins(x=0.12)
        field.set(title=title, xlabel=unit)
    FigureCanvasAgg(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
