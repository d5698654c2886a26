"""`python -m training effects`: does each loss improve what it is for? The same fine-tuning with and without it, from one checkpoint.

The control minimises L_simple alone, every other run L_simple and one term, on the same pictures, timesteps and noise. Then all make
pictures of the same held-out people from the same noise, with everything told, and the differences are taken picture by picture.
The pictures are read by the networks that the losses themselves use: this shows that a loss does its work, not that people would
agree. `python -m training ablate` asks independent judges.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runtime.errors import BundleError, ClipFaceFusionError
from training import checkpoint, features, losses
from training.config import LossConfig, StageConfig
from training.consistency import TERMS, Consistency
from training.data.cache import CacheKey, DataCache, build
from training.dropout import MODALITIES
from training.durable import write_json, write_text
from training.examples import Examples
from training.loop import TrainingDivergedError, train
from training.model import ClipFaceFusion
from training.processes import Processes
from training.sampling import sample_images
from training.stages.alignment import was_aligned
from training.stages.consistency import ALIGNED, ConsistencyStage

CONTROL, CROSS_MODAL = "control", "cross_modal"
FIGURES = {**TERMS, CROSS_MODAL: "cmc"}
LOWER_IS_BETTER = ("age_mae",)
BATCH = 32
EXAMPLE = """example:
  python -m training effects --from runs/base/checkpoint --out out/effects --chain-steps 3 --max-timestep 999 --part 0.5
