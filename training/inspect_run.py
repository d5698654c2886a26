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
    rows = _log(folder)
    if not rows:
        return []
    values = rows[-1]
    losses = ", ".join(f"{k} {v:.4g}" for k, v in values.items() if k not in NO_LOSSES)
    return [
        f"step {values['step']}: {losses}",
        f"{values['samples_per_s']:g} samples/s, {values['eta_s']} s were left, at most {values['peak_gib']:g} GiB",
    ]


def _size(path: Path) -> str:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return f"{sum(file.stat().st_size for file in files) / MIB:.1f} MiB in {len(files)} file{'' if len(files) == 1 else 's'}"


def curves(out: Path, path: Path) -> None:
    """A PNG with the losses of every stage of `out` that has a log, over its steps; thin lines, and their running mean."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    stages = [name for name in json.loads((out / RUN_FILE).read_text())["stages"] if _log(out / name)]
    figure, axes = pyplot.subplots(1, len(stages), figsize=(3.2 * len(stages), 3), squeeze=False, layout="constrained")
    for name, axis in zip(stages, axes[0], strict=True):
        rows = _log(out / name)
        steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
        axis.plot(steps, losses, linewidth=0.5, alpha=0.5)
        window = max(1, len(losses) // 20)
        means = [
            sum(losses[max(0, n - window) : n + 1]) / len(losses[max(0, n - window) : n + 1])
            for n in range(len(losses))
        ]
        axis.plot(steps, means, color="C0")
        axis.set(title=name, xlabel="step", yscale="log")
    axes[0][0].set_ylabel("loss")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)


def _log(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of a stage's log that hold a loss."""
    log = folder / LOG
    lines = log.read_text().splitlines() if log.is_file() else []
    return [row for line in lines if line.endswith("}") and "loss" in (row := json.loads(line))]


def main(argv: list[str]) -> int:
    """Exit status 0, or 1 if there is no run."""
    parser = argparse.ArgumentParser(
        "python -m training inspect",
        description="Which stages of a training are finished, at which step, with which losses, and what lies in its folder.",
        epilog="example:\n  python -m training inspect runs/demo --plot out/curves.png",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder given to --out")
    parser.add_argument(
        "--plot", type=Path, metavar="PNG", help="draw the losses of every stage into this file as well"
    )
    arguments = parser.parse_args(argv)
    try:
        print(describe(arguments.run))
        if arguments.plot is not None:
            curves(arguments.run, arguments.plot)
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
