"""An evaluation to look at: age, emotion, identity, spectrum, how far between chance and real, and pictures. Drawn without a display."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from PIL import Image, ImageDraw

from runtime.emotions import EMOTIONS
from training.evaluation import emotion, identity, spectrum
from training.evaluation.making import ALL
from training.evaluation.measure import Evaluation

DPI = 110
SHOWN = 8  # pictures in a row of the sheet
LABEL_WIDTH = 90


def draw(evaluation: Evaluation, folder: Path) -> dict[str, str]:
    """Draw what there is evidence for into `folder`; file name → caption, in the order of the report."""
    drawings: tuple[tuple[str, str, Callable[[Evaluation], Canvas | Image.Image | None]], ...] = (
        ("pictures.png", "Targets, references and what was made of each condition, first seed", _sheet),
        ("metrics.png", "Share of the way from chance (or a blur) to real pictures", _bars),
        ("age.png", "Asked and judged age, first seed", _age),
        ("emotion.png", "Asked and judged emotion, first seed", _emotion),
        ("identity.png", "The reference against people who look like it, first seed", _identity),
        ("spectrum.png", "Power at each frequency, over real pictures of other people, first seed", _spectrum),
    )
    drawn = {}
    folder.mkdir(parents=True, exist_ok=True)
    for file, caption, function in drawings:
        picture = function(evaluation)
        if isinstance(picture, Canvas):
            FigureCanvasAgg(picture)
            picture.savefig(folder / file, dpi=DPI, metadata={"Software": None})
        elif picture is not None:
            picture.save(folder / file)
        if picture is not None:
            drawn[file] = caption
    return drawn


def _age(evaluation: Evaluation) -> Canvas | None:
    shown = [name for name in (ALL, "age", "text") if name in evaluation.evidence.made]
    canvas = Canvas(figsize=(3.4 * max(1, len(shown)), 3.4), layout="constrained")
    some = False
    for place, name in enumerate(shown):
        asked, reading = evaluation.evidence.made[name].asked, evaluation.evidence.readings[name]
        truth = evaluation.scene.cache.age[asked.rows]
        rows = asked.tells_age() & np.isfinite(truth)
        some = some or bool(rows.any())
        axes = canvas.add_subplot(1, len(shown), place + 1)
        axes.plot([0, 100], [0, 100], color="grey", linewidth=0.8)
        axes.scatter(truth[rows], reading.age[rows], s=9)
        axes.set(title=_given(name), xlabel="asked, years", ylabel="judged, years", xlim=(0, 95), ylim=(0, 95))
    return canvas if some else None


def _emotion(evaluation: Evaluation) -> Canvas | None:
    name = next((name for name in ("emotion", ALL) if name in evaluation.evidence.made), None)
    if name is None:
        return None
    asked, reading = evaluation.evidence.made[name].asked, evaluation.evidence.readings[name]
    truth = evaluation.scene.cache.emotion[asked.rows]
    rows = asked.tells_emotion() & (truth >= 0)
    if not rows.any():
        return None
    counts = emotion.confusion(truth[rows], reading.emotion[rows])
    canvas = Canvas(figsize=(5.2, 4.6), layout="constrained")
    axes = canvas.add_subplot()
    axes.imshow(counts, cmap="Blues")
    axes.set(title=_given(name), xlabel="judged", ylabel="asked")
    axes.set_xticks(range(len(EMOTIONS)), EMOTIONS, rotation=45, ha="right")
    axes.set_yticks(range(len(EMOTIONS)), EMOTIONS)
    for (row, column), count in np.ndenumerate(counts):
        axes.text(
            column,
            row,
            str(count),
            ha="center",
            va="center",
            fontsize=8,
            color="black" if count < counts.max() / 2 else "white",
        )
    return canvas


def _identity(evaluation: Evaluation) -> Canvas | None:
    trials = evaluation.evidence.trials
    if not trials:
        return None
    canvas = Canvas(figsize=(4.2, 4.0), layout="constrained")
    axes = canvas.add_subplot()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8, label="chance")
    for name, trial in trials.items():
        axes.plot(*identity.roc(trial.genuine, trial.impostor), label=_given(name))
    real = next((trial for trial in trials.values() if len(trial.real_genuine)), None)
    if real is not None:
        axes.plot(
            *identity.roc(real.real_genuine, real.real_impostor), color="black", linestyle="--", label="real pictures"
        )
    axes.set(xlabel="matched impostors accepted", ylabel="references accepted")
    axes.legend(fontsize=8)
    return canvas


def _spectrum(evaluation: Evaluation) -> Canvas:
    spectra = evaluation.evidence.spectra
    canvas = Canvas(figsize=(4.8, 3.4), layout="constrained")
    axes = canvas.add_subplot()
    axes.axhline(1, color="grey", linewidth=0.8)
    for name, power in spectra.items():
        if name != "reference":
            axes.plot(np.arange(1, len(power) + 1), spectrum.power_ratio(power, spectra["reference"]), label=name)
    axes.set(xlabel="cycles per picture", ylabel="power over real", yscale="log")
    axes.legend(fontsize=8)
    return canvas


def _bars(evaluation: Evaluation) -> Canvas | None:
    """Figures with a poor neighbour (chance, or a blur) and a real one that is better: else there is no way to speak of."""
    shares = {}
    for key, figure in evaluation.figures.items():
        poor = figure.beside.get("chance", figure.beside.get("blurred"))
        real = figure.beside.get("real")
        if poor is None or real is None:
            continue
        way = real - poor if figure.direction == "higher" else poor - real
        if way > 0:
            shares[key] = (figure.value - poor) / (real - poor)
    if not shares:
        return None
    canvas = Canvas(figsize=(6.4, 0.6 + 0.22 * len(shares)), layout="constrained")
    axes = canvas.add_subplot()
    values = np.clip(list(shares.values()), -1, 1.5)
    axes.barh(range(len(shares)), values)
    axes.set_yticks(range(len(shares)), list(shares), fontsize=7)
    axes.invert_yaxis()
    for edge in (0, 1):
        axes.axvline(edge, color="black", linewidth=0.8)
    axes.set(xlabel="0 chance or blurred, 1 real; cut at -1 and 1.5")
    return canvas


def _sheet(evaluation: Evaluation) -> Image.Image:
    """Three rows per condition with a reference (target, reference, made), else two (target, made)."""
    cache = evaluation.scene.cache
    rows: list[tuple[str, np.ndarray | None]] = []
    for name, made in evaluation.evidence.made.items():
        asked = made.asked
        rows.append((f"{_given(name)}:", None))
        rows.append(("target", cache.images[asked.rows[:SHOWN]]))
        if asked.told["identity"].any():
            rows.append(("reference", cache.images[asked.reference[:SHOWN]]))
        rows.append(("made", made.pictures[:SHOWN]))
    size = cache.images.shape[1]
    heights = [16 if pictures is None else size for _, pictures in rows]
    sheet = Image.new("RGB", (LABEL_WIDTH + SHOWN * size, sum(heights)), "white")
    pen, top = ImageDraw.Draw(sheet), 0
    for (label, pictures), height in zip(rows, heights, strict=True):
        pen.text((4, top + 2), label, "black")
        if pictures is not None:
            for place, picture in enumerate(pictures):
                sheet.paste(Image.fromarray(np.asarray(picture)), (LABEL_WIDTH + place * size, top))
        top += height
    return sheet


def _given(condition: str) -> str:
    return "everything" if condition == ALL else f"{condition} alone"
