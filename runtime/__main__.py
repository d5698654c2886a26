"""The command line: `clipfacefusion` = `python -m runtime`. One function per subcommand; the work is done elsewhere.

The only place of the runtime that exits: 0 done, 2 the request or the flags are wrong, 1 anything else of ours, 130 interrupted.
Each subcommand imports what it needs when it runs, so that `request` loads no engine library and `generate` no gRPC.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime import access as access_flags
from runtime import request as request_table
from runtime.engines.backends import AUTO, BACKENDS
from runtime.errors import ClipFaceFusionError, RequestError
from runtime.flags import seconds
from runtime.noise import SEED_LIMIT

if TYPE_CHECKING:
    from runtime.request import GenerateRequest, GenerateResult

MAX_COUNT = 1000


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; the exit status."""
    try:
        arguments = _parser(sys.argv[1:] if argv is None else argv).parse_args(argv)
        return arguments.run(arguments)
    except RequestError as error:
        return _failed(error, 2)
    except ClipFaceFusionError as error:
        return _failed(error, 1)
    except KeyboardInterrupt:
        return 130


def inspect(arguments: argparse.Namespace) -> int:
    """Print what a bundle holds, or the memory it will take, after checking that it is whole."""
    from runtime.batcher import BUCKETS
    from runtime.inspection import bundle_lines, memory_lines
    from runtime.manifest import Manifest

    manifest = Manifest.read(arguments.bundle)
    manifest.verify(arguments.bundle)
    if arguments.json:
        shown = {"buckets": list(BUCKETS), "engines": manifest.memory} if arguments.memory else manifest.to_dict()
        print(json.dumps(shown, indent=2, ensure_ascii=False))
    else:
        print("\n".join(memory_lines(manifest, BUCKETS) if arguments.memory else bundle_lines(manifest)))
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """Check every hash, then every network against torch's stored answers; 1 if one misses its limit or a plan never ran."""
    from runtime.bundle import Bundle
    from runtime.manifest import ONNX, ONNX_FP16
    from runtime.plans import never_executed
    from runtime.verify import verify as climb

    missed = 0
    with Bundle.open(arguments.bundle, arguments.engine, arguments.threads) as bundle:
        manifest = bundle.manifest
        print(f"{len(manifest.files)} files match their SHA-256; engine {bundle.backend}")
        kinds = manifest.kinds if bundle.reads == ONNX else (None,)  # what the engine reads, and nothing else
        for kind in kinds:
            if kind == ONNX_FP16:
                print(
                    f"{kind} on a CPU, which computes mostly in FP32 and does not overflow: inspect shows the figures with rounding"
                )
            for check in climb(bundle, kind):
                missed += not check.holds
                print(f"{kind or bundle.reads:<14}{check!s:<64}{'ok' if check.holds else 'MISSED'}")
    unexecuted = never_executed(manifest.plans)
    for plan in unexecuted:
        print(f"{plan.file}: {plan.verified}, never executed")
    if missed:
        print(f"{missed} comparisons missed their limit; do not use this bundle here", file=sys.stderr)
    if unexecuted and not arguments.allow_unexecuted:
        gpus = sorted({target for plan in unexecuted for target in plan.targets}, key=lambda name: int(name[2:]))
        print(
            f"{len(unexecuted)} plans were never executed, so nobody knows what they compute: try them on a GPU ({', '.join(gpus)}) with gpu-verify, "
            "or accept that with --allow-unexecuted",
            file=sys.stderr,
        )
    return 1 if missed or (unexecuted and not arguments.allow_unexecuted) else 0


def gpu_verify(arguments: argparse.Namespace) -> int:
    """Run the compiled plans that fit this machine's GPU against torch's stored answers, and write a report to send home."""
    from runtime.gpu_verify import run

    return run(arguments)


