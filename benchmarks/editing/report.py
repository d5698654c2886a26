"""The page of an editing experiment: Markdown tables and a plot.

Each figure of the edit stands beside the same figure of the unedited photo (the floor), of the model when it draws from noise, of the truth through
the autoencoder, and of the truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from benchmarks.editing.figures import (
    ALL_MEASURES,
    AUTOENCODED,
    BLOCKS,
    WHO,
    Figure,
    Record,
    Values,
    goals,
    heard,
    measured,
    round_trip_loss_db,
    thresholds,
    values_of,
)
from benchmarks.editing.subject import OWN_PICTURES, SAME_PICTURE
from benchmarks.editing.trials import EDIT, EMOTION, ROUND_TRIP, ROUND_TRIPS, SWEEPS, VOICE
from runtime.emotions import EMOTIONS
from runtime.similarity import IDENTICAL_DB

DPI = 110
_ROWS = (
    "identity",
    "kept",
    "kept_own",
    "moved",
    "age_error",
    "age_error_to_truth",
    "emotion",
    "psnr_db",
    "ssim",
    "look",
    "background",
)
_DIGITS = {"age_error": 1, "age_error_to_truth": 1, "psnr_db": 1, "background": 1, "identity": 3, "ssim": 3}
_ARROWS = {"higher": "↑", "lower": "↓"}
_SWEPT = (
    ("identity", "age"), ("kept", "age"), ("moved", "age"), ("psnr_db", "age"), ("background", "age"),
    ("identity", "emotion"), ("kept", "emotion"), ("emotion", "emotion"), ("psnr_db", "emotion"),
)  # fmt: skip
_LINES = (
    ("age: identity", "identity", "age", "tab:blue"),
    ("age: identity kept", "kept", "age", "tab:cyan"),
    ("age: share of the years moved", "moved", "age", "tab:orange"),
    ("emotion: identity", "identity", "emotion", "tab:green"),
    ("emotion: identity kept", "kept", "emotion", "tab:olive"),
    ("emotion: recognised", "emotion", "emotion", "tab:red"),
)


def markdown(command: str, records: Sequence[Record]) -> str:
    """All tables, with what their rows mean."""
    values, limits = values_of(records), thresholds(records)
    lines = [
        f"`{command}`: {len(records)} held-out people, {sum(len(record['scores']) for record in records)} readings. "
        "In brackets the 95 % bootstrap interval over people.",
        "",
        *_goal_table(records),
        *_heard_line(records),
        "",
        *_round_trip_table(records, values),
    ]
    for title in BLOCKS:
        lines += ["", *_block_table(records, values, title)]
    lines += ["", *_emotion_table(records, values["emotion"])]
    for series in SWEEPS:
        lines += ["", *_sweep_table(records, values, series)]
    lines += [
        "",
        f"One in a hundred impostors has a cosine above {limits[SAME_PICTURE]:.3f} (in the photo's place) and above "
        f"{limits[OWN_PICTURES]:.3f} (in pictures of their own). ↑ higher is better, ↓ lower is better.",
        "",
        *(f"- {measure.title}: {measure.meaning}" for measure in ALL_MEASURES.values()),
    ]
    return "\n".join(lines) + "\n"


def plot(records: Sequence[Record], path: Path) -> None:
    """Identity, age and emotion over each numeric setting of `SWEEPS`, if the records have any."""
    values = values_of(records)
    shown = [series for series, rows in SWEEPS.items() if all(map(_is_number, rows))]
    shown = [series for series in shown if measured(records, values["identity"], series)]
    if not shown:
        return
    canvas = Canvas(figsize=(4.6 * len(shown) + 2.2, 3.6), layout="constrained")
    for place, series in enumerate(shown):
        axes = canvas.add_subplot(1, len(shown), place + 1)
        for label, measure, change, colour in _LINES:
            found = [measured(records, values[measure], series, row=row, change=change) for row in SWEEPS[series]]
            points = [(float(row), each) for row, each in zip(SWEEPS[series], found, strict=True) if each is not None]
            x = [at for at, _ in points]
            axes.plot(x, [each.mean for _, each in points], marker="o", markersize=3, label=label, color=colour)
            low, high = [each.low for _, each in points], [each.high for _, each in points]
            axes.fill_between(x, low, high, color=colour, alpha=0.12)
        axes.axhline(1, color="grey", linewidth=0.6)
        axes.set(xlabel=series, ylim=(-0.05, 1.4))
    canvas.legend(*canvas.axes[0].get_legend_handles_labels(), fontsize=8, loc="outside right center")
    FigureCanvasAgg(canvas)
    canvas.savefig(path, dpi=DPI, metadata={"Software": None})


def _goal_table(records: Sequence[Record]) -> list[str]:
    lines = _head("wish", "limit", "edit", AUTOENCODED, "")
    for goal in goals(records):
        sign, mark = "≥" if goal.direction == "higher" else "≤", "✓" if goal.reached else "✗"
        lines.append(_line(goal.wish, f"{sign} {goal.limit:g}", _cell(goal.figure), _cell(goal.ceiling), mark))
    return lines


def _heard_line(records: Sequence[Record]) -> list[str]:
    found = heard(records)
    return (
        [] if found is None else [_line("voices that the model's own recogniser hears right", "", _cell(found), "", "")]
    )


def _round_trip_table(records: Sequence[Record], values: Mapping[str, Values]) -> list[str]:
    lines = _head("nothing asked", "PSNR to the photo, dB", "below the autoencoder, dB", "SSIM", "identity")
    places = {"the autoencoder alone": (AUTOENCODED, "plain"), **{row: (EDIT, row) for row in ROUND_TRIPS}}
    for title, (who, row) in places.items():
        psnr, ssim, identity = (
            _cell(measured(records, values[name], ROUND_TRIP, who, row=row), digits)
            for name, digits in (("psnr_db", 2), ("ssim", 3), ("identity", 3))
        )
        lines.append(
            _line(title, psnr, _cell(round_trip_loss_db(records, row) if who == EDIT else None), ssim, identity)
        )
    return lines


def _block_table(records: Sequence[Record], values: Mapping[str, Values], title: str) -> list[str]:
    """Rows are measures, columns are who answered."""
    series, where = BLOCKS[title]
    found = {who: {name: measured(records, values[name], series, who, **where) for name in _ROWS} for who in WHO}
    columns = [who for who in WHO if any(found[who].values())]
    edits = found[EDIT]["identity"]
    lines = _head(f"{title}, {edits.pictures if edits else 0} edits", *columns)
    for name in _ROWS:
        cells = [_cell(found[who][name], _DIGITS.get(name, 2), plain=who != EDIT) for who in columns]
        if any(found[who][name] for who in columns):
            lines.append(_line(f"{ALL_MEASURES[name].title} {_ARROWS[ALL_MEASURES[name].direction]}", *cells))
    return lines


def _emotion_table(records: Sequence[Record], value: Values) -> list[str]:
    lines = _head("read as asked", *EMOTIONS)
    for series, name in ((EMOTION, "label"), (VOICE, "voice")):
        for who in WHO:
            found = [measured(records, value, series, who, row=label) for label in EMOTIONS]
            if any(found) and (series == EMOTION or who == EDIT):
                lines.append(_line(f"{name}: {who}", *(_cell(each, plain=True) for each in found)))
    if heard(records) is not None:
        understood = [_cell(heard(records, label), plain=True) for label in EMOTIONS]
        lines.append(_line("voice: heard right by the model's recogniser", *understood))
    return lines


def _sweep_table(records: Sequence[Record], values: Mapping[str, Values], series: str) -> list[str]:
    people = measured(records, values["identity"], series)
    if people is None:
        return []
    heads = [f"{change}: {ALL_MEASURES[name].title}" for name, change in _SWEPT]
    lines = _head(f"`{series}`, {people.people} people", *heads)
    for row in SWEEPS[series]:
        found = [measured(records, values[name], series, row=row, change=change) for name, change in _SWEPT]
        cells = [_cell(each, _DIGITS.get(name, 2), plain=True) for each, (name, _) in zip(found, _SWEPT, strict=True)]
        lines.append(_line(row, *cells))
    return lines


def _head(*titles: str) -> list[str]:
    return [_line(*titles), "|---" * len(titles) + "|"]


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(found: Figure | None, digits: int = 2, plain: bool = False) -> str:
    """A mean and its interval, or the mean alone where `plain`."""
    if found is None:
        return "–"
    if found.mean == IDENTICAL_DB:
        return "equal"
    mean = f"{found.mean:.{digits}f}"
    return mean if plain else f"{mean} ({found.low:.{digits}f} … {found.high:.{digits}f})"


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal()
