"""`python -m training ablate`: what each input, module and loss is worth, by fine-tuning one checkpoint once per row of Table 7.

It resumes by itself: what is finished in the folder is not done again, a killed row goes on at its last state. The report is written
anew after every row.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from concurrent.futures import BrokenExecutor
from pathlib import Path

from runtime.errors import ClipFaceFusionError
from training import checkpoint
from training.comparison.plan import Plan, jobs, read_plan
from training.comparison.report import MARKDOWN_FILE, read, write
from training.comparison.rows import ROWS
from training.comparison.work import Place, prepare, run
from training.evaluation import panel
from training.loop import TrainingDivergedError
from training.stages.alignment import was_aligned

SEEDS = (42, 123, 2024)
EXAMPLE = """example:
  python -m training ablate --from runs/base/checkpoint --out out/ablation
  python -m training ablate --from runs/base/checkpoint --out out/ablation --rows full without-text --steps 50 --count 40
"""


def main(argv: list[str]) -> int:
    """Do what the command line asks for; exit status 0 when all its rows are done, 1 on an error, 130 when interrupted."""
    parser = argparse.ArgumentParser(
        "python -m training ablate",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--from", dest="base", required=True, type=Path, metavar="CHECKPOINT", help="where every row starts"
    )
    parser.add_argument(
        "--out", required=True, type=Path, help="folder of worlds, rows and report; goes on if it is there"
    )
    parser.add_argument(
        "--judges", type=Path, default=Path("bundles/judges"), help="who reads the pictures (default: %(default)s)"
    )
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=f"only these, of {' '.join(ROWS)}"
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=list(SEEDS),
        help="of key rows; the others take the first (default: 42 123 2024)",
    )
    parser.add_argument("--steps", type=int, default=250, help="optimiser steps of every row (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="(default: %(default)s)")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="at its highest (default: %(default)s)")
    parser.add_argument("--people", type=int, default=1000, help="people to fine-tune on (default: %(default)s)")
    parser.add_argument(
        "--count", type=int, default=128, help="held-out requests per row and seed (default: %(default)s)"
    )
    parser.add_argument("--inference-steps", type=int, default=20, help="DDIM steps per picture (default: %(default)s)")
    parser.add_argument(
        "--world-seed", type=int, default=42, help="whose people (default: %(default)s, the demo preset's)"
    )
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), default="bf16", help="of training (default: %(default)s)"
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="rows at a time (default: the machine's cores)",
    )
    arguments = parser.parse_args(argv)
    if len(set(arguments.seeds)) < len(arguments.seeds):
        parser.error(f"--seeds {' '.join(map(str, arguments.seeds))}: none twice")
    try:
        settings = checkpoint.read_settings(arguments.base)
        if not was_aligned(settings["provenance"]):
            print(
                "note: this checkpoint went through no alignment stage, so eqs 17, 18 and 22 aim at features nobody has trained; "
                f"first: python -m training --preset demo --from {arguments.base} --stages alignment diffusion --out runs/base",
                file=sys.stderr,
            )
        plan = read_plan(
            arguments.base,
            panel.load(arguments.judges).card["sha256"],
            steps=arguments.steps,
            batch_size=arguments.batch_size,
            learning_rate=arguments.learning_rate,
            people=arguments.people,
            count=arguments.count,
            inference_steps=arguments.inference_steps,
            world_seed=arguments.world_seed,
            precision=arguments.precision,
        )
        place = Place(arguments.base, arguments.judges, arguments.out)
        prepare(place, plan, arguments.processes)
        _run(place, plan, arguments, shlex.join(["python", "-m", "training", "ablate", *argv]))
    except (ClipFaceFusionError, TrainingDivergedError, BrokenExecutor, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _run(place: Place, plan: Plan, arguments: argparse.Namespace, command: str) -> None:
    """All jobs, with a line and a new report after each."""
    # Results of rows that are not asked for now stay in the report.
    everything = jobs(list(ROWS), arguments.seeds)
    wanted = jobs(arguments.rows, arguments.seeds)
    missing = [job for job in wanted if not place.result(job).is_file()]
    print(f"{len(wanted)} rows and seeds, {len(wanted) - len(missing)} done; {arguments.processes} at a time")

    def report() -> None:
        left = [str(job) for job in wanted if not place.result(job).is_file()]
        write(place.out, command, plan, read([place.result(job) for job in everything]), left)

    start = time.monotonic()
    for done, (job, result) in enumerate(run(place, plan, wanted, arguments.processes), start=1):
        left = (time.monotonic() - start) / done * (len(missing) - done)
        print(
            f"{done}/{len(missing)} {job}: trained {result['training_seconds']:.0f} s, measured {result['measuring_seconds']:.0f} s; "
            f"about {left / 60:.1f} min left",
            flush=True,
        )
        report()
    report()
    print(f"report: {place.out / MARKDOWN_FILE}")
