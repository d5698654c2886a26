"""Settings: what is refused, how texts change them, how a batch is shared, and what the preset table says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from training.config import StageConfig, TrainConfig
from training.presets import PAPER_SEEDS, PRESETS
from training.recipe import PICTURE_STAGES, STAGES

STAGE = StageConfig(steps=10, batch_size=12, learning_rate=0.1)
MICRO, PAPER = PRESETS["micro"], PRESETS["paper"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "steps 0"),
        ({"checkpoint_every": 0}, "checkpoint_every 0"),
        ({"learning_rate": 0.0}, "learning_rate 0.0 must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate nan"),
        ({"weight_decay": -1.0}, "weight_decay -1.0"),
        ({"ema_decay": 1.0}, "ema_decay 1.0"),
        ({"micro_batches": 5}, "batch_size 12 must be a multiple of micro_batches 5"),
    ],
)
def test_a_stage_setting_outside_its_range_is_refused_by_name(wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(STAGE, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("micro_batches", "processes", "parts"),
    [(1, 1, 1), (1, 2, 2), (2, 2, 2), (3, 2, 4), (1, 4, 4), (6, 4, 12), (4, 1, 4)],
)
def test_a_batch_is_cut_so_that_processes_share_it_equally(micro_batches: int, processes: int, parts: int) -> None:
    assert dataclasses.replace(STAGE, micro_batches=micro_batches).parts(processes) == parts


def test_a_batch_that_cannot_be_shared_names_batch_and_processes() -> None:
    with pytest.raises(
        ValueError, match="batch of 12, in at least 1 micro-batches, cannot be shared equally by 5 processes"
    ):
        STAGE.parts(5)


def test_settings_change_by_text_in_order() -> None:
    changed = MICRO.with_settings(
        [
            "*.steps=7",
            "diffusion.steps=9",
            "diffusion.decay=false",
            "losses.identity=0",
            "mixture.ffhq=0.5",
            "precision=bf16",
            "people=3",
            "never=audio,text",
        ]
    )
    assert changed.stages["clip"].steps == 7 and changed.stages["diffusion"].steps == 9
    assert changed.stages["diffusion"].decay is False and changed.losses.identity == 0.0
    assert changed.mixture == {"world": 1.0, "ffhq": 0.5} and changed.precision == "bf16" and changed.people == 3
    assert changed.never == ("audio", "text") and changed.with_settings(["never="]).never == ()
    assert MICRO.stages["clip"].steps == 6


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("diffusion.stepz=5", "there is no 'stepz'; it can be steps, batch_size"),
        ("difusion.steps=5", "there is no group 'difusion'; groups are losses, mixture"),
        ("diffusion.steps=5.5", "'5.5' is not a whole number"),
        ("diffusion.decay=yes", "'yes' is not true or false"),
        ("losses.clip=-1", "loss weight clip is -1.0"),
        ("precision=fp8", "precision 'fp8', allowed fp32, bf16, fp16"),
        ("never=audio,hat", "never hat; modalities are text, audio, reference, age, emotion"),
        ("model=3", "there is no 'model'"),
        (
            "mixture.fhq=0.7",
            "mixture: fhq is not known; data sets are world, ffhq, cacd, ravdess, voxceleb, fer2013, folder",
        ),
        ("mixture.ffhq=nan", r"mixture\.ffhq nan must be a finite share of at least 0"),
        ("mixture.ffhq=inf", r"mixture\.ffhq inf must be a finite share"),
        ("people=-1", "people -1 must be at least 0"),
        ("voices=-1", "voices -1 must be at least 0"),
        ("vocabulary=0", "vocabulary 0 must be at least 1"),
        ("seed=-1", r"seed -1 must be in 0\.\.18446744073709551615"),
        ("steps", "must look like diffusion.steps=500"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_way_out(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MICRO.with_settings([text])


def test_a_source_without_a_share_is_refused_unless_it_is_alone() -> None:
    assert MICRO.sources(["folder"]).mixture == {"folder": 1.0}
    with pytest.raises(ValueError, match=r"no share for folder .* --set mixture\.folder=0\.2"):
        MICRO.sources(["world", "folder"])


def test_a_source_may_have_no_share_but_not_all_of_them() -> None:
    given = {"ffhq": Path("a"), "fer2013": Path("b")}
    assert PAPER.sources(given).mixture == {"ffhq": 0.5, "fer2013": 0.0}
    with pytest.raises(ValueError, match="one source a share of more than 0"):
        PAPER.sources(["fer2013"])
    with pytest.raises(ValueError, match=r"mixture\.cacd -0\.1 must be a finite share of at least 0"):
        PAPER.with_settings(["mixture.cacd=-0.1"])


def test_a_world_of_nobody_is_refused_where_it_is_drawn() -> None:
    nobody = MICRO.with_settings(["people=0", "mixture.folder=1"])
    assert nobody.sources(["folder"]).mixture == {"folder": 1.0}
    with pytest.raises(ValueError, match="people 0 must be at least 1 where the synthetic world is drawn"):
        nobody.sources(["world", "folder"])


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_every_preset_has_every_stage_that_its_model_has(preset: TrainConfig) -> None:
    assert tuple(preset.stages) == tuple(
        s for s in STAGES if s not in PICTURE_STAGES or preset.model.autoencoder is not None
    )


def test_the_paper_preset_is_its_table_3() -> None:
    losses = PAPER.losses
    assert (losses.clip, losses.audio_visual, losses.age, losses.emotion, losses.identity) == (0.7, 0.5, 0.4, 0.4, 1.0)
    assert (losses.cross_modal, losses.cross_modal_form) == (0.1, "literal")
    assert PAPER.mixture == {"ffhq": 0.5, "cacd": 0.3, "ravdess": 0.1, "voxceleb": 0.1, "fer2013": 0.0}
    assert PAPER.model.dropout == 0.1 and PAPER.seed == 42 and PAPER_SEEDS == (42, 123, 2024)
    for stage in (PAPER.stages["diffusion"], PAPER.stages["consistency"]):
        assert (stage.learning_rate, stage.batch_size, stage.weight_decay, stage.decay) == (2e-5, 16, 0.01, True)


def test_the_papers_other_settings_differ_in_nothing_else() -> None:
    method, grid = PRESETS["paper-method"], PRESETS["paper-grid"]
    weights = ("clip", "audio_visual", "age", "emotion", "identity")
    assert [getattr(method.losses, name) for name in weights] == [0.3, 0.2, 0.2, 0.2, 0.3]
    assert [getattr(grid.losses, name) for name in weights] == [0.28, 0.22, 0.2, 0.2, 0.18]
    assert method.stages["diffusion"].learning_rate == 1e-4
    tuned = grid.stages["consistency"]
    assert (tuned.learning_rate, tuned.batch_size, tuned.weight_decay) == (7e-5, 32, 1e-5)
    for other in (method, grid):
        assert dataclasses.replace(other, losses=PAPER.losses, stages=PAPER.stages) == PAPER
        assert {n for n in other.stages if other.stages[n] != PAPER.stages[n]} == {"diffusion", "consistency"}
