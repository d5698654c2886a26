"""The demonstration: serve a bundle, ask it over gRPC for faces from every kind of input, and put them on one labelled sheet.

What is shown is a list of `Story`; where the faces come from is one callable, a server's `Client` or a `Pipeline` alike. Needs the
bundle's own samples (`samples/samples.json`, written by `python -m training.samples`), and neither network nor torch.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from runtime.client import Client
from runtime.emotions import EMOTIONS
from runtime.errors import ClipFaceFusionError
from runtime.manifest import Manifest
from runtime.pipeline import Pipeline
from runtime.preprocess.audio import decode_audio
from runtime.preprocess.image import decode_image
from runtime.report import TIMINGS
from runtime.request import DEFAULT_STEPS, GenerateRequest, GenerateResult
from runtime.samples import NOUN, Samples
from runtime.serving.installation import unavailable_reason
from runtime.serving.server import Server
from runtime.sheet import Cell, Row, draw_sheet, draw_waveform, draw_words
from runtime.story import Story

Generate = Callable[[GenerateRequest], GenerateResult]

ROW_STEPS = 25  # half of the paper's: the rows show what conditions do, and the demonstration should end soon
CONCURRENCY = 8  # guided requests that fill one UNet batch
SEED = 11  # one of twelve that were looked at; the gallery's seeds were not chosen
OLD_AGE = 60.0
AGES = (5, 15, 30, 45, 60, 75, 85)
PROMPTS = (
    "an old man with a beard and glasses",
    "a sad girl with long red hair",
    "an angry young man with short black hair",
    "a surprised woman with curly blonde hair",
)
SERVED, IN_PROCESS = "served by Triton over gRPC", "in process, without a server"


@dataclass(frozen=True)
class Measured:
    """What the faces of a demonstration took; latencies are the caller's, so a server's include gRPC.

    alone_ms, step_ms       medians of one face when nothing else runs: all of it, and per denoising step
    together_s, together    seconds for that many faces when `CONCURRENCY` are asked for at a time
    """

    alone_ms: float
    step_ms: float
    together_s: float
    together: int

    def lines(self) -> list[str]:
        return [
            f"alone:    {self.alone_ms:.0f} ms per face of {DEFAULT_STEPS} steps (median), {self.step_ms:.1f} ms per step",
            f"together: {self.together} faces of {ROW_STEPS} steps, {CONCURRENCY} at a time, in {self.together_s:.1f} s: "
            f"{self.together_s / self.together * 1e3:.0f} ms per face",
        ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `demo`."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of a bundle that has samples")
    parser.add_argument(
        "--out", type=Path, default=Path("out/demo.png"), help="PNG to write, its folder too (default %(default)s)"
    )
    parser.add_argument("--in-process", action="store_true", help="make the faces in this process, without a server")


def run(arguments: argparse.Namespace) -> int:
    """Make the sheet, print what it took and where it lies; the exit status. Raises as `Server` and `Pipeline` do."""
    start = time.perf_counter()
    manifest = Manifest.read(arguments.bundle)
    samples = Samples.read(arguments.bundle, manifest)
    reason = None if arguments.in_process else unavailable_reason()
    if reason:
        print(f"no server here: {reason}\nmaking the same faces in process", file=sys.stderr)
    how = IN_PROCESS if arguments.in_process or reason else SERVED
    with _generator(arguments.bundle, how) as generate:
        print(f"bundle '{manifest.name}' {how}; ready after {time.perf_counter() - start:.1f} s", flush=True)
        data = str(manifest.training.get("data", "training data not recorded"))
        sheet, measured = make_sheet(generate, samples, f"{manifest.name}: {how}", f"Trained on {data}.")
    try:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(arguments.out, "PNG")
    except OSError as error:
        raise ClipFaceFusionError(f"cannot write {arguments.out}: {error.strerror or error}") from None
    print("\n".join(measured.lines()))
    print(f"wrote {arguments.out} after {time.perf_counter() - start:.1f} s")
    return 0


def make_sheet(generate: Generate, samples: Samples, title: str, note: str) -> tuple[Image.Image, Measured]:
    """Ask for every face, first those that are timed alone, then all others together, and draw the sheet."""
    alone, *rows = stories(samples)
    generate(alone.requests[0])  # loads what is loaded on first use
    latencies, first = [], []
    for request in alone.requests:
        start = time.perf_counter()
        first.append(generate(request))
        latencies.append((time.perf_counter() - start) * 1e3)
    requests = [request for story in rows for request in story.requests]
    start = time.perf_counter()
    with ThreadPoolExecutor(CONCURRENCY) as threads:
        others = iter(list(threads.map(generate, requests)))
    measured = Measured(
        alone_ms=statistics.median(latencies),
        step_ms=statistics.median(result.report[TIMINGS]["sample"] for result in first) / DEFAULT_STEPS,
        together_s=time.perf_counter() - start,
        together=len(requests),
    )
    drawn = [story.row([next(others) for _ in story.requests]) for story in rows]
    return draw_sheet(f"ClipFaceFusion - {title}", note, [_inputs(samples), alone.row(first), *drawn]), measured


def stories(samples: Samples) -> list[Story]:
    """The rows: each input alone and all together (in the full number of steps), then one kind of input at a time."""
    ask = partial(GenerateRequest, num_inference_steps=ROW_STEPS, seed=SEED)
    photo, voices = samples.photo, samples.one_voice_each
    note = f"seed {SEED}, {ROW_STEPS} steps"
    return [
        _each_alone_and_all(samples),
        Story(
            "Age",
            f"the photo and a number; {note}",
            tuple(f"{age} years" for age in AGES),
            tuple(ask(reference=photo.reference, age=age) for age in AGES),
        ),
        Story(
            "Emotion",
            f"the photo, its age and a label; {note}",
            EMOTIONS,
            tuple(ask(reference=photo.reference, age=photo.age, emotion=emotion) for emotion in EMOTIONS),
        ),
        Story(
            "Voice",
            f"a recording alone; who speaks stands below; {note}",
            tuple(voice.label for voice in voices),
            tuple(ask(audio=voice.audio) for voice in voices),
        ),
        Story("Words", f"words alone; {note}", PROMPTS, tuple(ask(text=prompt) for prompt in PROMPTS)),
    ]


def _each_alone_and_all(samples: Samples) -> Story:
    """One of every kind of input. They agree with each other, so that all together is a fair question."""
    ask = partial(GenerateRequest, num_inference_steps=DEFAULT_STEPS, seed=SEED)
    photo, voice, words = samples.photo.reference, samples.voice("happy").audio, _words(samples)
    return Story(
        "The face from it",
        f"seed {SEED}, {DEFAULT_STEPS} steps",
        ("photo alone", "voice alone", "words alone", "age alone", "emotion alone", "all together"),
        (
            ask(reference=photo),
            ask(audio=voice),
            ask(text=words),
            ask(age=OLD_AGE),
            ask(emotion="happy"),
            ask(reference=photo, audio=voice, text=words, age=OLD_AGE, emotion="happy"),
        ),
    )


def _words(samples: Samples) -> str:
    """A description that fits the portrait and asks for something it does not show."""
    return f"a smiling {NOUN[samples.photo.sex]} with glasses"


def _inputs(samples: Samples) -> Row:
    """Pictures of what the columns of the first story are made from."""
    photo, voice = samples.photo, samples.voice("happy")
    cells = (
        Cell(decode_image(photo.reference), f"photo: {photo.label}"),
        Cell(draw_waveform(decode_audio(voice.audio)), f"voice: {voice.label}"),
        Cell(draw_words(f'"{_words(samples)}"'), "words"),
        Cell(draw_words(f"{OLD_AGE:g} years"), "age"),
        Cell(draw_words("happy"), "emotion"),
        Cell(draw_words("photo + voice + words + age + emotion"), "everything"),
    )
    return Row("What is given", "one input in each column, all of them in the last", cells)


@contextmanager
def _generator(bundle: Path, how: str) -> Iterator[Generate]:
    """What answers requests until the block ends; a server and its client are closed with it."""
    if how == IN_PROCESS:
        with Pipeline.open(bundle) as pipeline:
            yield pipeline
    else:
        with Server(bundle) as server, Client(server.url) as client:
            yield client
