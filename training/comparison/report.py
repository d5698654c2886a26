"""An ablation on paper: JSON, Markdown and a plot, from whatever results there are.

A key row shows mean ± sample deviation over its seeds, another row the 95 % bootstrap interval over people. Arrows compare with the full
model picture by picture, over the seeds that both have: ▲ better, ▼ worse, only where the 99 % interval of the difference leaves out zero.
Seeds ask for the same people, so that more seeds are no more people.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.comparison.plan import Plan
from training.comparison.rows import FULL, PAPER_COLUMNS, ROWS
from training.comparison.statistics import Interval, interval
from training.durable import write_json, write_text
from training.evaluation.figure import METRICS

JSON_FILE, MARKDOWN_FILE, PLOT_FILE = "ablation.json", "ablation.md", "ablation.png"
OUR_COLUMNS = ("age_mae", "avd", "id_auc", "text_image_cosine", "fid", "spectrum_error")
COLUMNS = (*PAPER_COLUMNS, *OUR_COLUMNS)
CERTAIN = 0.99  # of an arrow
_ARROWS = {"higher": "↑", "lower": "↓"}

Result = Mapping[str, Any]
"""One `result.json`. Older ones have no "person"; each target stands for a person then."""


@dataclass(frozen=True)
class Cell:
    """A row's figure of one metric. `deviation` over `seeds` results, NaN for one; `spread` over people where there is one seed;
    `change` against the full model, None where no picture of both was measured."""

    value: float
    seeds: int
    deviation: float
    spread: Interval | None
    change: Interval | None

    def mark(self, direction: str) -> str:
        """▲, ▼ or nothing."""
        if self.change is None or not self.change.excludes_zero:
            return ""
        return " ▲" if (self.change.mean > 0) == (direction == "higher") else " ▼"

    def text(self, direction: str) -> str:
        """For a table."""
        if self.seeds > 1:
            return f"{self.value:.3f} ± {self.deviation:.3f}{self.mark(direction)}"
        if self.spread is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.spread.low:.3f} … {self.spread.high:.3f}){self.mark(direction)}"


def cells(results: Sequence[Result]) -> dict[str, dict[str, Cell]]:
    """Rows in the table's order, each with the columns of which it has a figure."""
    full = {result["seed"]: result for result in results if result["row"] == FULL}
    table: dict[str, dict[str, Cell]] = {}
    for name in ROWS:
        found = sorted((result for result in results if result["row"] == name), key=lambda result: result["seed"])
        if found:
            columns = [c for c in COLUMNS if all(c in result["figures"] for result in found)]
            table[name] = {column: _cell(column, found, full) for column in columns}
    return table


def write(folder: Path, command: str, plan: Plan, results: Sequence[Result], missing: Sequence[str]) -> None:
    """Write the three files into `folder`. `missing` are the jobs that have no result yet."""
    table = cells(results)
    write_json(
        folder / JSON_FILE,
        {
            "command": command,
            "plan": plan.to_dict(),
            "missing": list(missing),
            "columns": {column: METRICS[column].direction for column in COLUMNS},
            "rows": {
                name: {column: _without_nan(asdict(cell)) for column, cell in row.items()}
                for name, row in table.items()
            },
            "paper": {name: dict(row.paper) for name, row in ROWS.items() if row.paper},
        },
    )
    write_text(folder / MARKDOWN_FILE, markdown(command, plan, table, missing))
    if table:
        plot(table, folder / PLOT_FILE)


def markdown(command: str, plan: Plan, table: Mapping[str, Mapping[str, Cell]], missing: Sequence[str]) -> str:
    """The table, what its columns mean, and the article's."""
    shown = [column for column in COLUMNS if any(column in row for row in table.values())]
    lines = [
        f"`{command}`: every row {plan.steps} steps of {plan.batch_size} at rate {plan.learning_rate:g}, {plan.count} held-out requests, "
        f"{plan.inference_steps} DDIM steps.",
        "",
        *([f"Not done yet: {', '.join(missing)}.", ""] if missing else []),
        "| | " + " | ".join(f"`{column}` {_ARROWS[METRICS[column].direction]}" for column in shown) + " |",
        "|---" * (len(shown) + 1) + "|",
    ]
    for name, row in table.items():
        texts = [row[column].text(METRICS[column].direction) if column in row else "–" for column in shown]
        lines.append(f"| {ROWS[name].title} | {' | '.join(texts)} |")
    lines += [
        "",
        "↑ higher is better, ↓ lower is better. ± is the sample deviation over seeds, brackets the 95 % bootstrap interval over people. "
        "▲ better and ▼ worse than the full model on the same requests with the same noise and seed, where the 99 % interval of the mean "
        "difference leaves out zero; of a hundred comparisons without any difference one has an arrow. Compare by the arrows: two figures "
        "side by side may be of other seeds. – means that the row cannot be asked (no reference, no identity to keep; no words, no direction).",
        "",
        *(f"- `{column}`: {METRICS[column].meaning}; read by {METRICS[column].read_by}" for column in shown),
        "",
        'The article\'s Table 7 (its "FID" is an identity similarity, here `id_sim`; other data, other model, no threshold):',
        "",
        "| | " + " | ".join(f"`{column}`" for column in PAPER_COLUMNS) + " |",
        "|---" * (len(PAPER_COLUMNS) + 1) + "|",
    ]
    for printed in ROWS.values():
        if printed.paper:
            figures = " | ".join(f"{printed.paper[column]:.3g}" for column in PAPER_COLUMNS)
            lines.append(f"| {printed.title} | {figures} |")
    return "\n".join(lines) + "\n"


