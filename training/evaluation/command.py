"""`python -m training evaluate`: a checkpoint's report on people that no training has met."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.errors import BundleError, ClipFaceFusionError
from runtime.solvers import SOLVERS
from training import checkpoint, features
from training.data.cache import CacheKey, DataCache, build
from training.durable import write_json
from training.evaluation import hearing, lpips, plots, report, targets
from training.evaluation.judges import WORLD_SEED
from training.evaluation.making import CONDITIONS, MeasureSettings
from training.evaluation.measure import UNKNOWN_L_CM, evaluate
from training.evaluation.panel import Panel, load
from training.examples import Examples
from training.face_packs import FacePack
from training.processes import Processes
from training.stages.consistency import ConsistencyStage

JUDGES = Path(__file__).parents[2] / "bundles" / "judges"
WORLD = "world"
SHOTS = 2
SPREAD = 100
# A voice is spoken for two conditions of six, by a stranger, so few serve many; but of each sex and emotion there must be some of
# every age.
VOICES_PER_PERSON, FEWEST_VOICES = 0.4, 160
EXAMPLE = """example:
  python -m training evaluate bundles/demo-checkpoint --out report
  python -m training evaluate runs/mine/checkpoint --out report --data runs/mine/test/ffhq --count 5000
  python -m training evaluate bundles/demo-checkpoint --out report --count 60 --seeds 42 --steps 10     # a quick look
"""


def run(
    folder: Path,
    out: Path,
    settings: MeasureSettings,
    *,
    data: list[Path] | None,
    judges: Path,
    face_pack: Path | None,
    lpips_weights: tuple[Path, Path] | None,
    processes: int,
) -> None:
    """Evaluate the checkpoint in `folder` and write the report to `out`. `data` are finished data caches; None draws the world's
    test half, at the seed that the checkpoint was trained with. What its training was never shown is not given here either."""
    start = time.monotonic()
    described = checkpoint.read_settings(folder)
    device = Processes().device
    panel = load(judges).to(device)
    if face_pack is not None:
        panel.face_pack = FacePack(face_pack)
    perceptual = None if lpips_weights is None else lpips.load(*lpips_weights)
    model = checkpoint.load(folder).to(device)
    provenance: Mapping[str, Any] = described.get("provenance", {})
    settings = replace(settings, never=tuple(provenance.get("never_seen", ())))
    cache, what = _data(data, out, model.config.image_size, provenance, settings.count, processes)
    if cache.images.shape[1] != model.config.image_size:
        raise BundleError(
            f"data has pictures of {cache.images.shape[1]} pixels, the checkpoint makes {model.config.image_size}; build the cache at that size"
        )
    sha256 = checkpoint.checkpoint_sha256(folder)
    # Features are of this checkpoint and this data: the name holds both, so that a second report never reads another's.
    place = hashlib.sha256(f"{sha256} {json.dumps(what, sort_keys=True)}".encode()).hexdigest()[:16]
    work = out / "work"
    work.mkdir(parents=True, exist_ok=True)
    # Outside the world a voice's own picture shows whom it belongs to, and there are too few voices to learn from.
    can_hear = data is None and "audio" in settings.conditions and "audio" not in settings.never
    heard = hearing.heard(cache, work / "probe-voices.npz", WORLD_SEED, processes) if can_hear else None
    encoded = features.build(work / f"features-{place}.safetensors", model, cache)
    prepared = time.monotonic()
    evaluation = evaluate(
        Examples(model, cache, encoded, settings.never),
        panel,
        settings,
        perceptual,
        l_cm_note(provenance),
        heard,
        print,
    )
    measured = time.monotonic()
    subject = report.Subject({"sha256": sha256, "preset": provenance.get("preset")}, _card(panel), what, settings)
    report.write(evaluation, subject, out, plots.draw(evaluation, out))
    seconds = {"prepare": prepared - start, "measure": measured - prepared, "draw": time.monotonic() - measured}
    write_json(out / report.TIMINGS_FILE, {name: round(value, 1) for name, value in seconds.items()})


def l_cm_note(provenance: Mapping[str, Any]) -> str:
    """Whether the checkpoint's training minimised L_CM, which is `cmc` itself (eq. 14)."""
    weight = _l_cm_weight(provenance)
    if weight is None:
        return UNKNOWN_L_CM
    return f"L_CM was on, weight {weight:g}: training optimised this number" if weight else "L_CM was off"


def _l_cm_weight(provenance: Mapping[str, Any]) -> float | None:
    """The weight of L_CM in the checkpoint's training, else in that of the one it started from; None where one does not say."""
    if "losses" in provenance:
        weight = float(provenance["losses"]["cross_modal"])
    elif ConsistencyStage.name in provenance.get("stages", (ConsistencyStage.name,)):
        return None
    else:
        weight = 0.0
    earlier: Mapping[str, Any] = provenance.get("started_from") or {}
    return weight or (_l_cm_weight(earlier["provenance"]) if earlier else 0.0)


