"""`python -m benchmarks editing BUNDLE`: edits of held-out synthetic people, held against the true counterfactual.

Not timed: what is measured is whether an edit does what was asked and keeps the rest. Judges that guided no training read the pictures. After
every person their record is on disk; the same command goes on where an earlier one stopped.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.editing import report, sheets
from benchmarks.editing.experiment import PICTURES, Instruments, autoencoder, collect, editor, listener
from benchmarks.editing.figures import all_figures
from benchmarks.editing.subject import subjects
from benchmarks.editing.trials import Settings
from benchmarks.pipeline import check_same_weights
from benchmarks.timing import count
from runtime.engines.cores import usable_cores
from runtime.options import Options
from runtime.pipeline import Pipeline
from training.checkpoint import load as load_checkpoint
from training.durable import write_json, write_text
from training.evaluation.panel import load as load_judges

EXAMPLE = "bundles/demo --people 64 --out out/editing"
SWEPT_PEOPLE = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `editing`."""
    defaults = Settings()
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle")
    parser.add_argument("--people", type=count, default=64, help="held-out people (default %(default)s)")
    parser.add_argument(
        "--swept",
        type=int,
        default=SWEPT_PEOPLE,
        help="of them, people whose edits are also made at other settings (default %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("out/editing"),
        metavar="DIR",
        help="folder of records, tables, plot and sheets (default %(default)s)",
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("bundles/demo-checkpoint"),
        metavar="DIR",
        help="checkpoint that the bundle was exported from: its recogniser hears what a voice should tell (default %(default)s)",
    )
    parser.add_argument(
        "--judges",
        type=Path,
        default=Path("bundles/judges"),
        metavar="DIR",
        help="networks that read the pictures (default %(default)s)",
    )
    parser.add_argument(
        "--steps", type=count, default=defaults.num_inference_steps, help="DDIM steps (default %(default)s)"
    )
    parser.add_argument(
        "--t0", type=count, default=defaults.edit_from_timestep, help="edit_from_timestep (default %(default)s)"
    )
    parser.add_argument(
        "--threads",
        type=count,
        default=usable_cores(),
        help="threads of the engines (default %(default)s: all usable cores)",
    )
    parser.add_argument("--guidance", type=float, help="guidance scale (default: what an edit has by default)")


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Edit, judge, write tables and pictures into the folder, print the tables, and return the JSON document."""
    torch.set_num_threads(arguments.threads)
    settings = Settings(arguments.t0, arguments.steps, arguments.guidance)
    judges = load_judges(arguments.judges)
    folder: Path = arguments.out
    with Pipeline.open(arguments.bundle, threads=arguments.threads) as pipeline:
        bundle = pipeline.bundle
        check_same_weights(bundle, arguments.checkpoint)
        facts = {
            "bundle_sha256": bundle.hash,
            "judges_sha256": judges.card["sha256"],
            "settings": asdict(settings),
            "swept": arguments.swept,
            "default_options": asdict(Options()),
        }
        instruments = Instruments(
            editor(pipeline), judges, autoencoder(bundle), listener(load_checkpoint(arguments.checkpoint))
        )
        people = subjects(arguments.people, bundle.model.image_size)
        records = collect(people, arguments.swept, settings, instruments, folder, facts)
        document = {"benchmark": "editing", "bundle": bundle.manifest.name, **facts, **all_figures(records)}
    tables = report.markdown(_command(arguments), records)
    write_text(folder / "editing.md", tables)
    write_json(folder / "editing.json", document)
    report.plot(records, folder / "sweeps.png")
    sheets.draw(people[: sheets.SHOWN], folder / PICTURES, folder)
    print(tables)
    return document


def _command(arguments: argparse.Namespace) -> str:
    """As it can be typed again; the folder has no say in the figures."""
    flags = {
        "people": arguments.people,
        "swept": arguments.swept,
        "steps": arguments.steps,
        "t0": arguments.t0,
        "guidance": arguments.guidance,
    }
    given = " ".join(f"--{name} {value:g}" for name, value in flags.items() if value is not None)
    return f"python -m benchmarks editing {arguments.bundle} {given}"
