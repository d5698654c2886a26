"""The experiment: everybody's trials answered, read by the judges, and written down person by person.

Records lie in `records.jsonl`, one line per person, so that at most the person in work is lost when it ends early and the same call goes on; `settings.json` says what
they are of. Knows no tables and no command line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.editing.figures import AUTOENCODED, TRUTH, UNEDITED, Record
from benchmarks.editing.score import score, similarities
from benchmarks.editing.sheets import SHOWN, file_name
from benchmarks.editing.subject import Subject, impostors
from benchmarks.editing.trials import EDIT, ROUND_TRIP, SWEEPS, VOICE, Settings, Trial, strip, sweeps, trials
from runtime.bundle import Bundle
from runtime.emotions import EMOTIONS
from runtime.errors import ClipFaceFusionError
from runtime.pipeline import Pipeline
from runtime.preprocess.audio import decode_audio, normalise
from training.durable import write_json, write_text
from training.evaluation.panel import Panel
from training.model import ClipFaceFusion

RECORDS, SETTINGS, PICTURES = "records.jsonl", "settings.json", "pictures"

Edit = Callable[[Sequence[Trial]], list[np.ndarray]]
"""Answers trials with pictures (S, S, 3) uint8."""
Autoencode = Callable[[np.ndarray], np.ndarray]
"""Pictures (N, S, S, 3) uint8 as encoder and decoder leave them."""
Hear = Callable[[bytes], str]
"""The emotion label that the model's own recogniser (eq. 6) hears in a voice file."""


@dataclass(frozen=True)
class Instruments:
    """Who answers and who reads. `autoencode` is None for a model of pixels, `hear` where nobody listens."""

    edit: Edit
    judges: Panel
    autoencode: Autoencode | None = None
    hear: Hear | None = None


def collect(
    people: Sequence[Subject],
    swept: int,
    settings: Settings,
    instruments: Instruments,
    folder: Path,
    facts: Mapping[str, Any],
) -> list[Record]:
    """The record of each of `people`, from the folder where it is there already; the first `swept` have sweeps.

    Keeps the pictures of the first few. Raises ClipFaceFusionError if the folder's records are of other facts.
    """
    done = _read(folder, facts)
    for place, subject in enumerate(people):
        if subject.number in done:
            continue
        asked = [*trials(subject, settings), *(sweeps(subject, settings) if place < swept else ())]
        shown = list(strip(subject, settings)) if place < SHOWN else []
        pictures = instruments.edit([*asked, *shown])
        if place < SHOWN:
            _keep(folder / PICTURES, subject, zip([*asked, *shown], pictures, strict=True))
        done[subject.number] = measure(instruments, subject, asked, pictures[: len(asked)])
        with (folder / RECORDS).open("a") as file:
            file.write(json.dumps(done[subject.number]) + "\n")
        print(f"{place + 1} of {len(people)} people", file=sys.stderr, flush=True)
    return [done[subject.number] for subject in people]


def measure(
    instruments: Instruments, subject: Subject, asked: Sequence[Trial], pictures: Sequence[np.ndarray]
) -> Record:
    """One person's record: the scores of every answer, and of floor and ceilings once per wish."""
    judges = instruments.judges
    scores = score(judges, subject, asked, {"": pictures})
    wishes = [trial for trial in asked if trial.who == EDIT and trial.series not in SWEEPS]
    truths = [subject.photo if trial.series == ROUND_TRIP else subject.truth(trial.shot) for trial in wishes]
    beside: dict[str, Sequence[np.ndarray]] = {UNEDITED: [subject.photo] * len(wishes), TRUTH: truths}
    if instruments.autoencode is not None:
        beside[AUTOENCODED] = list(instruments.autoencode(np.stack(truths)))
    scores += score(judges, subject, wishes, beside)
    spoken = {trial.row: trial.request.audio for trial in asked if trial.series == VOICE}
    hear = instruments.hear
    return {
        "person": subject.number,
        "impostors": {kind: similarities(judges, subject.photo, shown) for kind, shown in impostors(subject).items()},
        "heard": {label: hear(voice) == label for label, voice in spoken.items() if voice and hear},
        "scores": [asdict(each) for each in scores],
    }


def editor(pipeline: Pipeline) -> Edit:
    """The bundle's answers."""

    def edit(asked: Sequence[Trial]) -> list[np.ndarray]:
        requests = list(dict.fromkeys(trial.request for trial in asked))  # a sweep passes through the defaults
        results = [*pipeline.batch(requests[:1]), *pipeline.batch(requests[1:])]  # the first inverts for all
        pictures = {request: result.image for request, result in zip(requests, results, strict=True)}
        return [pictures[trial.request] for trial in asked]

    return edit


def autoencoder(bundle: Bundle) -> Callable[[np.ndarray], np.ndarray] | None:
    """Pictures (N, S, S, 3) uint8 through encoder and decoder; None for a bundle that denoises pixels."""
    if not bundle.model.is_latent:
        return None

    def through(pictures: np.ndarray) -> np.ndarray:
        shown = []
        for picture in pictures:
            image = picture.transpose(2, 0, 1)[None].astype(np.float32) / 127.5 - 1
            decoded = bundle.engine("decoder")(bundle.engine("encoder")({"image": image}))["image"][0]
            shown.append(np.rint((np.clip(decoded, -1, 1) + 1) * 127.5).astype(np.uint8).transpose(1, 2, 0))
        return np.stack(shown)

    return through


def listener(model: ClipFaceFusion) -> Hear:
    """The recogniser of a checkpoint; the bundle has its features only."""
    model.eval()

    def hear(voice: bytes) -> str:
        samples = torch.from_numpy(normalise(decode_audio(voice)))[None]
        return EMOTIONS[int(model.audio_encoder.read(samples)["emotion"].argmax())]

    return hear


def _read(folder: Path, facts: Mapping[str, Any]) -> dict[int, Record]:
    """The records in `folder`, which is made if it is not there, by person. A last line that a kill cut is dropped: its person is asked again."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SETTINGS
    if path.is_file() and json.loads(path.read_text()) != json.loads(json.dumps(facts)):
        raise ClipFaceFusionError(
            f"{folder} holds records of another bundle, other judges or settings; choose another --out"
        )
    write_json(path, facts)
    if not (folder / RECORDS).is_file():
        return {}
    text = (folder / RECORDS).read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:  # what is appended next must begin a line
        write_text(folder / RECORDS, whole)
    return {record["person"]: record for record in map(json.loads, whole.splitlines())}


def _keep(folder: Path, subject: Subject, answers: Iterable[tuple[Trial, np.ndarray]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for trial, picture in answers:
        Image.fromarray(picture).save(folder / file_name(subject, trial))