def main(argv: list[str]) -> int:
    """Exit status 0 when the report is written, 1 on an error, 130 when interrupted."""
    parser = argparse.ArgumentParser(
        "python -m training evaluate",
        description="Make pictures for held-out people and report every metric beside its floor and ceiling.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    defaults = MeasureSettings()
    parser.add_argument("checkpoint", type=Path, help="folder of a checkpoint")
    parser.add_argument("--out", required=True, type=Path, help="folder of the report")
    parser.add_argument(
        "--data",
        nargs="+",
        default=[WORLD],
        metavar="DIR",
        help="data caches of the evaluation split, or `world`, which draws held-out synthetic people (default)",
    )
    parser.add_argument("--count", type=int, default=defaults.count, help="pictures per seed, all conditions together")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(defaults.seeds))
    parser.add_argument("--steps", type=int, default=defaults.steps, help="steps (default: %(default)s)")
    parser.add_argument(
        "--solver",
        choices=SOLVERS,
        default=defaults.solver,
        help="the runtime's; the others want fewer steps (default: %(default)s)",
    )
    parser.add_argument("--guidance", type=float, help="guidance scale (default: the checkpoint's)")
    parser.add_argument(
        "--guidance-interval",
        type=int,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="timesteps between which guidance acts (default: at all)",
    )
    parser.add_argument(
        "--spread", type=int, default=SPREAD, help="pictures of one prompt, for variety; 0: none (default: %(default)s)"
    )
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS), metavar="CONDITION")
    parser.add_argument(
        "--judges", type=Path, default=JUDGES, help="folder or file of judges (default: bundles/judges)"
    )
    parser.add_argument(
        "--face-pack",
        type=Path,
        metavar="DIR",
        help="insightface pack whose ArcFace judges who it is; for photographs (packs are for non-commercial research)",
    )
    parser.add_argument(
        "--lpips", type=Path, nargs=2, metavar=("VGG", "HEADS"), help="safetensors of VGG-16 and of LPIPS' five heads"
    )
    parser.add_argument(
        "--processes", type=int, default=len(os.sched_getaffinity(0)), help="processes that draw the world"
    )
    arguments = parser.parse_args(argv)
    if WORLD in arguments.data and len(arguments.data) > 1:
        parser.error("--data takes `world` or folders, not both")
    try:
        settings = MeasureSettings(
            arguments.count,
            tuple(arguments.seeds),
            arguments.steps,
            arguments.guidance,
            tuple(arguments.conditions),
            solver=arguments.solver,
            spread=arguments.spread,
            guidance_interval=tuple(arguments.guidance_interval) if arguments.guidance_interval else None,
        )
        run(
            arguments.checkpoint,
            arguments.out,
            settings,
            data=None if arguments.data == [WORLD] else [Path(folder) for folder in arguments.data],
            judges=arguments.judges,
            face_pack=arguments.face_pack,
            lpips_weights=tuple(arguments.lpips) if arguments.lpips else None,
            processes=arguments.processes,
        )
    except (ClipFaceFusionError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print((arguments.out / targets.MARKDOWN_FILE).read_text())
    print(f"done: {arguments.out / report.MARKDOWN_FILE}")
    return 0


def _data(
    folders: list[Path] | None, out: Path, size: int, provenance: Mapping[str, Any], count: int, processes: int
) -> tuple[DataCache, dict[str, Any]]:
    """The held-out data, and what the report says of it."""
    if folders is not None:
        cache = DataCache(*folders)
        keys = [json.loads((folder / "cache.json").read_text()) for folder in folders]
        people = len(set(cache.person.tolist()))
        what = f"{len(cache)} pictures of {people} people from {', '.join(cache.sources)}"
        return cache, {"what": what, "pictures": len(cache), "people": people, "caches": keys}
    key = CacheKey(
        int(provenance.get("seed", 42)),
        max(count, 8),
        SHOTS,
        max(FEWEST_VOICES, round(VOICES_PER_PERSON * count)),
        size,
        "test",
    )
    cache = build(out / "work" / "world", key, processes)
    what = (
        f"{key.people} people of the synthetic world's test half: nobody trained on, every second one with a combination of traits "
        "that training never has, prompts from held-out templates, voices and sentences held out too"
    )
    return cache, {
        "what": what,
        "pictures": len(cache),
        "people": key.people,
        "world_seed": key.seed,
        "voices": key.voices,
    }


def _card(panel: Panel) -> dict[str, Any]:
    told = ("sha256", "config", "seed", "held_out", "measured")
    people = "our identity network" if panel.face_pack is None else "ArcFace of a user's face pack"
    return {**{name: panel.card[name] for name in told if name in panel.card}, "people_judged_by": people}
