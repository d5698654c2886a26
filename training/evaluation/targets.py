"""What the demo model is meant to reach, and whether it does: one row per target, beside real renders and a guess.

A target reads figures and nothing else. Some are relative: what is reached over what real renders, or a probe, reach in the same judges' eyes.
A row without a bar is reported as it is. Speed is measured by `benchmarks`, not here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from training.evaluation.figure import Figure

MARKDOWN_FILE = "targets.md"
Figures = Mapping[str, Figure]


@dataclass(frozen=True)
class Level:
    """Where the model stands on one target's scale, where real renders do, and where a guess (or the worst neighbour) does; NaN where
    there is no such thing. `told` are the figures behind it, for people."""

    reached: float
    real: float
    floor: float
    told: str = ""


@dataclass(frozen=True)
class Target:
    """`bar` in the unit of the scale: at most for "lower", at least for "higher"; None reports without judging. `level` may raise KeyError
    for a figure or neighbour that was not measured."""

    name: str
    direction: str
    bar: float | None
    level: Callable[[Figures], Level]

    def __post_init__(self) -> None:
        if self.direction not in ("higher", "lower"):
            raise ValueError(f"direction {self.direction!r}, allowed higher, lower")

    def met(self, level: Level) -> bool | None:
        """Whether the level reaches the bar; None where there is none."""
        if self.bar is None:
            return None
        return level.reached <= self.bar if self.direction == "lower" else level.reached >= self.bar


def plain(key: str) -> Callable[[Figures], Level]:
    """The figure itself, beside real renders and chance."""

    def level(figures: Figures) -> Level:
        figure = figures[key]
        return Level(figure.value, figure.beside.get("real", math.nan), figure.beside.get("chance", math.nan), key)

    return level


def above_real(key: str) -> Callable[[Figures], Level]:
    """How far the figure lies above that of real renders."""

    def level(figures: Figures) -> Level:
        figure, real = figures[key], figures[key].beside["real"]
        told = f"{_number(figure.value)}, real renders {_number(real)}"
        return Level(figure.value - real, 0.0, figure.beside["chance"] - real, told)

    return level


def share_of(key: str, whole: str) -> Callable[[Figures], Level]:
    """The figure over what its neighbour `whole` has."""

    def level(figures: Figures) -> Level:
        figure, full = figures[key], figures[key].beside[whole]
        told = f"{_number(figure.value)} of {_number(full)}, n = {figure.count}"
        if not full:
            return Level(math.nan, math.nan, math.nan, told)
        return Level(figure.value / full, figure.beside["real"] / full, figure.beside["chance"] / full, told)

    return level


def distance_added(figures: Figures) -> Level:
    """(KID - KID of autoencoded renders) over KID of renders of 20-30 against 60-70 years; the floor is the blur's."""
    kid = figures["kid"]
    beside = {name: kid.beside[name] for name in ("ages", "autoencoded", "real", "blurred")}
    reached, real, blurred = (
        (value - beside["autoencoded"]) / beside["ages"] for value in (kid.value, beside["real"], beside["blurred"])
    )
    told = f"made {_number(kid.value)}; " + ", ".join(f"{name} {_number(value)}" for name, value in beside.items())
    return Level(reached, real, blurred, told)


def beside_blur(key: str) -> Callable[[Figures], Level]:
    """The figure, beside real renders and blurred ones; autoencoded ones are told."""

    def level(figures: Figures) -> Level:
        figure = figures[key]
        told = f"autoencoded {_number(figure.beside['autoencoded'])}" if "autoencoded" in figure.beside else ""
        return Level(figure.value, figure.beside["real"], figure.beside["blurred"], told)

    return level


