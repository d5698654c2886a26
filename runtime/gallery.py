"""The command `gallery`: every sheet of `runtime/gallery_sheets.py`, made by a bundle in this process, as pictures in a folder.

Under faces that were asked for an age or a mood stands what the bundle's own estimators read from them; they are good for
comparing faces, not for judging the model (`training/evaluation` has judges of its own).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.assessment import Assessor
from runtime.errors import ClipFaceFusionError
from runtime.gallery_sheets import Sheet, sheets
from runtime.manifest import Manifest
from runtime.pipeline import Pipeline
from runtime.provenance import KEPT, encode_image
from runtime.report import PROVENANCE
from runtime.request import DEFAULT_STEPS, GenerateResult
from runtime.samples import Samples
from runtime.sheet import draw_sheet

SIDE = 128  # of a face on a sheet, in pixels
LARGEST_BYTES = 250_000  # of a sheet, so that a page of a dozen loads
QUALITIES = (92, 88, 84, 80, 75, 70, 60, 50)  # of the JPEG: the first with which it is small enough


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `gallery`."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of a bundle that has samples")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the sheets go, made if needed")
    parser.add_argument("--only", nargs="+", metavar="FILE", help="draw these sheets only, named by their files")
    parser.add_argument(
        "--steps",
        type=int,
        default=DEFAULT_STEPS,
        metavar="N",
        help="steps of each face, where a sheet is not about them (default %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Draw the sheets, print a line for each; the exit status. Raises as `Pipeline` does."""
    manifest = Manifest.read(arguments.bundle)
    drawn = sheets(Samples.read(arguments.bundle, manifest), arguments.steps, manifest.guidance_scale)
    if unknown := set(arguments.only or ()) - {sheet.file for sheet in drawn}:
        known = ", ".join(sheet.file for sheet in drawn)
        raise ClipFaceFusionError(f"gallery: no sheet is called {', '.join(sorted(unknown))}; there are {known}")
    with Pipeline.open(arguments.bundle, arguments.engine, arguments.threads) as pipeline:
        for sheet in drawn:
            if arguments.only is None or sheet.file in arguments.only:
                start = time.perf_counter()
                path = arguments.folder / sheet.file
                _write(sheet, pipeline, path)
                taken, size = time.perf_counter() - start, path.stat().st_size
                print(f"{path}: {len(sheet.requests)} faces in {taken:.0f} s, {size / 1e3:.0f} KB", flush=True)
    return 0


def _write(sheet: Sheet, pipeline: Pipeline, path: Path) -> None:
    requests, look = sheet.requests, Assessor(pipeline.bundle).look
    # The first alone: what it computes of a photo, the others find done.
    results = [*pipeline.batch(requests[:1]), *pipeline.batch(requests[1:])]
    answers = iter(results)
    rows = [
        story.row(
            [next(answers) for _ in story.requests], lambda result: _note(sheet.looks, result, look(result.image))
        )
        for story in sheet.stories
    ]
    title = f"{sheet.title} - {pipeline.bundle.manifest.name}"
    picture = np.asarray(draw_sheet(title, sheet.asked, rows, SIDE))
    file = _encoded(picture, _shared([result.report for result in results]))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file)
    except OSError as error:
        raise ClipFaceFusionError(f"cannot write {path}: {error.strerror or error}") from None


def _encoded(picture: np.ndarray, report: Mapping[str, Any]) -> bytes:
    """The sheet as a JPEG of at most LARGEST_BYTES, or as small as QUALITIES make it."""
    for quality in QUALITIES:
        file = encode_image(picture, "JPEG", report, quality)
        if len(file) <= LARGEST_BYTES:
            break
    return file


def _note(looks: Sequence[str], result: GenerateResult, seen: Mapping[str, Any]) -> str:
    """What the bundle's own networks make of a face."""
    said = [f"{seen[name]:.0f}" if name == "age" else seen[name] for name in looks if name in seen]
    words = [f"id {result.report['id_sim']:.2f}"] if "id_sim" in result.report else []
    return ", ".join([*words, *([f"looks {', '.join(said)}"] if said else [])])


def _shared(reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What may stand in the picture's file, where it is true of every face."""
    first = reports[0]
    same = {
        name: first[name]
        for name in KEPT
        if name in first and all(report.get(name) == first[name] for report in reports)
    }
    return {**same, PROVENANCE: first[PROVENANCE]}
