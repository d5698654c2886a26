"""`python -m training probe`: whether the synthetic world tells what it should not, as a report.

A model can only be trusted to have understood a voice or a photo if the world offers no shorter way: `training.leaks` asks trained
probes. With a checkpoint its own features are asked too. Exit status 0 when every promise of the world holds, 1 when one is broken.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

from runtime.errors import ClipFaceFusionError
from training import checkpoint
from training.data.synthetic.world import World
from training.leaks import claims, words
from training.leaks.independence import Independence, independence
from training.leaks.report import MARKDOWN_FILE, Report, write
from training.leaks.sample import Sample, draw, in_parallel, training_people, truths
from training.model import ClipFaceFusion
from training.pictures import to_model

PEOPLE, CAPTIONED = 5000, 20_000  # captions and correlations need no pictures, so they can afford more people
IMAGE_SIZE = 64
BATCH = 50
MIN_PEOPLE = 200
EXAMPLE = """example:
  python -m training probe --out out/leaks
  python -m training probe --world-seed 7 --people 1000 --checkpoint bundles/demo-checkpoint --out out/leaks
"""


def probe(
    world: World, people: int, captioned: int, model: ClipFaceFusion | None, processes: int, seed: int = 0
) -> tuple[list[claims.Finding], list[words.HeldOut], Independence]:
    """Every question to `people` pictures and voices and `captioned` captions of `world`, and to the features of `model`."""
    sample = draw(world, people, IMAGE_SIZE if model is None else model.config.image_size, processes)
    told = in_parallel(partial(words.tell, world), training_people(captioned), processes, "captions")
    findings = [
        *claims.voice(sample, sample.statistics, "voice", seed),
        *claims.person(sample, seed),
        *claims.background(sample, seed),
        *claims.picture(sample, seed),
        *words.captions(told, seed),
    ]
    if model is not None:
        heard, seen = encode(model, sample)
        findings += claims.voice(sample, heard, "voice network", seed) + claims.embedding(sample, seen, seed)
    drawn = truths([(one.person, one.shot) for one in told])
    return findings, words.held_out(world, captioned), independence(drawn, seed)


@torch.no_grad()
def encode(model: ClipFaceFusion, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """What the model hears, (N, Da + D): pooled and emotion features of the start of every voice; and whom it sees, (N, D)."""
    heard, seen = [], []
    for start in range(0, len(sample), BATCH):
        clips = sample.clips[start : start + BATCH].astype(np.float32)
        clips = (clips - clips.mean(1, keepdims=True)) / np.sqrt(clips.var(1, keepdims=True) + 1e-7)
        heard.append(torch.cat(model.encode_audio(torch.from_numpy(clips)), dim=1))
        seen.append(model.identify(to_model(sample.images[start : start + BATCH])))
    return torch.cat(heard).numpy(), torch.cat(seen).numpy()


def main(argv: list[str]) -> int:
    """Write the report that the command line asks for; the exit status."""
    parser = argparse.ArgumentParser(
        "python -m training probe",
        description="Ask trained probes whether the synthetic world tells what it should not; write JSON, Markdown and a plot.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", required=True, type=Path, help="folder of the report")
    parser.add_argument(
        "--world-seed", type=int, default=42, help="which world (default: %(default)s, the demo preset's)"
    )
    parser.add_argument("--people", type=int, default=PEOPLE, help="pictures and voices (default: %(default)s)")
    parser.add_argument(
        "--captions",
        type=int,
        default=CAPTIONED,
        help="people whose captions and variables are read (default: %(default)s)",
    )
    parser.add_argument("--checkpoint", type=Path, help="ask this model's voice and identity features too")
    parser.add_argument(
        "--processes", type=int, default=len(os.sched_getaffinity(0)), help="processes that draw the world"
    )
    arguments = parser.parse_args(argv)
    if min(arguments.people, arguments.captions) < MIN_PEOPLE:
        parser.error(f"--people and --captions must be at least {MIN_PEOPLE}: of fewer, a probe learns nothing")
    start = time.monotonic()
    try:
        model = None if arguments.checkpoint is None else checkpoint.load(arguments.checkpoint)
        findings, held_out, free = probe(
            World(arguments.world_seed), arguments.people, arguments.captions, model, arguments.processes
        )
    except ClipFaceFusionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report = Report(
        command=shlex.join(["python", "-m", "training", "probe", *argv]),
        world_seed=arguments.world_seed,
        people=arguments.people,
        checkpoint=None if arguments.checkpoint is None else str(arguments.checkpoint),
        seconds=time.monotonic() - start,
        findings=tuple(findings),
        held_out=tuple(held_out),
        independence=free,
    )
    write(report, arguments.out)
    print(f"{'every promise holds' if report.holds else 'promises are broken'}: {arguments.out / MARKDOWN_FILE}")
    return 0 if report.holds else 1
