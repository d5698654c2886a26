"""The command `edit`: a person's photo in, the same person out, once or over a whole sweep on one labelled sheet.

An edit is an ordinary request with a noise level to start from, so whoever answers requests is one callable: a `Pipeline` in this
process, or the `Client` of a server. The first picture of a sweep runs alone: what it computes of the photo, the others find done.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from runtime import access as access_flags
from runtime import request as request_table
from runtime.errors import ClipFaceFusionError, RequestError
from runtime.preprocess.face_frame import cut
from runtime.preprocess.face_paste import paste_back
from runtime.preprocess.image import decode_image
from runtime.progress import ProgressBar
from runtime.request import GenerateRequest, GenerateResult
from runtime.sheet import CELL, Cell, Row, captioned, draw_sheet
from runtime.sweep import Sweep, Variation, variations

Generate = Callable[[GenerateRequest], GenerateResult]

DEFAULT_T0 = 500  # paper: t0 inside [300, 600]
CONCURRENCY = 8  # pictures asked for at a time; guided, they fill one UNet batch
COLUMNS = 9  # pictures in a row of a sheet, the original's place included
LARGEST_CELL = 256
MOODS = ("emotion", "emotion_intensity", "valence_arousal", "audio")  # what changes the emotion that a face shows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `edit`: what to edit with, the request's, and what to make of the pictures."""
    parser.add_argument(
        "bundle", type=Path, nargs="?", metavar="BUNDLE", help="folder of the bundle, to edit in this process"
    )
    parser.add_argument("--url", help="instead of a bundle: a server's gRPC address")
    parser.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help="vary a request field or an option and draw a labelled sheet: age=20:70:6, age=20,45,70, emotion=all, circumplex=8, "
        "'text=with glasses|laughing', audio=a.wav,b.wav; given twice, a grid",
    )
    parser.add_argument(
        "--animate",
        type=_animation_path,
        metavar="FILE",
        help="write the pictures of the sweep as an animation as well: WebP or GIF",
    )
    parser.add_argument("--paste-back", action="store_true", help="put the face back into the whole photo")
    request_table.add_arguments(parser)
    parser.set_defaults(edit_from_timestep=DEFAULT_T0)


def run(arguments: argparse.Namespace, token: str | None) -> int:
    """Edit, write what was asked for, print one line of JSON; the exit status. Raises as `Pipeline` and `Client` do.

    `token` is for a server that asks for one.
    """
    if arguments.reference is None:
        raise RequestError("reference", "missing; an edit changes a photo")
    sweeps = [Sweep.parse(text) for text in arguments.sweep]
    if arguments.animate and not sweeps:
        raise RequestError("sweep", "missing; an animation shows the pictures of one")
    asked = variations(request_table.from_arguments(arguments), sweeps)
    with _generator(arguments, token) as generate:
        results = edit(generate, [each.request for each in asked], ProgressBar(len(asked), "picture", sys.stderr))
    if arguments.paste_back:
        results = [_pasted(each.request, result) for each, result in zip(asked, results, strict=True)]
    try:
        printed = _write(arguments, sweeps, asked, results)
    except OSError as error:
        raise ClipFaceFusionError(
            f"cannot write {error.filename or arguments.out}: {error.strerror or error}"
        ) from None
    print(json.dumps(printed))
    return 0


def edit(generate: Generate, requests: Sequence[GenerateRequest], done: Callable[[], None]) -> list[GenerateResult]:
    """The answers in order; the first request runs alone, the others together. `done` is called after each. The first error is raised."""

    def answered(request: GenerateRequest) -> GenerateResult:
        result = generate(request)
        done()
        return result

    first = answered(requests[0])
    with ThreadPoolExecutor(CONCURRENCY) as threads:
        others = [threads.submit(answered, request) for request in requests[1:]]
        try:
            return [first, *(future.result() for future in others)]
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def sheet_rows(
    original: np.ndarray, sweeps: Sequence[Sweep], asked: Sequence[Variation], results: Sequence[GenerateResult]
) -> list[Row]:
    """The original first, then every result under its value: the last sweep across, those before it downwards. A circle is laid out as one."""
    cells = [
        Cell(result.image, each.labels[-1], _note(sweeps, result.report))
        for each, result in zip(asked, results, strict=True)
    ]
    photo = Cell(original, "the photo", ", ".join(_looks(sweeps, results[0].report.get("before", {}))))
    if [sweep.is_cycle for sweep in sweeps] == [True]:
        return _circle(photo, sweeps[0], cells)
    across, places = len(sweeps[-1].values), COLUMNS - 1
    rows: list[Row] = []
    for start in range(0, len(cells), across):
        title = ", ".join(
            f"{sweep.title} {label}" for sweep, label in zip(sweeps, asked[start].labels[:-1], strict=False)
        )
        for part in range(start, start + across, places):
            rows.append(
                Row(
                    _capital(title or sweeps[-1].title) if part == start else "",
                    f"across: {sweeps[-1].title}" if title and not rows else "",
                    [None if rows else photo, *cells[part : min(part + places, start + across)]],
                )
            )
    return rows


