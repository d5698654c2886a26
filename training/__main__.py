"""`python -m training`: train a checkpoint from a preset. Other commands: data, inspect, judges, evaluate, ablate, probe."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from runtime.errors import ClipFaceFusionError

COMMANDS = {
    "data": "training.data.command",
    "inspect": "training.inspect_run",
    "judges": "training.evaluation.judges",
    "evaluate": "training.evaluation.command",
    "effects": "training.effects",
    "ablate": "training.ablation",
    "probe": "training.probes",
}
EXAMPLE = """example:
  python -m training --preset micro --out runs/micro                        # a minute; proves the path
  python -m training --preset demo --out runs/demo                          # hours on two cores; goes on with --resume
  python -m training --preset paper --data ffhq=~/ffhq cacd=~/cacd ravdess=~/ravdess voxceleb=~/voxceleb fer2013=~/fer2013 --dry-run
  python -m training --preset demo --from bundles/demo-checkpoint --stages alignment diffusion consistency --out runs/tuned
"""


def main(argv: list[str] | None = None) -> int:
    """Exit status 0 when every wanted stage is finished, 1 on an error, 2 on a wrong command line, 130 when interrupted."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in COMMANDS:
        return import_module(COMMANDS[argv[0]]).main(argv[1:])
    from training.loop import TrainingDivergedError
    from training.presets import PRESETS
    from training.recipe import STAGES, Start, resolve, run

    parser = _parser(sorted(PRESETS), STAGES)
    arguments = parser.parse_args(argv)
    if arguments.out is None and not arguments.dry_run:
        parser.error("--out is needed, except with --dry-run")
    if arguments.base is not None and arguments.stages is None:
        parser.error("--from has every network already; say with --stages which to train further")
    start = Start(
        data=dict(arguments.data),
        base=arguments.base,
        splits=tuple(arguments.splits),
        published=dict(arguments.published),
        vgg=arguments.vgg,
        face_pack=arguments.face_pack,
        workers=arguments.workers,
    )
    try:
        config = PRESETS[arguments.preset].with_settings(arguments.set)
        if arguments.dry_run:
            from training.estimate import describe

            print(
                describe(resolve(config, start, arguments.stages or STAGES), arguments.preset, start, arguments.stages)
            )
        else:
            run(config, arguments.preset, arguments.out, stages=arguments.stages, start=start, resume=arguments.resume)
    except (ClipFaceFusionError, TrainingDivergedError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser(presets: Sequence[str], stages: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m training", description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", required=True, choices=presets, help="which row of training/presets.py")
    parser.add_argument("--out", type=Path, help="folder of the run: data, stages, checkpoint")
    parser.add_argument("--resume", action="store_true", help="go on in a folder that already holds a run")
    parser.add_argument(
        "--stages", nargs="+", choices=stages, metavar="STAGE", help=f"only these, of {' '.join(stages)} (default: all)"
    )
    parser.add_argument(
        "--data",
        nargs="+",
        type=_source,
        default=[],
        metavar="NAME[=DIR]",
        help="data sets and their folders; `world`, without a folder, is the synthetic one",
    )
    parser.add_argument(
        "--splits",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="made by `data splits`: who is trained on and who is kept for tests (default: the same rule, seed 42, a tenth)",
    )
    parser.add_argument(
        "--from", dest="base", type=Path, metavar="CHECKPOINT", help="take every network from here, and its sizes"
    )
    parser.add_argument(
        "--published",
        nargs="+",
        type=_place,
        default=[],
        metavar="SLOT=PLACE",
        help="start these networks from weights of others: a folder, or for an estimator a file; a stage whose networks are all "
        "given is left out",
    )
    parser.add_argument("--vgg", type=Path, metavar="FILE", help="VGG-16 weights (safetensors) for the perceptual loss")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="change settings, e.g. diffusion.steps=500 '*.micro_batches=4' losses.identity=0 mixture.ffhq=0.7 precision=bf16",
    )
    parser.add_argument(
        "--face-pack",
        type=Path,
        metavar="DIR",
        help="insightface models that align photos (default: the photo's middle)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print settings, parameters, memory and FLOPs; do nothing"
    )
    parser.add_argument(
        "--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes that draw or decode the data"
    )
    return parser


def _source(text: str) -> tuple[str, Path | None]:
    return (text, None) if text == "world" else _place(text)


def _place(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not equals or not name or not folder:
        raise argparse.ArgumentTypeError(f"{text!r} must look like NAME=DIR")
    return name, Path(folder).expanduser()


if __name__ == "__main__":
    sys.exit(main())
