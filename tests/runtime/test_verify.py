"""`verify` finds engines that do not compute what torch did, on every rung of the ladder."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from runtime.bundle import Bundle
from runtime.engines.backends import BF16_ENGINE
from runtime.errors import BundleError
from runtime.ladder import LIMITS, Course, limits_to_dict
from runtime.manifest import ONNX, ONNX_FP16
from runtime.verify import verify
from tests.fakes import FakeEngine, fake_bundle


class Referenced(Bundle):
    """A bundle of fakes whose reference answers are the fakes' own, with `shift` added to some of the tensors."""

    shift: dict[str, float] = {}  # noqa: RUF012

    def parity_tensors(self):
        engines = {name: FakeEngine(spec) for name, spec in self.specs.items()}
        course = Course(self.schedule, self.uncond, self.manifest.guidance_scale, self.model.sample_shape)
        start = np.random.default_rng(1).standard_normal((1, *self.model.sample_shape)).astype(np.float32)
        cond = {name: np.ones((1, *shape), np.float32) for name, shape in self.model.cond.items()}
        tensors = course.reference(engines, start, cond).thinned().to_tensors()
        for name, spec in self.specs.items():
            inputs = {t.name: np.ones(spec.shape(t, 0), t.dtype) for t in spec.inputs}
            tensors |= {f"{name}.input.{key}": array for key, array in inputs.items()}
            tensors |= {f"{name}.output.{key}": array for key, array in FakeEngine(spec)(inputs).items()}
        for name, amount in self.shift.items():
            tensors[name] = (tensors[name] + amount).astype(tensors[name].dtype)
        return tensors


@pytest.fixture
def bundle(tmp_path):
    fake = fake_bundle(tmp_path / "bundle")
    manifest = dataclasses.replace(fake.manifest, parity={ONNX: {"limits": limits_to_dict(LIMITS[ONNX])}})
    return Referenced(fake.folder, manifest, fake.hash, fake.uncond, fake.backend, fake.open_engine)


def test_every_rung_is_checked_and_equal_answers_hold(bundle):
    checks = list(verify(bundle))
    assert [check.subject for check in checks if check.rung == "engine"] == list(bundle.specs)
    assert {check.rung for check in checks} == {"engine", "step", "trajectory", "image", "inversion"}
    assert all(check.holds for check in checks)
    assert all(check.value == 0 for check in checks if not check.at_least)


@pytest.mark.parametrize(
    ("tensor", "rung"),
    [
        ("fusion.output.cond_tokens", "engine"),
        ("ladder.noise_pred", "step"),
        ("ladder.image", "image"),
        ("ladder.inverted", "inversion"),
        ("ladder.restored", "inversion"),
    ],
)
def test_another_answer_misses_its_rung_alone(bundle, monkeypatch, tensor, rung):
    monkeypatch.setattr(Referenced, "shift", {tensor: 9 if rung == "image" else 0.01})
    assert {check.rung for check in verify(bundle) if not check.holds} == {rung}


def test_another_sample_misses_the_trajectory(bundle, monkeypatch):
    monkeypatch.setattr(Referenced, "shift", {"ladder.samples": 0.5})
    assert "trajectory" in {check.rung for check in verify(bundle) if not check.holds}


def test_what_is_not_a_number_misses(bundle, monkeypatch):
    monkeypatch.setattr(Referenced, "shift", {"fusion.output.cond": float("nan")})
    assert [check.subject for check in verify(bundle) if not check.holds] == ["fusion"]


@pytest.mark.parametrize("missing", ["text_encoder.input.input_ids", "ladder.samples"])
def test_a_missing_reference_is_a_bundle_error(bundle, monkeypatch, missing):
    complete = bundle.parity_tensors()
    monkeypatch.setattr(Referenced, "parity_tensors", lambda self: {n: a for n, a in complete.items() if n != missing})
    with pytest.raises(BundleError, match=rf"parity\.safetensors: .*{missing}"):
        list(verify(bundle))


def test_networks_that_were_never_compared_are_a_bundle_error(bundle):
    with pytest.raises(BundleError, match="no parity of onnx-fp16 networks"):
        list(verify(bundle, ONNX_FP16))


@pytest.mark.parametrize("limits", [{}, {**limits_to_dict(LIMITS[ONNX]), "step": "low"}])
def test_damaged_limits_are_a_bundle_error(bundle, limits):
    object.__setattr__(bundle, "manifest", dataclasses.replace(bundle.manifest, parity={ONNX: {"limits": limits}}))
    with pytest.raises(BundleError, match="parity limits are damaged"):
        list(verify(bundle))


def chaotic(own: dict[str, float]) -> dict:
    still = {"trajectory": 0, "image_psnr_db": 100, "image_ssim": 1, "inversion": 0, "restored": 0}
    return {"limits": limits_to_dict(LIMITS[ONNX]), "sensitivity": {"rounding": 1e-7, "multiple": 10, **still, **own}}


def test_a_chaotic_models_walk_is_held_to_torchs_own_and_says_so(bundle, monkeypatch):
    parity = {ONNX: chaotic({"trajectory": 0.9})}
    object.__setattr__(bundle, "manifest", dataclasses.replace(bundle.manifest, parity=parity))
    monkeypatch.setattr(Referenced, "shift", {"ladder.samples": 0.5, "ladder.inverted": 0.5})
    (walk,) = (check for check in verify(bundle) if check.rung == "trajectory")
    assert walk.holds and walk.limit == 9 and str(walk).endswith("(torch against itself 0.9)")
    assert "inversion" in {check.rung for check in verify(bundle) if not check.holds}, "torch repeats that one"


@pytest.mark.parametrize("own", [{"trajectory": "large"}, {"patience": 1}])
def test_a_damaged_sensitivity_is_a_bundle_error(bundle, own):
    object.__setattr__(bundle, "manifest", dataclasses.replace(bundle.manifest, parity={ONNX: chaotic(own)}))
    with pytest.raises(BundleError, match="parity sensitivity is damaged"):
        list(verify(bundle))


def test_the_exported_bundle_holds_on_this_machine(micro_bundle):
    with Bundle.open(micro_bundle) as bundle:
        checks = list(verify(bundle))
    assert sum(check.rung == "engine" for check in checks) == 10 and all(check.holds for check in checks)


def test_an_engine_of_less_precision_is_held_to_its_own_limits(bundle, monkeypatch):
    monkeypatch.setattr(Referenced, "shift", {"unet.output.noise_pred": 1e-3})
    assert "unet" in {check.subject for check in verify(bundle) if not check.holds}
    reduced = dataclasses.replace(bundle, backend=BF16_ENGINE)
    assert all(check.holds for check in verify(reduced))
    assert {check.limit for check in verify(reduced) if check.rung == "engine"} == {LIMITS[BF16_ENGINE].engine}