def generate(arguments: argparse.Namespace) -> int:
    """Make one or more faces in this process and save them."""
    from runtime.pipeline import Pipeline
    from runtime.progress import ProgressBar

    # Whether a condition is needed is the bundle's to say, and is said before any network runs.
    requests = _counted(request_table.from_arguments(arguments, needs_condition=False), arguments.count)
    how = (arguments.engine, arguments.threads, arguments.face_pack, arguments.whole_loop)
    with Pipeline.open(arguments.bundle, *how) as pipeline:
        bar = ProgressBar(sum(request.num_inference_steps for request in requests), "step", sys.stderr)
        results = pipeline.batch(requests, None if arguments.whole_loop else bar)
    for result, path in zip(results, _numbered(arguments.out, len(results)), strict=True):
        _save(result, path)
    return 0


def edit(arguments: argparse.Namespace) -> int:
    """Change a photo, from t0 500 unless --t0 says otherwise: age, mood or words of the same person, once or over a sweep."""
    from runtime.edit_command import run

    return run(arguments, os.environ.get(access_flags.TOKEN_VARIABLE))


def serve(arguments: argparse.Namespace) -> int:
    """Serve a bundle until interrupted."""
    from runtime.serving.supervisor import run

    return run(arguments)


def repository(arguments: argparse.Namespace) -> int:
    """Write a Triton model repository for a bundle, to be served by a tritonserver of your own."""
    from runtime.serving.repository import run

    return run(arguments)


def demo(arguments: argparse.Namespace) -> int:
    """Serve a bundle, ask it for faces by every input, and draw them on one sheet."""
    from runtime.demo import run

    return run(arguments)


def gallery(arguments: argparse.Namespace) -> int:
    """Draw sheets of what a bundle makes of every input, alone and together, of every setting, and of inputs that contradict each other."""
    from runtime.gallery import run

    return run(arguments)