TARGETS = (
    Target("age from a number: MAE above that on real renders, years", "lower", 1.5, above_real("age_mae.age")),
    Target("age from a number: slope", "higher", 0.95, plain("age_slope.age")),
    Target("emotion from a label, over real renders", "higher", 0.95, share_of("emotion_clear.emotion", "real")),
    Target("emotion from words alone, over real renders", "higher", 0.90, share_of("emotion_clear.text", "real")),
    Target("words for looks, found in the picture", "higher", None, plain("looks.text")),
    Target(
        "emotion from a voice alone, over what a probe hears", "higher", 0.85, share_of("emotion_clear.audio", "probe")
    ),
    Target("valence, concordance", "higher", 0.85, plain("valence_ccc.emotion")),
    Target("arousal, concordance", "higher", 0.85, plain("arousal_ccc.emotion")),
    Target("person at another age and mood: AUC, matched impostors", "higher", 0.97, plain("id_auc.changed")),
    Target("… accepted where 1 % of matched impostors are", "higher", 0.70, plain("id_tar.changed")),
    Target("… first of 100 matched people", "higher", 0.55, plain("id_rank1_matched.changed")),
    Target("… first of 100 people", "higher", 0.80, plain("id_rank1_unmatched.changed")),
    Target("… traits of the face, R²", "higher", 0.5, plain("trait_r2.changed")),
    Target("KID added to the autoencoder's, over 20-30 against 60-70 years", "lower", 0.05, distance_added),
    Target("fine detail, over real (1 is right; floor: blurred)", "higher", None, beside_blur("fine_detail")),
    Target("told from real by a classifier (0.5 is a guess; floor: blurred)", "lower", None, beside_blur("told_apart")),
    Target("variety of one prompt at the guidance used, over renders", "higher", 0.8, plain("spread")),
)


def table(figures: Figures, skipped: Mapping[str, str]) -> list[str]:
    """Markdown lines: what is wanted, reached, real renders, a guess, and whether it is met; then age by decade."""
    lines = ["| target | wanted | reached | real renders | chance or floor | met? | |", "|---|---|---|---|---|---|---|"]
    for target in TARGETS:
        sign = "at most" if target.direction == "lower" else "at least"
        wanted = "as it is" if target.bar is None else f"{sign} {target.bar:g}"
        level = _level(target, figures)
        if level is None:
            lines.append(f"| {target.name} | {wanted} | not measured | | | | |")
            continue
        met = {True: "**yes**", False: "no", None: ""}[target.met(level)]
        numbers = " | ".join(_number(value) for value in (level.reached, level.real, level.floor))
        lines.append(f"| {target.name} | {wanted} | {numbers} | {met} | {level.told} |")
    topics = {key.partition(" ")[2]: figure for key, figure in figures.items() if key.startswith("looks.text ")}
    if topics:
        lines += ["", f"| words for | {' | '.join(topics)} |", f"|---|{'---|' * len(topics)}"]
        lines.append(f"| found (prompts) | {' | '.join(f'{_number(f.value)} ({f.count})' for f in topics.values())} |")
        lines += [
            f"| {of} | {' | '.join(_number(f.beside[name]) for f in topics.values())} |"
            for name, of in (("real", "in real renders"), ("chance", "in another prompt's picture"))
        ]
    decades = {key.partition(" ")[2]: figure for key, figure in figures.items() if key.startswith("age_mae.age ")}
    if decades:
        lines += ["", f"| age MAE, years | {' | '.join(decades)} |", f"|---|{'---|' * len(decades)}"]
        lines.append(f"| reached (n) | {' | '.join(f'{_number(f.value)} ({f.count})' for f in decades.values())} |")
        lines.append(f"| real renders | {' | '.join(_number(f.beside['real']) for f in decades.values())} |")
    missing = {key: why for key, why in skipped.items() if key.partition(".")[2] in ("changed", "") or "clear" in key}
    return [*lines, "", *(f"- not measured, `{key}`: {why}" for key, why in missing.items() if key != "lpips")]


def document(figures: Figures) -> dict[str, Any]:
    """The same for programs, by target; what was not measured is null."""
    levels = {target: _level(target, figures) for target in TARGETS}
    return {
        target.name: None
        if level is None
        else {
            "direction": target.direction,
            "bar": target.bar,
            **{name: _finite(getattr(level, name)) for name in ("reached", "real", "floor")},
            "met": target.met(level),
        }
        for target, level in levels.items()
    }


def _level(target: Target, figures: Figures) -> Level | None:
    try:
        level = target.level(figures)
    except KeyError:
        return None
    return None if math.isnan(level.reached) else level


def _finite(value: float) -> float | None:
    return float(f"{value:.9g}") if math.isfinite(value) else None


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
