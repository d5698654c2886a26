"""Which plan fits a machine, and what is said where none does."""

from __future__ import annotations

import json

import pytest

from runtime.errors import BundleError
from runtime.plans import BUILT, EXECUTED, TENSORRT, TENSORRT_RTX, Plan, choose, never_executed

ENGINES = ("unet", "decoder")


def plans(*targets: str, flavour: str = TENSORRT_RTX, version: str = "1.7.1.116", verified: str = BUILT) -> list[Plan]:
    return [Plan(engine, flavour, version, targets, f"onnx-fp16/{engine}.onnx", verified) for engine in ENGINES]


def test_a_plan_lies_where_its_entry_says() -> None:
    assert plans("sm86", "sm89")[0].file == "plans/tensorrt-rtx-1.7.1.116-sm86+sm89/unet.plan"


def test_what_is_written_is_read_back() -> None:
    (plan, _) = plans("sm89")
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_the_set_for_this_gpu_and_this_version_is_chosen() -> None:
    here, elsewhere = plans("sm86", "sm89"), plans("sm120") + plans("sm89", flavour=TENSORRT, version="11.4.0.106")
    assert choose(elsewhere + here, ENGINES, TENSORRT_RTX, "1.7.1.116", "sm89") == dict(zip(ENGINES, here, strict=True))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            (TENSORRT, "11.4.0.106", "sm89"),
            r"none for tensorrt in this bundle; build them: python -m export .* --targets tensorrt$",
        ),
        (
            (TENSORRT_RTX, "1.8", "sm89"),
            r"built with tensorrt-rtx 1\.7\.1\.116, this machine has 1\.8; install tensorrt-rtx==1\.7",
        ),
        (
            (TENSORRT_RTX, "1.7.1.116", "sm90"),
            r"built for sm86, sm89, this GPU is sm90; build them for it: .*tensorrt-rtx:sm90",
        ),
    ],
    ids=["flavour", "version", "GPU"],
)
def test_what_does_not_fit_is_named_with_the_way_out(asked: tuple[str, str, str], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        choose(plans("sm86", "sm89"), ENGINES, *asked)


def test_a_set_that_lacks_an_engine_is_refused() -> None:
    with pytest.raises(BundleError, match="none of decoder for tensorrt-rtx"):
        choose(plans("sm89")[:1], ENGINES, TENSORRT_RTX, "1.7.1.116", "sm89")


def test_only_execution_counts_as_executed() -> None:
    assert never_executed(plans("sm89")) == plans("sm89")
    assert not never_executed(plans("sm89", verified=EXECUTED))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flavour": "openvino"}, "flavour is 'openvino', known are tensorrt, tensorrt-rtx"),
        ({"verified": "trusted"}, "verified is 'trusted', known are built, parsed, executed"),
        ({"version": "../1.7"}, "version '../1.7' is not a version number"),
        ({"targets": ()}, "must be compute capabilities"),
        ({"targets": ("sm89", "all")}, "must be compute capabilities"),
    ],
)
def test_values_that_no_exporter_writes_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        Plan(**{**plans("sm89")[0].to_dict(), **changes})
