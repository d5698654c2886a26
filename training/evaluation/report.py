"""An evaluation on disk: report.json for programs, report.md for people, targets.md for a model card. The same evaluation gives the
same bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.durable import write_json, write_text
from training.evaluation import targets
from training.evaluation.figure import METRICS, NEIGHBOURS, Figure, metric_of
from training.evaluation.making import ALL, MeasureSettings
from training.evaluation.measure import Evaluation

FORMAT_VERSION = 1
JSON_FILE, MARKDOWN_FILE, TIMINGS_FILE = "report.json", "report.md", "timings.json"


@dataclass(frozen=True)
class Subject:
    """What was evaluated, on what, by whom: `checkpoint` and `judges` with their sha256, `data` in a few words and numbers."""

    checkpoint: Mapping[str, Any]
    judges: Mapping[str, Any]
    data: Mapping[str, Any]
    settings: MeasureSettings


def write(evaluation: Evaluation, subject: Subject, folder: Path, plots: Mapping[str, str]) -> None:
    """Write the three files; `plots` maps a file name in `folder` to its caption."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / JSON_FILE, document(evaluation, subject))
    write_text(folder / targets.MARKDOWN_FILE, "\n".join(_targets(evaluation, subject)) + "\n")
    write_text(folder / MARKDOWN_FILE, markdown(evaluation, subject, plots))


def document(evaluation: Evaluation, subject: Subject) -> dict[str, Any]:
    """The JSON form; what has no number there is null."""
    return {
        "format_version": FORMAT_VERSION,
        "checkpoint": dict(subject.checkpoint),
        "judges": dict(subject.judges),
        "data": dict(subject.data),
        "settings": asdict(subject.settings),
        "figures": {key: _entry(key, figure) for key, figure in evaluation.figures.items()},
        "targets": targets.document(evaluation.figures),
        "skipped": dict(evaluation.skipped),
    }


def markdown(evaluation: Evaluation, subject: Subject, plots: Mapping[str, str]) -> str:
    """Tables by group, then what was skipped and why, the judges' own accuracy, and the plots."""
    settings = subject.settings
    lines = [
        "# Evaluation",
        "",
        f"Checkpoint `{subject.checkpoint['sha256'][:12]}`, judges `{subject.judges['sha256'][:12]}`, {subject.data['what']}.",
        f"Seeds {', '.join(map(str, settings.seeds))}; {settings.steps} steps of {settings.solver}; guidance {settings.guidance}. Figures are mean ± sample",
        "standard deviation over the seeds. A condition other than *everything* was given that one modality alone. Words are read",
        'without a parser. `id_sim` is a cosine and `fid` a Fréchet distance; the article uses "FID" for both.',
        *_untold(settings),
        "",
        *(f"- **{name}**: {meaning}" for name, meaning in NEIGHBOURS.items()),
        "",
        "## Targets",
        "",
        *targets.table(evaluation.figures, evaluation.skipped),
        "",
    ]
    for group in dict.fromkeys(metric.group for metric in METRICS.values()):
        keys = [key for name in METRICS for key in evaluation.figures if key.split(".")[0] == name]
        rows = [key for key in keys if metric_of(key).group == group]
        if rows:
            lines += [f"## {group}", "", *_table(rows, evaluation.figures), ""]
    lines += ["## Not measured", ""]
    lines += [f"- `{key}`: {reason}" for key, reason in evaluation.skipped.items()] or ["Everything was."]
    lines += ["", "## The judges", "", *_judges(subject.judges), "", "## Plots", ""]
    lines += [f"![{caption}]({file})\n" for file, caption in plots.items()]
    return "\n".join(lines).rstrip() + "\n"


def _targets(evaluation: Evaluation, subject: Subject) -> list[str]:
    """The table of targets and what it was made with."""
    settings = subject.settings
    return [
        f"Checkpoint `{subject.checkpoint['sha256'][:12]}`, judges `{subject.judges['sha256'][:12]}`, {subject.data['what']};",
        f"{settings.count} pictures per seed, seeds {', '.join(map(str, settings.seeds))}, {settings.steps} steps of {settings.solver},",
        f"guidance {settings.guidance}.",
        *_untold(settings),
        "",
        *targets.table(evaluation.figures, evaluation.skipped),
    ]


def _untold(settings: MeasureSettings) -> list[str]:
    """A line about what the checkpoint's training never saw, if there is any."""
    return [f"Never seen in training, so not given here: {', '.join(settings.never)}."] if settings.never else []


def _table(keys: list[str], figures: Mapping[str, Figure]) -> list[str]:
    names = [name for name in NEIGHBOURS if any(name in figures[key].beside for key in keys)]
    lines = [
        f"| metric | given | value | better | {' | '.join(names)} | n | |",
        f"|---|---|---|---|{'---|' * len(names)}---|---|",
    ]
    for key in keys:
        figure, (name, _, condition) = figures[key], key.partition(".")
        beside = " | ".join(_number(figure.beside[other]) if other in figure.beside else "" for other in names)
        value = _number(figure.value)
        if not math.isnan(figure.deviation):
            value += f" ± {_number(figure.deviation)}"
        given = condition or ("everything" if METRICS[name].group != "Pictures as a whole" else "any")
        lines.append(
            f"| `{name}` | {given} | {value} | {figure.direction} | {beside} | {figure.count} | {figure.note} |"
        )
    meanings = {key.split(".")[0]: metric_of(key) for key in keys}
    return [
        *lines,
        "",
        *(f"- `{name}`: {metric.meaning}; read by {metric.read_by}" for name, metric in meanings.items()),
    ]


def _judges(card: Mapping[str, Any]) -> list[str]:
    measured = card.get("measured", {})
    who = f"People are judged by {card['people_judged_by']}."
    if not measured:
        return [who, "", "Nothing is recorded of how right the judges are."]
    lines = [who, "", "How right the judges are about real pictures that they were not trained on:", ""]
    lines += [f"| | {' | '.join(measured)} |", f"|---|{'---|' * len(measured)}"]
    metrics = next(iter(measured.values()))
    return lines + [f"| `{name}` | {' | '.join(_number(of[name]) for of in measured.values())} |" for name in metrics]


def _entry(key: str, figure: Figure) -> dict[str, Any]:
    metric = metric_of(key)
    return {
        "value": _finite(figure.value),
        "deviation": _finite(figure.deviation),
        "values": [_finite(value) for value in figure.values],
        "direction": figure.direction,
        "given": key.partition(".")[2] or ALL,
        "count": figure.count,
        "beside": {name: _finite(value) for name, value in figure.beside.items()},
        "note": figure.note,
        "meaning": metric.meaning,
        "read_by": metric.read_by,
    }


def _finite(value: float) -> float | None:
    """Rounded to nine digits: more are noise of the arithmetic."""
    return float(f"{value:.9g}") if math.isfinite(value) else None


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
