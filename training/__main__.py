"""`python -m training`: train a checkpoint from a preset."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from runtime.errors import ClipFaceFusionError

EXAMPLE = """example:
  python -m training --preset micro --out runs/micro        # seconds; proves the path
  python -m training --preset demo --out runs/demo          # hours on two cores; goes on with --resume
"""


def main(argv: list[str] | None = None) -> int:
    """Exit status 0 when every wanted stage is finished, 1 on an error, 130 when interrupted."""
    from training.loop import TrainingDivergedError
    from training.presets import PRESETS
    from training.published import SLOTS
    from training.recipe import STAGES, run

    parser = argparse.ArgumentParser(
        "python -m training", description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", required=True, choices=sorted(PRESETS), help="which row of training/config.py")
    parser.add_argument("--out", required=True, type=Path, help="folder of the run: world, stages, checkpoint")
    parser.add_argument("--resume", action="store_true", help="go on in a folder that already holds a run")
    parser.add_argument(
        "--stages",
        nargs="+",
        choices=STAGES,
        default=list(STAGES),
        metavar="STAGE",
        help=f"only these, of {' '.join(STAGES)}",
    )
    parser.add_argument(
        "--published",
        nargs="+",
        default=[],
        metavar="SLOT=DIR",
        help=f"start from published weights; slots: {' '.join(SLOTS)}",
    )
    parser.add_argument(
        "--processes", type=int, default=len(os.sched_getaffinity(0)), help="processes that draw the world"
    )
    arguments = parser.parse_args(argv)
    if (arguments.out / "world").exists() and not arguments.resume:
        parser.error(f"{arguments.out} already holds a run; add --resume to go on, or choose another --out")
    published = dict(item.split("=", 1) for item in arguments.published if "=" in item)
    if len(published) != len(arguments.published):
        parser.error(f"--published takes SLOT=DIR, got {' '.join(arguments.published)}")
    try:
        run(
            PRESETS[arguments.preset],
            arguments.preset,
            arguments.out,
            stages=arguments.stages,
            processes=arguments.processes,
            published=published,
        )
    except (ClipFaceFusionError, TrainingDivergedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"done: {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
