"""One seed's figures: each group of metrics applied to what was made, beside real pictures, worse pictures and chance.

A rating's key is the metric's name, followed by `.condition` where one modality alone was given. What cannot be measured is a
`Skip` with its reason, never a missing key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from runtime.spec import TOKENS
from training.evaluation import (
    age,
    consistency,
    distribution,
    emotion,
    identity,
    likeness,
    lpips,
    spectrum,
    told_apart,
    words,
)
from training.evaluation.impostors import Matches, match_impostors
from training.evaluation.making import ALL, FEWEST, Made
from training.evaluation.panel import Reading
from training.evaluation.scene import Scene


@dataclass(frozen=True)
class Rating:
    """A metric's value over `count` pictures, and its neighbours."""

    value: float
    count: int
    beside: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class Skip:
    """Why a metric was not measured."""

    reason: str


CLEAR = 0.6  # intensity from which an expression is
Ratings = dict[str, Rating | Skip]


def key_of(metric: str, condition: str) -> str:
    """`age_mae` for everything together, `age_mae.text` for words alone."""
    return metric if condition == ALL else f"{metric}.{condition}"


def rate_distribution(scene: Scene, pictures: np.ndarray, look: np.ndarray) -> tuple[Ratings, dict[str, np.ndarray]]:
    """`fid`, `kid`, the spectrum's figures and `told_apart` of all made pictures, of which `look` was read, against real ones of other
    people; and the spectra, for drawing.

    Real, autoencoded and blurred neighbours are as many as the made ones: the Fréchet distance falls with their number.
    """
    targets = scene.cache.images[scene.targets[: len(pictures)]]
    others = {"real": targets, **scene.worse(targets)}
    real = scene.readings.of(scene.real).look
    looks = {name: scene.judges.read(these).look for name, these in others.items()}
    ages = _ages_apart(scene)
    few = f"{len(pictures)} pictures barely fill {look.shape[1]} dimensions; compare with real only"
    ratings: Ratings = {}
    for name, distance in (("fid", distribution.fid), ("kid", distribution.kid)):
        beside = {other: distance(theirs, real) for other, theirs in looks.items()}
        if ages is not None:
            beside["ages"] = distance(*ages)
        note = few if len(pictures) < 5 * look.shape[1] else ""
        ratings[name] = Rating(distance(look, real), len(pictures), beside, note)
    expected = spectrum.radial_power(scene.cache.images[scene.real])
    spectra = {"made": spectrum.radial_power(pictures)}
    spectra |= {name: spectrum.radial_power(these) for name, these in others.items()}
    ratings["spectrum_error"] = Rating(
        spectrum.spectrum_error(spectra["made"], expected),
        len(pictures),
        {name: spectrum.spectrum_error(spectra[name], expected) for name in others},
        f"upper half of the frequencies: {spectrum.fine_detail(spectra['made'], expected):.2f} of the real power",
    )
    ratings["fine_detail"] = Rating(
        spectrum.fine_detail(spectra["made"], expected),
        len(pictures),
        {name: spectrum.fine_detail(spectra[name], expected) for name in others},
    )
    ratings["told_apart"] = _rate_told_apart(scene, pictures, look, real, {n: (others[n], looks[n]) for n in others})
    return ratings, {"reference": expected, **spectra}


def _ages_apart(scene: Scene) -> tuple[np.ndarray, np.ndarray] | None:
    """What the look judge sees in real people of 20 to 30, and of 60 to 70; None where there are few of either."""
    rows = np.union1d(scene.real, scene.targets)
    young, old = (rows[(scene.cache.age[rows] >= low) & (scene.cache.age[rows] < low + 10)] for low in (20, 60))
    if min(len(young), len(old)) < FEWEST:
        return None
    return scene.readings.of(young).look, scene.readings.of(old).look