"""


@dataclass(frozen=True)
class Settings:
    """One comparison. `scale` is of eq. 30 as a whole beside L_simple; each term keeps the λ of LossConfig's defaults.

    `people` are drawn for training where no cache is given, `held_out` for measuring, one picture of each.
    """

    steps: int = 150
    batch_size: int = 16
    learning_rate: float = 1e-4
    scale: float = 1.0
    chain_steps: int = 0
    max_timestep: int = 330
    part: float = 1.0  # more of a batch than in training, since there are few steps
    people: int = 750
    held_out: int = 96
    sampling_steps: int = 20
    seed: int = 42

    def __post_init__(self) -> None:
        if self.held_out < 2:
            raise ValueError(f"held_out {self.held_out} must be at least 2: a difference needs a deviation")

    def losses(self, term: str) -> LossConfig:
        """L_simple, and of everything else only `term`; nothing for the control."""
        off = {name: 0.0 for name in FIGURES if name != term}
        return LossConfig(
            **off,  # type: ignore[arg-type]
            scale=self.scale,
            chain_steps=self.chain_steps,
            max_timestep=self.max_timestep,
            part=self.part,
            ramp_steps=self.steps // 5,
        )

    def pictures(self) -> str:
        """Which pictures the losses see, in words."""
        start = f"from t ≤ {self.max_timestep}"
        return f"the end of a chain of {self.chain_steps} steps {start}" if self.chain_steps else f"x̂0 {start}"

    def stage(self) -> StageConfig:
        """A tenth of the steps for warming up, no moving average: what is compared is where the steps lead."""
        return StageConfig(
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup_steps=max(1, self.steps // 10),
            checkpoint_every=max(1, self.steps // 3),
        )


@dataclass(frozen=True)
class Effect:
    """Of one figure the means without and with the term, and the mean paired difference with its standard error."""

    figure: str
    without: float
    with_it: float
    difference: float
    error: float
    pictures: int

    @property
    def verdict(self) -> str:
        """Better or worse only where the difference is more than two standard errors."""
        gain = -self.difference if self.figure in LOWER_IS_BETTER else self.difference
        return "better" if gain > 2 * self.error else "worse" if gain < -2 * self.error else "no difference shown"


def compare(base: Path, out: Path, settings: Settings, terms: Sequence[str], data: Path | None, workers: int) -> None:
    """Run the control and `terms` where that is not done yet; write `effects.json` and `effects.md` to `out`.

    `data` is a data cache to train on; without one the synthetic world is drawn. Raises BundleError if `base` is not aligned or
    `out` was begun with other settings or data.
    """
    if not was_aligned(checkpoint.read_settings(base)["provenance"]):
        raise BundleError(
            f"{base}: its f_Age, f_Emo and f_AV were never aligned with the estimators, so eqs 17, 18 and 22 mean nothing; "
            "train it further with --stages alignment diffusion first"
        )
    begun = {
        **dataclasses.asdict(settings),
        "base": checkpoint.checkpoint_sha256(base),
        "data": None if data is None else DataCache(data).sha256,
    }
    out.mkdir(parents=True, exist_ok=True)
    if (out / "settings.json").is_file():
        drawn_or_these = None if (out / "world").is_dir() else begun["data"]  # older files do not say
        before = {"data": drawn_or_these, **json.loads((out / "settings.json").read_text())}
        changes = [f"{name} {before.get(name)} → {value}" for name, value in begun.items() if before.get(name) != value]
        if changes:
            raise BundleError(
                f"{out} holds a comparison with other settings or data ({'; '.join(changes)}); repeat them, or choose another --out"
            )
    write_json(out / "settings.json", begun)
    size = checkpoint.load(base).config.image_size
    if data is None:
        data = out / "world"
        build(data, CacheKey(settings.seed, settings.people, 4, settings.people, size), workers)
    test = out / "test-world"
    build(test, CacheKey(settings.seed, settings.held_out, 2, settings.held_out, size, split="test"), workers)
    found: dict[str, Mapping[str, list[float | None]]] = {}
    for term in (CONTROL, *terms):
        path = out / term / "pictures.json"
        if not path.is_file():
            model = fine_tuned(base, DataCache(data), out, term, settings)
            write_json(path, measured(model, DataCache(test), out / "test-features.safetensors", settings))
        found[term] = json.loads(path.read_text())
    effects = {term: effect(FIGURES[term], found[CONTROL], found[term]) for term in terms}
    table = {term: {**dataclasses.asdict(of), "verdict": of.verdict} for term, of in effects.items()}
    write_json(out / "effects.json", {"settings": begun, "effects": table})
    write_text(out / "effects.md", report(effects, settings))


def fine_tuned(base: Path, cache: DataCache, out: Path, term: str, settings: Settings) -> ClipFaceFusion:
    """`base` after the steps of one run; goes on where a killed one was."""
    # All of it: the loop itself moves only what it trains, and the losses ask networks beside it.
    model = checkpoint.load(base).to(Processes().device)
    frozen = features.build(out / "features.safetensors", model, cache)
    torch.manual_seed(settings.seed)  # the heads of L_CM
    stage = ConsistencyStage(model, cache, frozen, settings.losses(term))
    train(stage, settings.stage(), out / term, precision="fp32", seed=settings.seed, preview=False)
    return model


@torch.no_grad()
def measured(model: ClipFaceFusion, cache: DataCache, path: Path, settings: Settings) -> dict[str, list[float | None]]:
    """Every figure for one picture of each held-out person, made with everything told; None where a picture has none."""
    examples = Examples(model, cache, features.build(path, model, cache))
    guides = Consistency(model, LossConfig())
    found: dict[str, list[float | None]] = {figure: [] for figure in FIGURES.values()}
    targets = np.flatnonzero(np.diff(cache.person, prepend=-1))
    for start in range(0, len(targets), BATCH):
        rows = targets[start : start + BATCH]
        rng = np.random.default_rng((settings.seed, start))
        batch = examples.describe(rows, rng, {name: np.ones(len(rows), bool) for name in MODALITIES})
        tokens, present = model.conditioner.tokens(*batch.inputs.values())
        f_final, used = model.conditioner.fusion(tokens, present)
        picture = sample_images(
            model,
            model.conditioner.project(f_final, used),
            seed=settings.seed + start,
            num_inference_steps=settings.sampling_steps,
            guidance_scale=model.config.guidance_scale,
        )
        everyone = np.arange(len(rows))
        _, figures = guides.compare(picture, guides.wanted(examples, batch, (tokens, present), everyone, rng))
        for term, (values, mask) in figures.items():
            rows_of = zip(values.tolist(), mask.tolist(), strict=True)
            found[TERMS[term]] += [value if is_there else None for value, is_there in rows_of]
        found["cmc"] += (1 - losses.cross_modal_loss(used[:, ALIGNED], present[:, ALIGNED])).tolist()
    return found


def effect(figure: str, without: Mapping[str, list[float | None]], with_it: Mapping[str, list[float | None]]) -> Effect:
    """The paired comparison of `figure`, over the pictures that have it in both."""
    a, b = np.array(without[figure], float), np.array(with_it[figure], float)
    both = ~np.isnan(a) & ~np.isnan(b)
    difference = (b - a)[both]
    error = float(difference.std(ddof=1)) / sqrt(len(difference))
    return Effect(
        figure, float(a[both].mean()), float(b[both].mean()), float(difference.mean()), error, len(difference)
    )


def report(effects: Mapping[str, Effect], settings: Settings) -> str:
    """The table as Markdown."""
    lines = [
        f"{settings.steps} steps of {settings.batch_size}, learning rate {settings.learning_rate:g}, eq. 30 × {settings.scale:g}, "
        f"judged on {settings.pictures()}; "
        f"{settings.held_out} held-out people, everything told, {settings.sampling_steps} sampling steps. Difference ± its standard "
        "error over pictures, paired; read by the networks that the losses use.",
        "",
        "| term | figure | better is | without | with | difference | |",
        "|---|---|---|---|---|---|---|",
    ]
    for term, of in effects.items():
        better = "lower" if of.figure in LOWER_IS_BETTER else "higher"
        lines.append(
            f"| {term} | {of.figure} | {better} | {of.without:.3f} | {of.with_it:.3f} | {of.difference:+.3g} ± {of.error:.1g} | {of.verdict} |"
        )
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    """Exit status 0 when the table is written, 1 on an error, 130 when interrupted."""
    parser = argparse.ArgumentParser(
        "python -m training effects",
        description=__doc__.split("\n")[0],
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--from", dest="base", required=True, type=Path, metavar="CHECKPOINT", help="an aligned one")
    parser.add_argument("--out", required=True, type=Path, help="folder of runs and report; goes on if it is there")
    parser.add_argument("--data", type=Path, metavar="DIR", help="a data cache to train on (default: draw the world)")
    parser.add_argument("--terms", nargs="+", choices=FIGURES, default=list(FIGURES), metavar="TERM")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)), help="processes that draw")
    for field in dataclasses.fields(Settings):
        kind: Any = type(field.default)
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default, help="%(default)s")
    arguments = vars(parser.parse_args(argv))
    try:
        settings = Settings(**{field.name: arguments[field.name] for field in dataclasses.fields(Settings)})
        out = arguments["out"]
        compare(arguments["base"], out, settings, arguments["terms"], arguments["data"], arguments["workers"])
    except (ClipFaceFusionError, TrainingDivergedError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print((out / "effects.md").read_text())
    return 0
