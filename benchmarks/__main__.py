"""`python -m benchmarks {pipeline,served} BUNDLE`: tables for people, and one JSON document as the last line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import pipeline, served
from benchmarks.timing import count, publish
from runtime.errors import ClipFaceFusionError
from runtime.request import DEFAULT_STEPS

GUIDANCE = 3.0
REPEATS = 5


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 with one line that says why nothing was measured."""
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description=__doc__,
        epilog="example: python -m benchmarks pipeline bundles/demo --json out/pipeline.json",
    )
    commands = parser.add_subparsers(metavar="BENCHMARK", required=True)
    for module in (pipeline, served):
        name = module.__name__.rpartition(".")[2]
        example = f"example: python -m benchmarks {name} bundles/demo --json out/{name}.json"
        command = commands.add_parser(name, help=module.__doc__, description=module.__doc__, epilog=example)
        command.set_defaults(run=module.run)
        _add_common(command)
        if module is pipeline:
            pipeline.add_arguments(command)
    arguments = parser.parse_args(argv)
    try:
        publish(arguments.run(arguments), arguments.json)
    except ClipFaceFusionError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")
    command.add_argument("--steps", type=int, default=DEFAULT_STEPS, help="DDIM steps (default %(default)s)")
    command.add_argument("--guidance", type=float, default=GUIDANCE, help="guidance scale (default %(default)s)")
    command.add_argument("--repeats", type=count, default=REPEATS, help="rounds that count (default %(default)s)")
    command.add_argument("--json", type=Path, metavar="OUT", help="file that receives the JSON document as well")


if __name__ == "__main__":
    sys.exit(main())