def request(arguments: argparse.Namespace) -> int:
    """Ask a running server for a face and save it."""
    from runtime.client import Client

    asked = request_table.from_arguments(arguments)
    access = access_flags.from_arguments(arguments, os.environ.get(access_flags.TOKEN_VARIABLE))
    with Client(arguments.url, timeout_s=arguments.timeout, access=access) as client:
        _save(client(asked), arguments.out)
    return 0


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="clipfacefusion",
        description="Faces from words, a voice, a photo, an age and an emotion: in this process, or through a server.",
        epilog=_example("clipfacefusion generate bundles/demo --text 'a smiling old man' --out face.png"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    command = _command(commands, inspect, "bundles/demo --memory")
    _add_bundle(command)
    command.add_argument(
        "--json", action="store_true", help="print it as JSON: the manifest itself, or the memory of each engine"
    )
    command.add_argument("--memory", action="store_true", help="what memory weights and calls take")

    command = _command(commands, verify, "bundles/demo --allow-unexecuted")
    _add_bundle(command)
    _add_engine(command)
    command.add_argument(
        "--allow-unexecuted",
        action="store_true",
        help="succeed although compiled plans of the bundle never ran on a GPU",
    )

    command = _command(commands, gpu_verify, "out/bundle --report gpu-report.json")
    _add_bundle(command)
    command.add_argument(
        "--report",
        type=Path,
        default=Path("gpu-report.json"),
        metavar="FILE",
        help="report to write (default %(default)s)",
    )

    command = _command(
        commands, generate, "bundles/demo --text 'a smiling old man' --age 72 --seed 7 --count 4 --out face.png"
    )
    _add_bundle(command)
    request_table.add_arguments(command)
    _add_engine(command)
    _add_face_pack(command)
    _add_out(command)
    command.add_argument(
        "--whole-loop",
        action="store_true",
        help="all steps of a picture in one launch on the GPU, without a progress bar; engines of TensorRT only",
    )
    command.add_argument(
        "--count",
        type=_count,
        default=1,
        metavar="N",
        help="faces to make, with seeds seed, seed+1, …; N > 1 writes face-0.png, face-1.png, … (default %(default)s)",
    )

    command = _command(commands, edit, "bundles/demo --reference face.jpg --sweep age=20:70:6 --out ages.png")
    if argv[:1] == ["edit"]:  # its flags live with its work, whose imports the other commands do without
        from runtime.edit_command import add_arguments

        add_arguments(command)
        _add_engine(command)
        _add_face_pack(command)
        _add_timeout(command)
        access_flags.add_arguments(command)
        _add_out(command)

    command = _command(commands, serve, "bundles/demo --grpc-port 8001")
    if argv[:1] == ["serve"]:  # likewise
        from runtime.serving.supervisor import add_arguments

        add_arguments(command)

    command = _command(commands, repository, "bundles/demo out/models --flavour native")
    if argv[:1] == ["repository"]:  # likewise
        from runtime.serving.repository import add_arguments

        add_arguments(command)

    command = _command(commands, demo, "bundles/demo --out out/demo.png")
    if argv[:1] == ["demo"]:  # likewise
        from runtime.demo import add_arguments

        add_arguments(command)

    command = _command(commands, gallery, "bundles/demo docs/gallery --only ages.jpg")
    if argv[:1] == ["gallery"]:  # likewise
        from runtime.gallery import add_arguments

        add_arguments(command)
        _add_engine(command)

    command = _command(commands, request, "--url 127.0.0.1:8001 --text 'a smiling old man' --out face.png")
    command.add_argument("--url", default="127.0.0.1:8001", help="the server's gRPC address (default %(default)s)")
    _add_timeout(command)
    access_flags.add_arguments(command)
    request_table.add_arguments(command)
    _add_out(command)
    return parser


def _command(commands: Any, run: Any, example: str) -> argparse.ArgumentParser:
    """A subcommand named and described after the function that runs it."""
    name = run.__name__.replace("_", "-")
    command = commands.add_parser(
        name,
        help=run.__doc__,
        description=run.__doc__,
        epilog=_example(f"clipfacefusion {name} {example}"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.set_defaults(run=run)
    return command


def _example(line: str) -> str:
    return f"example:\n  {line}"


def _add_bundle(command: argparse.ArgumentParser) -> None:
    command.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")


def _add_engine(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--engine",
        default=AUTO,
        metavar="NAME",
        help=f"what runs the networks: {', '.join((AUTO, *BACKENDS))} (default %(default)s: the exact one that is "
        "soonest done with its first pictures; openvino, where installed, is faster from the fifth on)",
    )
    command.add_argument("--threads", type=_count, metavar="N", help="threads per network (default: all usable cores)")


def _add_face_pack(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--face-pack",
        type=Path,
        metavar="DIR",
        help="folder of an insightface pack (extra face): its detector finds and aligns the faces of photos, "
        "which are otherwise taken for aligned squares; such packs are for non-commercial research",
    )


def _add_timeout(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--timeout", type=seconds, default=120.0, help="seconds to wait for a server at most (default %(default)s)"
    )


def _add_out(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--out", type=_image_path, default=Path("face.png"), help="PNG, WebP or JPEG to write (default %(default)s)"
    )


def _image_path(text: str) -> Path:
    """A path that can be written, known before the minutes that a picture may take."""
    from runtime.provenance import image_format

    path = Path(text)
    try:
        image_format(path)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"the folder of '{text}' does not exist")
    return path


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MAX_COUNT:
        raise argparse.ArgumentTypeError(f"got {text}, allowed 1..{MAX_COUNT}")
    return int(text)


def _counted(first: GenerateRequest, count: int) -> list[GenerateRequest]:
    """`count` requests with consecutive seeds; without a seed each draws its own."""
    if first.seed is None:
        return [first] * count
    if first.seed + count > SEED_LIMIT:
        raise RequestError("seed", f"got {first.seed} with --count {count}, allowed 0..{SEED_LIMIT - count}")
    return [dataclasses.replace(first, seed=first.seed + n, needs_condition=False) for n in range(count)]


def _numbered(path: Path, count: int) -> list[Path]:
    return [path] if count == 1 else [path.with_stem(f"{path.stem}-{n}") for n in range(count)]


def _save(result: GenerateResult, path: Path) -> None:
    """Write the picture, and print its report as one line of JSON."""
    from runtime.provenance import save_image

    try:
        save_image(result.image, path, result.report)
    except OSError as error:
        raise ClipFaceFusionError(f"cannot write {path}: {error.strerror or error}") from None
    print(json.dumps({"file": str(path), **result.report}))


def _failed(error: ClipFaceFusionError, status: int) -> int:
    print(f"clipfacefusion: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