def plot(table: Mapping[str, Mapping[str, Cell]], path: Path) -> None:
    """A panel per metric, a dot per row with its interval or deviation, and the full model as a line."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    shown = [column for column in COLUMNS if any(column in row for row in table.values())]
    names = list(table)
    across = min(6, len(shown))
    down = math.ceil(len(shown) / across)
    figure, panels = pyplot.subplots(
        down,
        across,
        figsize=(2.1 * across + 2.2, (0.24 * len(names) + 0.9) * down),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for panel, column in zip(panels.ravel(), shown, strict=False):
        direction = METRICS[column].direction
        for height, name in enumerate(names):
            cell = table[name].get(column)
            if cell is None:
                continue
            colour = {"": "tab:gray", " ▲": "tab:green", " ▼": "tab:red"}[cell.mark(direction)]
            low, high = _reach(cell)
            panel.plot([low, high], [height, height], color=colour, linewidth=1)
            panel.plot(cell.value, height, "o", color="black" if name == FULL else colour, markersize=4)
        if column in table.get(FULL, {}):
            panel.axvline(table[FULL][column].value, color="black", linewidth=0.6, linestyle=":")
        panel.set_title(f"{column} {_ARROWS[direction]}", fontsize=9)
        panel.tick_params(labelsize=7)
    for panel in panels.ravel()[len(shown) :]:
        panel.set_visible(False)
    panels[0, 0].set_yticks(range(len(names)), [ROWS[name].title for name in names])
    panels[0, 0].invert_yaxis()
    figure.suptitle("Ablation. Green: better than full, red: worse, grey: no certain difference", fontsize=9)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    pyplot.close(figure)


def _cell(column: str, found: Sequence[Result], full: Mapping[int, Result]) -> Cell:
    values = [result["figures"][column]["value"] for result in found]
    compared = [
        result
        for result in found
        if result["row"] != FULL and result["seed"] in full and _are_pairs(result, full[result["seed"]], column)
    ]
    changes = [_column(result, column) - _column(full[result["seed"]], column) for result in compared]
    has_spread = len(found) == 1 and column in found[0]["pictures"]
    return Cell(
        value=float(np.mean(values)),
        seeds=len(values),
        deviation=float(np.std(values, ddof=1)) if len(values) > 1 else math.nan,
        spread=interval(_column(found[0], column), _people(found)) if has_spread else None,
        change=interval(np.concatenate(changes), _people(compared), CERTAIN) if changes else None,
    )


def _are_pairs(result: Result, full: Result, column: str) -> bool:
    return result["targets"] == full["targets"] and column in result["pictures"] and column in full["pictures"]


def _column(result: Result, column: str) -> np.ndarray:
    return np.array([math.nan if value is None else value for value in result["pictures"][column]])


def _people(results: Sequence[Result]) -> np.ndarray:
    """Of whom each picture of these results is, one result after the other."""
    who = "person" if all("person" in result for result in results) else "targets"
    return np.concatenate([result[who] for result in results])


def _reach(cell: Cell) -> tuple[float, float]:
    if cell.seeds > 1:
        return cell.value - cell.deviation, cell.value + cell.deviation
    return (cell.value, cell.value) if cell.spread is None else (cell.spread.low, cell.spread.high)


def _without_nan(value: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(entry, float) and not math.isfinite(entry) else entry for name, entry in value.items()
    }


def read(paths: Sequence[Path]) -> list[Result]:
    """The results that are there."""
    return [json.loads(path.read_text()) for path in paths if path.is_file()]