def _rate_told_apart(
    scene: Scene,
    pictures: np.ndarray,
    look: np.ndarray,
    real: np.ndarray,
    others: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> Rating | Skip:
    fewest = 2 * told_apart.FOLDS
    if min(len(pictures), len(real)) < fewest:
        return Skip(f"{len(pictures)} pictures; {told_apart.FOLDS} folds need {fewest}")
    genuine = told_apart.clues(scene.cache.images[scene.real], real)
    beside = {name: told_apart.accuracy(told_apart.clues(*seen), genuine) for name, seen in others.items()}
    found = told_apart.accuracy(told_apart.clues(pictures, look), genuine)
    return Rating(found, len(pictures), {**beside, "chance": 0.5})


def rate_likeness(scene: Scene, made: Made) -> Ratings:
    """`ssim` and `lpips` to the target. "real" is the reference: another picture of the person, other light, hair and background."""
    target = scene.cache.images[made.asked.rows]
    others = scene.worse(target)
    if made.asked.has_other.all():
        others = {"real": scene.cache.images[made.asked.reference], **others}
    size = target.shape[1]
    count, ratings = len(target), Ratings()
    if size < 16:
        ratings["ssim"] = Skip(f"pictures are {size} pixels wide, its window needs 16")
    else:
        beside = {name: likeness.ssim(these, target) for name, these in others.items()}
        ratings["ssim"] = Rating(likeness.ssim(made.pictures, target), count, beside)
    if scene.lpips is None:
        ratings["lpips"] = Skip("no weights given; --lpips VGG.safetensors HEADS.safetensors")
    else:
        beside = {name: lpips.lpips(scene.lpips, these, target) for name, these in others.items()}
        ratings["lpips"] = Rating(lpips.lpips(scene.lpips, made.pictures, target), count, beside)
    return ratings


@dataclass(frozen=True)
class Trial:
    """Identity scores of one condition: (N,) genuine and (N, K) impostor cosines of made pictures, and of real ones where the
    target is another picture than the reference."""

    genuine: np.ndarray
    impostor: np.ndarray
    real_genuine: np.ndarray
    real_impostor: np.ndarray
    matches: Matches


def try_identity(scene: Scene, made: Made, reading: Reading) -> Trial:
    """Scores against the reference, and against people who look like it."""
    asked = made.asked
    pool = np.union1d(scene.real, scene.targets)
    matches = match_impostors(scene.cache, asked.reference, pool)
    own = scene.readings.of(asked.reference).identity
    others = scene.readings.of(matches.rows.ravel()).identity.reshape(*matches.rows.shape, -1)
    target = scene.readings.of(asked.rows).identity[asked.has_other]
    return Trial(
        identity.cosines(reading.identity, own),
        identity.cosines(reading.identity[:, None], others),
        identity.cosines(target, own[asked.has_other]),
        identity.cosines(target[:, None], others[asked.has_other]),
        matches,
    )


def rate_identity(scene: Scene, made: Made, reading: Reading, trial: Trial) -> Ratings:
    """`id_sim` and how well it tells the reference from matched impostors."""
    condition, asked, count = made.asked.condition, made.asked, len(made.pictures)
    references = scene.readings.of(asked.reference).identity
    people = scene.cache.person[asked.reference]
    real = scene.readings.of(asked.rows).identity
    has_real = asked.has_other.all()
    measured = {
        "id_sim": (lambda g, i: float(g.mean()), float(trial.impostor.mean())),
        "id_auc": (identity.auc, 0.5),
        "id_tar": (identity.accept_rate, identity.FALSE_ACCEPT_RATE),
    }
    note = f"impostors matched on {', '.join(trial.matches.matched_on) or 'nothing: no label is known'}"
    ratings: Ratings = {}
    for name, (measure, chance) in measured.items():
        if name == "id_tar" and trial.impostor.size < identity.FEWEST_IMPOSTORS:
            ratings[key_of(name, condition)] = Skip(
                f"{trial.impostor.size} impostor scores; one in a hundred needs {identity.FEWEST_IMPOSTORS}"
            )
            continue
        beside = {"real": measure(trial.real_genuine, trial.real_impostor)} if has_real else {}
        ratings[key_of(name, condition)] = Rating(
            measure(trial.genuine, trial.impostor), count, {**beside, "chance": chance}, note
        )
    beside = {"real": identity.rank1(real, references, people)} if has_real else {}
    _, same = np.unique(people, return_counts=True)
    beside["chance"] = float((same**2).sum() / count**2)
    ratings[key_of("id_rank1", condition)] = Rating(identity.rank1(reading.identity, references, people), count, beside)
    return ratings


def rate_age(scene: Scene, made: Made, reading: Reading) -> Ratings:
    """Age where something given says it; "real" is the judge on the targets themselves: what it gets wrong is not the model's fault."""
    cache, asked = scene.cache, made.asked
    rows = np.flatnonzero(asked.tells_age() & np.isfinite(cache.age[asked.rows]))
    if len(rows) < FEWEST:
        return {
            key_of("age_mae", asked.condition): Skip(
                f"{len(rows)} of {len(asked.rows)} requests say an age that is known"
            )
        }
    truth = cache.age[asked.rows[rows]]
    real = age.age_figures(truth, scene.readings.of(asked.rows[rows]).age)
    chance = age.age_chance(truth)
    ratings: Ratings = {
        key_of(name, asked.condition): Rating(value, len(rows), {"real": real[name], "chance": chance[name]})
        for name, value in age.age_figures(truth, reading.age[rows]).items()
    }
    if asked.condition != "age":
        return ratings
    seen = scene.readings.of(asked.rows[rows]).age
    for decade, places in age.decades(truth).items():
        if len(places) >= FEWEST:
            off, of_real = (float(np.abs(read[places] - truth[places]).mean()) for read in (reading.age[rows], seen))
            ratings[f"age_mae.age {decade}"] = Rating(off, len(places), {"real": of_real})
    return ratings


def rate_emotion(scene: Scene, made: Made, reading: Reading) -> Ratings:
    """Label, and valence with arousal, each where something given says it."""
    cache, asked = scene.cache, made.asked
    ratings: Ratings = {}
    rows = np.flatnonzero(asked.tells_emotion() & (cache.emotion[asked.rows] >= 0))
    if len(rows) < FEWEST:
        reason = f"{len(rows)} of {len(asked.rows)} requests say a label that is known"
        ratings[key_of("emotion_accuracy", asked.condition)] = Skip(reason)
    else:
        truth = cache.emotion[asked.rows[rows]]
        real = scene.readings.of(asked.rows[rows]).emotion
        ratings[key_of("emotion_accuracy", asked.condition)] = Rating(
            emotion.accuracy(truth, reading.emotion[rows]),
            len(rows),
            {"real": emotion.accuracy(truth, real), "chance": emotion.label_chance(truth)},
        )
    ratings[key_of("emotion_clear", asked.condition)] = _rate_clear(scene, made, reading, rows)
    rows = np.flatnonzero(asked.tells_values() & np.isfinite(cache.valence_arousal[asked.rows]).all(1))
    if len(rows) < FEWEST:
        reason = f"{len(rows)} of {len(asked.rows)} requests say a valence and arousal that are known"
        return {**ratings, key_of("avd", asked.condition): Skip(reason)}
    values = cache.valence_arousal[asked.rows[rows]]
    real_figures = emotion.value_figures(values, scene.readings.of(asked.rows[rows]).valence_arousal)
    chance = emotion.value_chance(values)
    for name, value in emotion.value_figures(values, reading.valence_arousal[rows]).items():
        beside = {"real": real_figures[name], "chance": chance[name]}
        ratings[key_of(name, asked.condition)] = Rating(value, len(rows), beside)
    return ratings


def _rate_clear(scene: Scene, made: Made, reading: Reading, rows: np.ndarray) -> Rating | Skip:
    """The label among those of `rows`, places in `made`, whose expression is clear; and what a probe hears in clear voices."""
    cache, asked = scene.cache, made.asked
    rows = rows[cache.intensity[asked.rows[rows]] >= CLEAR]
    if len(rows) < FEWEST:
        return Skip(f"{len(rows)} requests say a label whose intensity is known and at least {CLEAR:g}")
    truth = cache.emotion[asked.rows[rows]]
    real = scene.readings.of(asked.rows[rows]).emotion
    beside = {"real": emotion.accuracy(truth, real), "chance": emotion.label_chance(truth)}
    clear = np.flatnonzero((cache.audio_intensity >= CLEAR) & (cache.audio_emotion >= 0))
    if asked.condition == "audio" and scene.heard is not None and len(clear):
        beside["probe"] = emotion.accuracy(cache.audio_emotion[clear], scene.heard[clear])
    return Rating(emotion.accuracy(truth, reading.emotion[rows]), len(rows), beside)


def rate_words(scene: Scene, made: Made) -> Ratings:
    """Picture against its prompt; "chance" is the next request's prompt."""
    asked, condition = made.asked, made.asked.condition
    rows = np.flatnonzero(asked.told["text"])
    if len(rows) < FEWEST:
        return {key_of("clip_score", condition): Skip(f"{len(rows)} of {len(asked.rows)} requests have words")}
    text = asked.inputs["text_features"].cpu().numpy()[rows]
    image = scene.clip_features(made.pictures[rows])
    real = scene.examples.features.image[torch.from_numpy(asked.rows[rows])].float().numpy()
    return {
        key_of(name, condition): Rating(
            measure(image, text),
            len(rows),
            {"real": measure(real, text), "chance": measure(image, np.roll(text, 1, axis=0))},
        )
        for name, measure in (("clip_score", words.clip_score), ("text_image_cosine", words.text_image_cosine))
    }


def rate_direction(scene: Scene, made: Made) -> Ratings:
    """`s_dir` from the reference and its own words to the target's; "real" is the target picture itself."""
    asked, examples = made.asked, scene.examples
    given = asked.told["text"] & asked.told["image"] & asked.has_other & examples.available["text"][asked.reference]
    rows = np.flatnonzero(given)
    if len(rows) < FEWEST:
        return {
            key_of("s_dir", asked.condition): Skip(
                f"{len(rows)} requests have words and a reference that has words too"
            )
        }
    words_only = {name: np.full(len(rows), name == "text") for name in examples.available}
    source = examples.describe(asked.reference[rows], np.random.default_rng(0), words_only)
    source_text = source.inputs["text_features"].cpu().numpy()
    text = asked.inputs["text_features"].cpu().numpy()[rows]
    reference, target = (
        examples.features.image[torch.from_numpy(places[rows])].float().numpy()
        for places in (asked.reference, asked.rows)
    )
    image = scene.clip_features(made.pictures[rows])
    measured = words.directional(image, reference, text, source_text)
    if len(measured) < FEWEST:
        return {key_of("s_dir", asked.condition): Skip(f"{len(measured)} requests ask in words for a change")}
    beside = {
        "real": words.directional(target, reference, text, source_text),
        "chance": words.directional(np.roll(image, 1, axis=0), np.roll(reference, 1, axis=0), text, source_text),
    }
    averages = {name: float(values.mean()) for name, values in beside.items()}
    return {key_of("s_dir", asked.condition): Rating(float(measured.mean()), len(measured), averages)}


@torch.no_grad()
def rate_consistency(scene: Scene, made: Made, note: str) -> Ratings:
    """`cmc` over the five tokens of eq. 14; "chance" mixes the requests. `note` says whether L_CM was on."""
    conditioner, inputs = scene.model.conditioner, made.asked.inputs.values()
    tokens, present = conditioner.tokens(*inputs)
    used = conditioner.fusion(tokens, present)[1].float().cpu().numpy()
    compared = [place for place, name in enumerate(TOKENS) if name != "identity"]
    used, given = used[:, compared], present[:, compared].float().cpu().numpy()
    value = consistency.cmc(used, given)
    if np.isnan(value):
        return {"cmc": Skip("no request has two modalities")}
    chance = consistency.cmc(*consistency.unmatched(used, given))
    return {"cmc": Rating(value, len(used), {"chance": chance}, note)}
