"""`python -m training inspect RUN`: how far a training is, read from its folder. It changes nothing and loads no network."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

FINAL, RUN_FILE, LOG = (
    "final.safetensors",
    "run.json",
    "log.jsonl",
)  # as training.recipe and training.progress write them
NO_LOSSES = ("step", "samples_per_s", "eta_s", "peak_gib")
MIB = 2**20


def describe(out: Path) -> str:
    """Per stage: finished or at which step, the last losses and throughput, and the space its files take. Then all else in `out`.

    Raises FileNotFoundError if `out` is not the folder of a run.
    """
    path = out / RUN_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{out} is not the folder of a training: it has no {RUN_FILE}")
    remembered = json.loads(path.read_text())
    settings = remembered["settings"]
    lines = [
        f"{out}: preset {remembered['preset']}, seed {settings['seed']}, {settings['precision']}, "
        + "mixture "
        + ", ".join(f"{name} {share:g}" for name, share in settings["mixture"].items()),
        "",
    ]
    for name in remembered["stages"]:
        folder = out / name
        if folder.is_dir():
            lines.append(f"{name:<12}  {_progress(folder, settings['stages'][name]['steps'])}  {_size(folder)}")
            lines += [f"{'':<12}  {line}" for line in _last(folder)]
        else:
            lines.append(f"{name:<12}  not begun")
    lines.append("")
    for entry in sorted(out.iterdir()):
        if entry.name not in settings["stages"]:
            lines.append(f"{entry.name:<26}{_size(entry)}")
    return "\n".join(lines)


def _progress(folder: Path, steps: int) -> str:
    if (folder / FINAL).is_file():
        return "finished"
    saved = sorted(int(path.name.removeprefix("state-")) for path in folder.glob("state-????????"))
    return f"saved at step {saved[-1]} of {steps}" if saved else f"begun, nothing saved yet of {steps} steps"


def _last(folder: Path) -> list[str]:
    """The last whole line of the log, in words."""
    log = folder / LOG
    whole = [line for line in log.read_text().splitlines() if line.endswith("}")] if log.is_file() else []
    if not whole:
        return []
    values: dict[str, Any] = json.loads(whole[-1])
    losses = ", ".join(f"{k} {v:.4g}" for k, v in values.items() if k not in NO_LOSSES)
    return [
        f"step {values['step']}: {losses}",
        f"{values['samples_per_s']:g} samples/s, {values['eta_s']} s were left, at most {values['peak_gib']:g} GiB",
    ]


def _size(path: Path) -> str:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return f"{sum(file.stat().st_size for file in files) / MIB:.1f} MiB in {len(files)} file{'' if len(files) == 1 else 's'}"


def main(argv: list[str]) -> int:
    """Exit status 0, or 1 if there is no run."""
    parser = argparse.ArgumentParser(
        "python -m training inspect",
        description="Which stages of a training are finished, at which step, with which losses, and what lies in its folder.",
        epilog="example:\n  python -m training inspect runs/demo",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder given to --out")
    try:
        print(describe(parser.parse_args(argv).run))
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
