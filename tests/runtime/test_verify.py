"""`verify` finds engines that do not compute what torch did."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from runtime.bundle import Bundle
from runtime.errors import BundleError
from runtime.verify import verify
from tests.fakes import FakeEngine, fake_bundle


class Referenced(Bundle):
    """A bundle of fakes whose reference answers are the fakes' own, with `shift` added to an engine's last output."""

    shift: dict[str, float] = {}  # noqa: RUF012

    def parity_tensors(self):
        tensors = {}
        for name, spec in self.specs.items():
            inputs = {t.name: np.ones(spec.shape(t, 0), t.dtype) for t in spec.inputs}
            tensors |= {f"{name}.input.{key}": array for key, array in inputs.items()}
            tensors |= {f"{name}.output.{key}": array for key, array in FakeEngine(spec)(inputs).items()}
            tensors[f"{name}.output.{spec.outputs[-1].name}"] += np.float32(self.shift.get(name, 0))
        return tensors


@pytest.fixture
def bundle(tmp_path):
    fake = fake_bundle(tmp_path / "bundle")
    limits = {"onnx": {name: {"limit": 1e-4} for name in fake.specs}}
    manifest = dataclasses.replace(fake.manifest, parity=limits)
    return Referenced(fake.folder, manifest, fake.hash, fake.uncond, fake.backend, fake.open_engine)


def test_every_engine_is_checked_and_equal_answers_hold(bundle):
    checks = list(verify(bundle))
    assert [check.engine for check in checks] == list(bundle.specs)
    assert all(check.holds and check.relative_error == 0 and check.limit == 1e-4 for check in checks)


@pytest.mark.parametrize("shift", [0.01, float("nan")])
def test_another_answer_misses_the_limit(bundle, monkeypatch, shift):
    monkeypatch.setattr(Referenced, "shift", {"fusion": shift})
    assert [check.engine for check in verify(bundle) if not check.holds] == ["fusion"]


def test_a_missing_reference_is_a_bundle_error(tmp_path):
    with pytest.raises(BundleError, match="nothing to compare engine 'text_encoder' with"):
        list(verify(fake_bundle(tmp_path / "bundle")))


def test_the_exported_bundle_holds_on_this_machine(micro_bundle):
    with Bundle.open(micro_bundle) as bundle:
        checks = list(verify(bundle))
    assert len(checks) == 10 and all(check.holds for check in checks)
