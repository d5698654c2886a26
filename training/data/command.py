"""`python -m training data`: look at a data set before anything is trained on it, divide its people, and build either side.

Training builds its own side; `build` is for the people kept for tests, whom `evaluate` and `judges` ask for.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from runtime.errors import ClipFaceFusionError
from training.data import ingest
from training.data.check import check
from training.data.readers import READERS, detect, records
from training.data.splits import SPLITS, TEST, divide, load, save

CHECK_EXAMPLE = """example:
  python -m training data check ~/ffhq --json ffhq.json      # decodes everything; every fault by name
  python -m training data check ~/photos --as folder         # a folder of your own
"""
SPLITS_EXAMPLE = """example:
  python -m training data splits ~/ravdess --out runs/ravdess.json --test-fraction 0.2
"""
BUILD_EXAMPLE = """example:
  python -m training data build ~/ffhq --out runs/mine/test/ffhq --size 256            # the people kept for tests
  python -m training evaluate runs/mine/checkpoint --data runs/mine/test/ffhq --out report
"""


def main(argv: list[str]) -> int:
    """Exit status 0 if something can be used, 1 if nothing can or on an error, 130 when interrupted."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m training data",
        description=__doc__,
        epilog=CHECK_EXAMPLE + SPLITS_EXAMPLE.partition("\n")[2] + BUILD_EXAMPLE.partition("\n")[2],
        formatter_class=layout,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser(
        "check", help="decode everything, report every fault", epilog=CHECK_EXAMPLE, formatter_class=layout
    )
    splitting = commands.add_parser(
        "splits", help="divide the people, write who is where", epilog=SPLITS_EXAMPLE, formatter_class=layout
    )
    building = commands.add_parser(
        "build", help="decode and cut the people of one side once", epilog=BUILD_EXAMPLE, formatter_class=layout
    )
    for command in (checking, splitting, building):
        command.add_argument("folder", type=Path, metavar="DIR", help="the data set")
        command.add_argument(
            "--as", dest="name", choices=READERS, help="which one; found out from file names if left out"
        )
    checking.add_argument("--json", type=Path, metavar="FILE", help="write the report there, too")
    for command in (checking, building):
        command.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)), help="that decode")
    splitting.add_argument("--out", type=Path, required=True, metavar="FILE", help="the split")
    splitting.add_argument("--seed", type=int, default=42, help="another seed deals other people to the test")
    splitting.add_argument("--test-fraction", type=float, default=0.1, help="share of the people, above 0 and below 1")
    building.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the cache")
    building.add_argument(
        "--size", type=int, required=True, help="side of the pictures in pixels, the model's image_size"
    )
    building.add_argument("--side", choices=SPLITS, default=TEST, help="whose pictures (default: %(default)s)")
    building.add_argument("--splits", type=Path, metavar="FILE", help="the split that training was given, if any")
    building.add_argument("--face-pack", type=Path, metavar="DIR", help="insightface models that align, as in training")
    arguments = parser.parse_args(argv)
    try:
        name = arguments.name or detect(arguments.folder)
        if getattr(arguments, "processes", 1) < 1:
            raise ClipFaceFusionError(f"--processes {arguments.processes}, must be at least 1")
        return {"check": _check, "splits": _split, "build": _build}[arguments.command](name, arguments)
    except (ClipFaceFusionError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _check(name: str, arguments: argparse.Namespace) -> int:
    report = check(name, arguments.folder, arguments.processes)
    _print(report.to_text())
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report.to_dict(), indent=1) + "\n", encoding="ascii")
    return 0 if report.coverage.records else 1


def _split(name: str, arguments: argparse.Namespace) -> int:
    divided = divide(records(name, arguments.folder), arguments.seed, arguments.test_fraction)
    counts = divided.counts()
    if not counts:
        _print(f"{arguments.folder} as {name}: no records")
        return 1
    save(divided, arguments.out)
    for source, sides in counts.items():
        _print(f"{source}: " + ", ".join(f"{sides[side]} {side}" for side in SPLITS) + f" → {arguments.out}")
    return 0


def _build(name: str, arguments: argparse.Namespace) -> int:
    source = ingest.Source(name, arguments.folder, arguments.size, arguments.side, arguments.face_pack)
    divided = None if arguments.splits is None else load(arguments.splits)
    ingest.build(arguments.out, source, arguments.processes, divided)
    return 0


def _print(text: str) -> None:
    """Names of files may hold bytes that are no text."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