def _circle(original: Cell, sweep: Sweep, cells: Sequence[Cell]) -> list[Row]:
    """Cells around the original, valence to the right and arousal upwards, on the smallest grid that has a place for each."""
    turns = [math.atan2(arousal, valence) for valence, arousal in sweep.values]
    for radius in itertools.count(1):
        places = [(round(radius * math.cos(turn)), round(radius * math.sin(turn))) for turn in turns]
        if len(set(places)) == len(places):
            break
    at = {(0, 0): original, **dict(zip(places, cells, strict=True))}
    span = range(-radius, radius + 1)
    names = {radius: "Excited", 0: "Unpleasant on the left, pleasant on the right", -radius: "Quiet"}
    return [Row(names.get(y, ""), "", [at.get((x, y)) for x in span]) for y in reversed(span)]


def _note(sweeps: Sequence[Sweep], report: Mapping[str, Any]) -> str:
    """What the bundle's own networks make of the picture: whether it is the same person, and what they see of what was varied."""
    seen = [f"id {report['id_sim']:.2f}"] if "id_sim" in report else []
    return ", ".join([*seen, *_looks(sweeps, report.get("after", {}))])


def _looks(sweeps: Sequence[Sweep], seen: Mapping[str, Any]) -> list[str]:
    names = {sweep.name for sweep in sweeps}
    looks = [f"looks {seen['age']:.0f}"] if "age" in names and "age" in seen else []
    return looks + ([f"looks {seen['emotion']}"] if names & set(MOODS) and "emotion" in seen else [])


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _write(
    arguments: argparse.Namespace,
    sweeps: Sequence[Sweep],
    asked: Sequence[Variation],
    results: Sequence[GenerateResult],
) -> dict[str, Any]:
    """The files that were asked for; what to print."""
    from runtime.animation import save_animation
    from runtime.provenance import save_image

    report = dict(results[0].report)
    if not sweeps:
        save_image(results[0].image, arguments.out, report)
        return {"file": str(arguments.out), **report}
    report["sweep"] = {sweep.name: sweep.provenance for sweep in sweeps}
    original = _original(asked[0].request, report, arguments.paste_back)
    side = int(np.clip(max(results[0].image.shape[:2]), CELL, LARGEST_CELL))
    rows = sheet_rows(original, sweeps, asked, results)
    save_image(np.asarray(draw_sheet("Edits of a photo", _settings(report), rows, side)), arguments.out, report)
    printed: dict[str, Any] = {"file": str(arguments.out), "sweep": report["sweep"]}
    if arguments.animate:
        frames = [captioned(result.image, ", ".join(each.labels)) for each, result in zip(asked, results, strict=True)]
        save_animation(frames, arguments.animate, report, is_cycle=len(sweeps) == 1 and sweeps[0].is_cycle)
        printed["animation"] = str(arguments.animate)
    return {**printed, "reports": [result.report for result in results]}


def _animation_path(text: str) -> Path:
    """A path that can be written, known before the minutes that the pictures may take."""
    from runtime.animation import animation_format

    path = Path(text)
    try:
        animation_format(path)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"the folder of '{text}' does not exist")
    return path


def _original(request: GenerateRequest, report: dict[str, Any], whole: bool) -> np.ndarray:
    """The photo as the model saw it, or all of it."""
    assert request.reference is not None
    photo, crop = decode_image(request.reference), report["crop"]
    return photo if whole else cut(photo, np.array(crop["matrix"]), crop["size"])


def _pasted(request: GenerateRequest, result: GenerateResult) -> GenerateResult:
    assert request.reference is not None
    return GenerateResult(paste_back(request.reference, result, request.mask), result.report)


def _settings(report: dict[str, Any]) -> str:
    """What all pictures have in common, in a line."""
    named = {
        "edit_from_timestep": f"t0 {report['edit']['t0']}",
        "num_inference_steps": f"{report['num_inference_steps']} steps",
    }
    named["guidance_scale"] = f"guidance {report['guidance_scale']:g}"
    words = [report["bundle"], *(words for name, words in named.items() if name not in report["sweep"])]
    if "id_sim" in report:
        words.append("id: cosine to the photo's identity")
    return ", ".join(words)


@contextmanager
def _generator(arguments: argparse.Namespace, token: str | None) -> Iterator[Generate]:
    """What answers requests until the block ends. Imports gRPC or an engine library, whichever it is."""
    if (arguments.bundle is None) == (arguments.url is None):
        raise ClipFaceFusionError("edit: give a BUNDLE to edit in this process, or --url of a server")
    if arguments.url is not None:
        from runtime.client import Client

        if arguments.face_pack is not None:
            raise ClipFaceFusionError("edit: a face pack is the server's: start it with --face-pack")
        access = access_flags.from_arguments(arguments, token)
        with Client(arguments.url, timeout_s=arguments.timeout, access=access) as client:
            yield client
    else:
        from runtime.pipeline import Pipeline

        with Pipeline.open(arguments.bundle, arguments.engine, arguments.threads, arguments.face_pack) as pipeline:
            yield pipeline
