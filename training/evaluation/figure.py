"""Every metric's name, direction and meaning, in one table; and the figure that is reported for one.

`id_sim` and `fid` keep two names: the paper calls both "FID".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Metric:
    """`direction` is "higher" or "lower", whichever is better; `read_by` says whose network measures it; `group` heads its table."""

    group: str
    direction: str
    meaning: str
    read_by: str = "judge"

    def __post_init__(self) -> None:
        if self.direction not in ("higher", "lower"):
            raise ValueError(f"direction {self.direction!r}, allowed higher, lower")


WHOLE, LIKENESS, PERSON, AGE = "Pictures as a whole", "Likeness to the target", "Person", "Age"
EMOTION, WORDS, INPUTS = "Emotion", "Words", "Inputs among themselves"
PIXELS, OWN = "pixels", "the checkpoint's own CLIP"

METRICS: Mapping[str, Metric] = {
    "fid": Metric(WHOLE, "lower", "Fréchet distance of the judge's features to real pictures"),
    "kid": Metric(WHOLE, "lower", "kernel distance of the same features, unbiased in the number of pictures"),
    "spectrum_error": Metric(WHOLE, "lower", "mean |log10| of the radial power spectrum, made over real", PIXELS),
    "fine_detail": Metric(
        WHOLE, "higher", "power in the upper half of the frequencies, made over real; 1 is right", PIXELS
    ),
    "told_apart": Metric(
        WHOLE, "lower", "share that a classifier trained for it tells from real pictures; 0.5 is a guess"
    ),
    "spread": Metric(WHOLE, "higher", "variety of faces from one prompt, over that of renders of the same prompt"),
    "ssim": Metric(LIKENESS, "higher", "structural similarity to the target picture", PIXELS),
    "lpips": Metric(
        LIKENESS, "lower", "learned perceptual distance to the target picture", "published VGG-16 and heads"
    ),
    "id_sim": Metric(PERSON, "higher", "cosine of identity, made to reference"),
    "id_auc": Metric(PERSON, "higher", "area under the ROC of the reference against matched impostors"),
    "id_tar": Metric(PERSON, "higher", "share of references accepted where 1 % of matched impostors are"),
    "id_rank1": Metric(PERSON, "higher", "share whose nearest among all references is their own"),
    "id_rank1_matched": Metric(PERSON, "higher", "share whose reference comes first of 100 people, the others alike"),
    "id_rank1_unmatched": Metric(PERSON, "higher", "share whose reference comes first of 100 people, the others any"),
    "trait_r2": Metric(PERSON, "higher", "R² of what makes a face (the world's twenty traits), mean over traits"),
    "s_dir": Metric(WORDS, "higher", "cosine of change in picture and change in words, from the reference", OWN),
    "clip_score": Metric(WORDS, "higher", "100 max(cosine of picture and words, 0)", OWN),
    "looks": Metric(
        WORDS,
        "higher",
        "share of the words for sex, hair, beard, glasses, skin, eyes and background found in the picture",
    ),
    "text_image_cosine": Metric(WORDS, "higher", "cosine of picture and words", OWN),
    "age_mae": Metric(AGE, "lower", "mean error of age, years"),
    "age_rmse": Metric(AGE, "lower", "root mean squared error of age, years"),
    "age_slope": Metric(AGE, "higher", "slope of judged over asked age; 1 follows fully, 0 not at all"),
    "age_within_5": Metric(AGE, "higher", "share within 5 years"),
    "emotion_accuracy": Metric(EMOTION, "higher", "share read as the label that was told"),
    "emotion_clear": Metric(EMOTION, "higher", "the same where the expression asked for has an intensity of 0.6 to 1"),
    "valence_pearson": Metric(EMOTION, "higher", "correlation of valence"),
    "valence_ccc": Metric(EMOTION, "higher", "concordance of valence"),
    "arousal_pearson": Metric(EMOTION, "higher", "correlation of arousal"),
    "arousal_ccc": Metric(EMOTION, "higher", "concordance of arousal"),
    "avd": Metric(EMOTION, "lower", "mean distance in the valence-arousal plane, eq. 33"),
    "emotion_emd": Metric(EMOTION, "lower", "earth mover's distance of judged to asked valence and arousal"),
    "cmc": Metric(INPUTS, "higher", "mean cosine between the tokens of what was given", "the checkpoint's own fusion"),
}


@dataclass(frozen=True)
class Figure:
    """One metric of one condition: a value per seed, and beside it what it would be for real pictures or by chance.

    `count` is the number of pictures of one seed. `beside` maps a name of `NEIGHBOURS` to its value.
    """

    values: tuple[float, ...]
    direction: str
    count: int
    beside: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError("a figure needs the value of at least one seed")
        unknown = set(self.beside) - set(NEIGHBOURS)
        if unknown:
            raise ValueError(f"neighbours {sorted(unknown)}, allowed {', '.join(NEIGHBOURS)}")

    @property
    def value(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.values))

    @property
    def deviation(self) -> float:
        """Sample standard deviation over seeds; NaN for a single one."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else math.nan


# What a figure is held against, in the order of the report.
NEIGHBOURS: Mapping[str, str] = {
    "real": "real pictures in place of made ones",
    "autoencoded": "real pictures through the checkpoint's autoencoder: no picture it makes can be better",
    "blurred": "real pictures, blurred",
    "chance": "who does not look at what was asked",
    "ages": "real pictures of people of 20 to 30 against people of 60 to 70: a difference that anybody sees",
    "probe": "a probe that was trained to hear the emotion, on the voices that were given: nobody can obey what cannot be heard",
}


def metric_of(key: str) -> Metric:
    """The metric of a figure's key: `age_mae` of everything together, `age_mae.text` of words alone."""
    return METRICS[key.split(".")[0]]
