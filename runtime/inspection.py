"""A manifest in words: what a bundle holds, how near it is to torch, and what memory it will take. It reads no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runtime.manifest import ONNX, Manifest
from runtime.plans import never_executed

MEGA = 1e6


def bundle_lines(manifest: Manifest) -> list[str]:
    """The whole bundle, for people."""
    return [
        *_about(manifest),
        "",
        *_engines(manifest),
        "",
        *_ladder(manifest),
        *_fp16(manifest),
        *_plans(manifest),
    ]


def memory_lines(manifest: Manifest, buckets: Sequence[int]) -> list[str]:
    """The budget: weights once, and a context per engine that runs; the UNet's for each of the batcher's buckets."""
    lines = [
        f"{'engine':<18}"
        + "".join(f"{kind + ' MB':>16}" for kind in manifest.kinds)
        + f"{'context MB':>12}{'at most':>10}"
    ]
    total: dict[str, float] = dict.fromkeys(manifest.kinds, 0)
    for name, need in manifest.memory.items():
        for kind in manifest.kinds:
            total[kind] += need["weight_bytes"][kind]
        weights = "".join(f"{need['weight_bytes'][kind] / MEGA:16.1f}" for kind in manifest.kinds)
        context = need["context_bytes"]
        lines.append(f"{name:<18}{weights}{context['opt'] / MEGA:12.1f}{context['max'] / MEGA:10.1f}")
    lines.append(f"{'all weights':<18}" + "".join(f"{total[kind] / MEGA:16.1f}" for kind in manifest.kinds))
    per_row = manifest.memory["unet"]["context_bytes"]["max"] / manifest.engines["unet"].ranges["B"][2]
    lines += [
        "",
        "unet, rows per call " + "".join(f"{rows:>10}" for rows in buckets),
        "context MB          " + "".join(f"{rows * per_row / MEGA:10.1f}" for rows in buckets),
        "",
        "Weights as loaded; contexts in FP32 (FP16 takes half of it), the activations that live at the same time, estimated at export:",
        "without a library's workspace, and without what it saves by fusing.",
    ]
    return lines


def _about(manifest: Manifest) -> list[str]:
    model, schedule = manifest.model, manifest.schedule
    space = "latents" if model.is_latent else "pixels"
    cond = ", ".join(f"{name} {shape}" for name, shape in model.cond.items())
    size = sum(record["bytes"] for record in manifest.files.values()) / MEGA
    return [
        f"bundle {manifest.name}, {len(manifest.files)} files, {size:.1f} MB",
        *(f"DOES NOT COMPUTE WHAT TORCH DOES  {sentence}" for sentence in manifest.parity_missed),
        f"picture {model.image_size}x{model.image_size}, denoised as {space} {model.sample_shape}; cond {cond}",
        f"schedule {schedule.beta_schedule}, {schedule.num_train_timesteps} timesteps, {schedule.prediction_type}; "
        f"guidance_scale {manifest.guidance_scale:g}",
        *(f"precision {kind}: {words}" for kind, words in manifest.precision.items()),
        f"checkpoint {manifest.checkpoint_sha256[:12]}; {', '.join(f'{k} {v}' for k, v in manifest.versions.items())}",
    ]


def _engines(manifest: Manifest) -> list[str]:
    heads = "".join(f"{kind + ' error':>16}" for kind in manifest.parity)
    lines = [f"{'engine':<18}{'MB':>8}{heads}  {'commercial use':<14}  licence"]
    for name in manifest.engines:
        errors = "".join(
            f"{_figure(manifest.parity[kind]['engines'][name]['relative_error']):>16}" for kind in manifest.parity
        )
        weights = manifest.weights[name]
        megabytes = manifest.files[f"{ONNX}/{name}.onnx"]["bytes"] / MEGA
        lines.append(f"{name:<18}{megabytes:8.2f}{errors}  {weights['commercial_use']:<14}  {weights['licence']}")
    return lines


def _ladder(manifest: Manifest) -> list[str]:
    lines = []
    for kind, figures in manifest.parity.items():
        limits, trajectory, image = figures["limits"], figures["trajectory"], figures["image"]
        errors = figures["step"]["relative_error"]
        step = None if None in errors else max(errors)
        lines += [
            f"parity of {kind} with torch: one UNet step {_figure(step)} (limit {limits['step']:g}), "
            f"{trajectory['num_inference_steps']} guided steps {_figure(trajectory['relative_error'])} (limit {limits['trajectory']:g}),",
            f"  inversion {_figure(figures['inversion']['relative_error'])} and back "
            f"{_figure(figures['inversion']['restored_relative_error'])} (limit {limits['inversion']:g}), "
            f"picture {_decibels(image)}, SSIM {image['ssim']}, at most {image['largest_difference_levels']} levels of 255 off",
            *_chaos(figures),
        ]
    return lines


def _chaos(figures: Mapping[str, Any]) -> list[str]:
    """What to think of these figures where torch does not meet the limits itself."""
    own = figures.get("sensitivity")
    if own is None:
        return []
    return [
        f"  CHAOTIC: torch itself, started {own['rounding']:.1e} off, ends {_figure(own['trajectory'])} away "
        f"(inversion {_figure(own['inversion'])}, and back {_figure(own['restored'])}).",
        f"  Where torch misses a limit, {own['multiple']:g} times its own error is the limit; single calls keep theirs. Is the model trained?",
    ]


def _fp16(manifest: Manifest) -> list[str]:
    if not manifest.fp16:
        return []
    lines = ["", f"{'fp16 engine':<18}{'nodes':>6}{'in fp32':>8}{'largest':>10}  because"]
    for name, found in manifest.fp16.items():
        reasons = ", ".join(f"{count} {reason}" for reason, count in found["kept"].items())
        lines.append(f"{name:<18}{found['nodes']:>6}{sum(found['kept'].values()):>8}{found['largest']:>10g}  {reasons}")
    return lines


def _plans(manifest: Manifest) -> list[str]:
    sets = {plan.file.rpartition("/")[0]: plan for plan in manifest.plans}
    lines = (
        ["", f"plans {len(sets)}"]
        if not sets
        else ["", *(f"plans {folder}: {_status(manifest, folder)}" for folder in sets)]
    )
    if never_executed(manifest.plans):
        lines.append("  no plan is known to compute the right thing before it ran on its GPU")
    return lines


def _status(manifest: Manifest, folder: str) -> str:
    plans = [plan for plan in manifest.plans if plan.file.startswith(folder + "/")]
    size = sum(manifest.files[plan.file]["bytes"] for plan in plans) / MEGA
    return f"{len(plans)} engines, {size:.1f} MB, {', '.join(sorted({plan.verified for plan in plans}))}"


def _figure(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.1e}"


def _decibels(image: Mapping[str, Any]) -> str:
    return "not finite" if image["psnr_db"] is None else f"{image['psnr_db']:g} dB"
