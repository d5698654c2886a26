"""`python -m export CHECKPOINT BUNDLE`: the command line of `export.bundle`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from export.bundle import export_bundle
from export.targets import EXAMPLE, KNOWN, Targets
from runtime.errors import BundleError, ClipFaceFusionError
from runtime.inspection import bundle_lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0, or 1 with one line that says why no bundle was written."""
    options = parse(arguments)
    try:
        manifest = export_bundle(
            options.checkpoint,
            options.bundle,
            samples=options.samples,
            name=options.name,
            fp16_weights=not options.fp32_weights,
            targets=options.targets,
            allow_parity_miss=options.allow_parity_miss,
            timing_cache=options.timing_cache,
            face_pack=options.face_pack,
            progress=lambda line: print(line, flush=True),
        )
    except (ClipFaceFusionError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(["", *bundle_lines(manifest), ""]))
    print(f"wrote {options.bundle}, try: python -m runtime verify {options.bundle}")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options, or exit status 2 with the reason."""
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Freeze a checkpoint into a bundle: every engine as ONNX, compared with torch, with hashes and provenance; "
        "on demand in FP16, and compiled for GPUs.",
        epilog="example: python -m export bundles/demo-checkpoint out/demo --samples bundles/demo/samples --targets onnx,onnx-fp16",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="folder written by python -m training")
    parser.add_argument(
        "bundle", type=Path, metavar="BUNDLE", help="folder to write; an older bundle there is replaced"
    )
    parser.add_argument(
        "--targets",
        type=targets,
        default=Targets(),
        metavar="LIST",
        help=f"comma-separated; known: {KNOWN}. Default: onnx, which every bundle has. For example {EXAMPLE}",
    )
    parser.add_argument("--samples", type=Path, metavar="DIR", help="folder of example inputs to carry in the bundle")
    parser.add_argument("--name", help="what reports call the bundle (default: its folder's name)")
    parser.add_argument("--fp32-weights", action="store_true", help="store every weight in FP32, at twice the size")
    parser.add_argument(
        "--allow-parity-miss",
        action="store_true",
        help="write the bundle even where it differs from torch by more than the limits; it says so, and verify fails on it",
    )
    parser.add_argument(
        "--timing-cache",
        type=Path,
        metavar="FILE",
        help="kernel times that the builds of target tensorrt read and extend",
    )
    parser.add_argument(
        "--face-pack",
        type=Path,
        metavar="DIR",
        help="an insightface pack: its ArcFace network becomes the identity encoder, for non-commercial research only. "
        "Use the one that the checkpoint was trained beside",
    )
    return parser.parse_args(arguments)


def targets(text: str) -> Targets:
    """Parse `--targets`; argparse shows the message of what is wrong."""
    try:
        return Targets.parse(text)
    except BundleError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


if __name__ == "__main__":
    sys.exit(main())
