"""`python -m export CHECKPOINT BUNDLE`: the command line of `export.bundle`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from export.bundle import export_bundle
from runtime.errors import ClipFaceFusionError
from runtime.manifest import Manifest

TARGETS = ("onnx",)


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
            progress=lambda line: print(line, flush=True),
        )
    except (ClipFaceFusionError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(manifest))
    print(f"wrote {options.bundle}, try: python -m runtime inspect {options.bundle}")
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Options, or exit status 2 with the reason."""
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Freeze a checkpoint into a bundle: every engine as ONNX, compared with torch, with hashes and provenance.",
        epilog="example: python -m export bundles/demo-checkpoint out/demo --samples bundles/demo/samples",
    )
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="folder written by python -m training")
    parser.add_argument(
        "bundle", type=Path, metavar="BUNDLE", help="folder to write; an older bundle there is replaced"
    )
    parser.add_argument(
        "--targets",
        type=targets,
        default=TARGETS,
        metavar="LIST",
        help=f"comma-separated; known: {', '.join(TARGETS)} (default)",
    )
    parser.add_argument("--samples", type=Path, metavar="DIR", help="folder of example inputs to carry in the bundle")
    parser.add_argument("--name", help="what reports call the bundle (default: its folder's name)")
    parser.add_argument("--fp32-weights", action="store_true", help="store every weight in FP32, at twice the size")
    return parser.parse_args(arguments)


def targets(text: str) -> tuple[str, ...]:
    """Parse `--targets`; argparse shows the message of what is unknown."""
    chosen = tuple(text.split(","))
    unknown = [target for target in chosen if target not in TARGETS]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown target {unknown[0]!r}; known: {', '.join(TARGETS)}")
    return chosen


def table(manifest: Manifest) -> str:
    """Parity of each engine with torch, one line each."""
    lines = [f"{'parity with torch':<18}{'max abs error':>15}{'relative error':>16}{'limit':>9}"]
    for engine, reached in manifest.parity["onnx"].items():
        numbers = f"{reached['max_abs_error']:>15.1e}{reached['relative_error']:>16.1e}{reached['limit']:>9.0e}"
        lines.append(f"{engine:<18}{numbers}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
