"""Edits: arithmetic over small models first, then a sampler on fake engines, then the whole way on exported ones."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from runtime import editing
from runtime.bundle import Bundle
from runtime.ddim import DDIMSolver
from runtime.editing import (
    Editor,
    EditPlan,
    InversionCache,
    feathered,
    keep_detail,
    keep_outside,
    sample_mask,
    to_levels,
)
from runtime.errors import EngineError, RequestError, UnavailableError
from runtime.guidance import Guidance
from runtime.inversion import Inversion, Inverted, edit_timesteps, steps_back
from runtime.manifest import ONNX, ONNX_FP16
from runtime.pipeline import Pipeline
from runtime.preprocess import Preprocessor
from runtime.preprocess.image import decode_image, middle_square, model_pixels
from runtime.request import EDIT_GUIDANCE_SCALE, GenerateRequest
from runtime.sampling import Sampler, SampleRequest
from runtime.schedule import Schedule
from runtime.settings import SampleSettings
from runtime.similarity import psnr_db
from runtime.spec import ModelSpec
from runtime.trajectory import GuidedTrajectory, walk
from tests.fakes import MODEL, fake_bundle
from training.checkpoint import load

DEMO = Path(__file__).parents[2] / "bundles" / "demo"
PIXELS = ModelSpec(**{**MODEL.to_dict(), "is_latent": False, "sample_shape": (3, 16, 16), "cond": {"cond": (8,)}})
RNG = np.random.default_rng(0)
PHOTO = (RNG.integers(0, 256, (1, 3, 16, 16)) / 127.5 - 1).astype(np.float32)
LEFT = np.zeros((1, 1, 16, 16), np.float32)
LEFT[..., :8] = 1


def condition(model, value):
    return {name: np.full(shape, value, np.float32) for name, shape in model.cond.items()}


def request_for(model, settings=None, **parts):
    asked = {"seed": 0, "guidance_scale": 3.0, "num_inference_steps": 6, "edit_from_timestep": 500, **(settings or {})}
    given = {"cond": condition(model, 0.4), "source_cond": condition(model, 0.1), "image": PHOTO, **parts}
    return SampleRequest(settings=SampleSettings(**{"options": {"assess": False}, **asked}), **given)


def options(**given):
    return {"options": {"assess": False, **given}}


@pytest.fixture(params=[MODEL, PIXELS], ids=["latents and tokens", "pixels and cond"])
def bundle(request, tmp_path):
    return fake_bundle(tmp_path / "bundle", request.param)


@pytest.fixture
def pixels(tmp_path):
    return fake_bundle(tmp_path / "bundle", PIXELS)


def denoise(sample, timestep, cond):
    """A model that answers from sample, timestep and cond, each row alone."""
    mean = cond["cond"].mean(axis=1)[:, None, None, None]
    return np.tanh(0.6 * sample + 0.2 * np.roll(sample, 1, -1) + mean + (timestep / 1000)[:, None, None, None]).astype(
        np.float32
    )


def edited(bundle, request, model=denoise, editor=None):
    """The final sample of an edit that has `model` to itself, and its report."""
    edit = (editor or Editor(bundle)).edit(request)
    return walk(edit.trajectory, model), edit.report


# --- what an edit computes


def test_without_strength_or_difference_the_photo_comes_back_whatever_the_guidance(pixels):
    """To DDIM's own error, which fixed-point iterations take away."""
    unchanged = condition(PIXELS, 0.1)
    for settings, parts in (
        (options(edit_strength=0.0, fixed_point_iterations=8), {}),
        (options(fixed_point_iterations=8), {"cond": unchanged}),
        ({"guidance_scale": 9.0, **options(fixed_point_iterations=8)}, {"cond": unchanged}),
    ):
        sample, _ = edited(pixels, request_for(PIXELS, settings, **parts))
        np.testing.assert_allclose(sample, PHOTO[0], atol=1e-4)
    assert np.abs(edited(pixels, request_for(PIXELS))[0] - PHOTO[0]).max() > 0.1


@pytest.mark.parametrize(("strength", "guidance_scale"), [(1.0, 1.0), (0.25, 1.0), (0.5, 3.0), (0.0, 3.0)])
def test_the_prediction_goes_from_the_source_to_the_target(pixels, strength, guidance_scale):
    """A model that answers with its cond, at one step: x0 = (x_t - √(1-ᾱ) ε) / √ᾱ shows which ε was used."""

    def answer(sample, timestep, cond):
        return np.broadcast_to(cond["cond"].mean(axis=1)[:, None, None, None], sample.shape)

    settings = {"num_inference_steps": 1, "guidance_scale": guidance_scale, **options(edit_strength=strength)}
    sample, _ = edited(pixels, request_for(PIXELS, settings), answer)
    alpha = Schedule().alphas_cumprod[500]
    up = np.sqrt(alpha) * PHOTO[0] + np.sqrt(1 - alpha) * 0.1
    eps = 0.1 + strength * guidance_scale * (0.4 - 0.1)
    np.testing.assert_allclose(sample, (up - np.sqrt(1 - alpha) * eps) / np.sqrt(alpha), atol=1e-4)


def test_without_a_described_source_the_photo_is_inverted_under_nothing(pixels):
    asked = []

    def watched(sample, timestep, cond):
        asked.append(cond["cond"].copy())
        return denoise(sample, timestep, cond)

    _, report = edited(pixels, request_for(PIXELS, source_cond=None), watched)
    up, back = asked[:6], asked[6:]
    assert all(np.array_equal(cond, pixels.uncond["cond"][None]) for cond in up)
    assert all(np.array_equal(cond, [condition(PIXELS, 0.4)["cond"], pixels.uncond["cond"]]) for cond in back)
    assert report["source"] == "none"


def test_inversion_and_generation_have_steps_of_their_own(pixels):
    edit = Editor(pixels).edit(request_for(PIXELS, {"num_inference_steps": 4, **options(inversion_steps=9)}))
    trajectory = edit.trajectory
    asked = []
    while (evaluation := trajectory.evaluation()) is not None:
        asked.append((trajectory.steps_done, evaluation.timestep, len(evaluation.conds)))
        trajectory.advance(np.zeros((len(evaluation.conds), *evaluation.sample.shape), np.float32))
    up = [(0, 0, 1), *((k + 1, 500 * k // 8, 1) for k in range(8))]
    assert asked == [*up, (9, 500, 2), (10, 333, 2), (11, 166, 2), (12, 0, 2)]
    assert trajectory.num_steps == trajectory.steps_done == 13 and trajectory.max_rows == 2
    assert edit.report["inversion_steps"] == 9


def test_source_correction_brings_an_unchanged_photo_back_exactly(pixels):
    unchanged = {"cond": condition(PIXELS, 0.1)}
    plain, _ = edited(pixels, request_for(PIXELS, **unchanged))
    exact, report = edited(pixels, request_for(PIXELS, options(source_correction=True), **unchanged))
    assert np.abs(plain - PHOTO[0]).max() > 0.03
    np.testing.assert_allclose(exact, PHOTO[0], atol=2e-6)
    assert report["source_correction"] == "round trip exact by construction"


def test_source_correction_changes_an_edit_by_what_the_inversion_missed_only(pixels):
    changed, _ = edited(pixels, request_for(PIXELS, options(source_correction=True)))
    assert np.abs(changed - PHOTO[0]).max() > 0.1


@pytest.mark.parametrize(
    "change",
    [
        {"edit_from_timestep": 300},
        {"guidance_scale": 2.0},
        {"num_inference_steps": 7},
        options(edit_strength=0.5),
        options(inversion_steps=12),
        options(fixed_point_iterations=1),
        options(source_correction=True),
        {"source_cond": None},
        {"cond": condition(PIXELS, 0.3)},
        {"mask": LEFT},
        {"image": -PHOTO},
    ],
    ids=lambda change: next(iter(change.get("options", change))),
)
def test_every_setting_of_an_edit_changes_it(pixels, change):
    parts = {name: value for name, value in change.items() if name in ("source_cond", "cond", "mask", "image")}
    settings = {name: value for name, value in change.items() if name not in parts}
    assert not np.array_equal(
        edited(pixels, request_for(PIXELS))[0], edited(pixels, request_for(PIXELS, settings, **parts))[0]
    )


def test_the_seed_has_no_say(pixels):
    first, other = (edited(pixels, request_for(PIXELS, {"seed": seed}))[0] for seed in (0, 1))
    np.testing.assert_array_equal(first, other)


# --- masks


def test_outside_the_mask_every_step_is_the_inversion_s_own_sample(pixels):
    trajectory = Editor(pixels).edit(request_for(PIXELS, mask=LEFT)).trajectory
    levels = [PHOTO[0]]
    while (evaluation := trajectory.evaluation()) is not None:
        rows, timestep = len(evaluation.conds), evaluation.timestep
        cond = {"cond": np.stack([each["cond"] for each in evaluation.conds])}
        before = trajectory.steps_done
        trajectory.advance(denoise(np.repeat(evaluation.sample[None], rows, 0), np.full(rows, timestep), cond))
        if before < 6:
            levels.append(trajectory.sample.copy())
        else:
            np.testing.assert_array_equal(trajectory.sample[..., 8:], levels[11 - before][..., 8:])
            assert not np.array_equal(trajectory.sample[..., :8], levels[11 - before][..., :8])


@pytest.mark.parametrize("model", [MODEL, PIXELS], ids=["latents", "pixels"])
def test_outside_the_mask_the_picture_is_the_photo_bit_for_bit(tmp_path, model):
    with Sampler(fake_bundle(tmp_path / "bundle", model)) as sampler:
        result = sampler.submit(request_for(model, mask=LEFT)).result(30)
    photo = np.rint((PHOTO[0].transpose(1, 2, 0) + 1) * 127.5).astype(np.uint8)
    np.testing.assert_array_equal(result.image[:, 8:], photo[:, 8:])
    assert (result.image[:, :6] != photo[:, :6]).mean() > 0.5
    assert result.report["edit"]["masked"]


def test_a_black_mask_gives_the_photo_and_a_white_one_the_whole_edit(bundle):
    model = bundle.model
    with Sampler(bundle) as sampler:
        white, black = (
            sampler.submit(request_for(model, mask=np.full_like(LEFT, value))).result(30).image for value in (1, 0)
        )
        whole = sampler.submit(request_for(model)).result(30).image
    np.testing.assert_array_equal(black, np.rint((PHOTO[0].transpose(1, 2, 0) + 1) * 127.5))
    assert np.abs(white.astype(int) - whole).max() <= 1


def test_a_latent_cell_may_change_when_any_of_its_pixels_may():
    mask = np.zeros((16, 16), np.float32)
    mask[5, 9] = 0.5
    cells = sample_mask(mask, (2, 4, 4))
    assert cells.shape == (1, 4, 4) and cells[0, 1, 2] == 0.5 and np.count_nonzero(cells) == 1
    np.testing.assert_array_equal(sample_mask(mask, (3, 16, 16))[0], mask)


def test_a_mask_rises_inwards_from_its_edge_and_never_leaves_it():
    mask = np.zeros((128, 128), np.float32)
    mask[32:96, 32:96] = 1
    weight = feathered(mask)
    assert not weight[mask == 0].any()
    np.testing.assert_allclose(weight[64, 30:37], [0, 0, 1 / 3, 2 / 3, 1, 1, 1], atol=1e-6)
    assert feathered(np.ones((64, 64), np.float32)).min() == 1, "the border of the picture is no edge"


def test_a_thin_mask_is_not_lost():
    mask = np.zeros((128, 128), np.float32)
    mask[64] = 1
    assert feathered(mask)[64].min() > 0.3


def test_inside_the_mask_photo_and_edit_are_mixed_by_its_weight():
    photo, picture = np.full((3, 64, 64), -1, np.float32), np.full((64, 64, 3), 200, np.uint8)
    mask = np.zeros((64, 64), np.float32)
    mask[:, 32:] = 1
    levels = keep_outside(picture, photo, mask)[32, 30:36, 0]
    assert levels.tolist() == [0, 0, 100, 200, 200, 200]


# --- what is refused


@pytest.mark.parametrize(
    ("settings", "parts", "field", "message"),
    [
        ({}, {"image": None}, "reference", "missing"),
        ({"num_inference_steps": 40, "edit_from_timestep": 10}, {}, "num_inference_steps", "got 40; an edit from timestep 10 takes 1..11"),
        ({"edit_from_timestep": 10, **options(inversion_steps=12)}, {}, "options.inversion_steps", "got 12; an edit from timestep 10"),
        (options(inversion_steps=9), {"mask": LEFT}, "options.inversion_steps", "got 9; mask needs as many as num_inference_steps, 6"),
        (options(inversion_steps=9, source_correction=True), {}, "options.inversion_steps", "got 9; options.source_correction needs"),
    ],
)  # fmt: skip
def test_what_cannot_be_edited_is_refused_by_name_before_any_model_runs(pixels, settings, parts, field, message):
    with Sampler(pixels) as sampler, pytest.raises(RequestError, match=message) as caught:
        sampler.submit(request_for(PIXELS, settings, **parts))
    assert caught.value.field == field and not pixels.engine("unet").calls


@pytest.mark.parametrize(("settings", "parts", "most"), [({}, {"mask": LEFT}, 5), (options(source_correction=True), {"mask": LEFT}, 2)])  # fmt: skip
def test_an_inversion_that_would_be_too_large_to_keep_is_refused(pixels, monkeypatch, settings, parts, most):
    monkeypatch.setattr(editing, "KEPT_BYTES", 5 * 4 * np.prod(pixels.model.sample_shape))
    with (
        Sampler(pixels) as sampler,
        pytest.raises(RequestError, match=f"got 6; .* takes at most {most} here") as caught,
    ):
        sampler.submit(request_for(PIXELS, settings, **parts))
    assert caught.value.field == "num_inference_steps" and not pixels.engine("unet").calls


def test_a_schedule_with_fewer_timesteps_than_t0_is_refused():
    with pytest.raises(RequestError, match=r"edit_from_timestep: got 500, allowed 1\.\.199"):
        EditPlan.of(request_for(PIXELS).settings, Schedule(num_train_timesteps=200), has_mask=False)


@pytest.mark.parametrize("name", ["edit_strength", "inversion_steps", "source_text", "source_correction"])
def test_an_edit_s_options_without_an_edit_are_refused(name):
    value = {"edit_strength": 0.5, "inversion_steps": 5, "source_text": "a man", "source_correction": True}[name]
    with pytest.raises(RequestError, match=f"options.{name}: given without edit_from_timestep"):
        GenerateRequest(age=3, options={name: value})


# --- the cache


def calls_of(bundle, editor, request):
    """Rows that the model was asked for one edit, and whether the report says that its inversion was known."""
    rows = []

    def counted(sample, timestep, cond):
        rows.append(len(sample))
        return denoise(sample, timestep, cond)

    _, report = edited(bundle, request, counted, editor)
    return rows, report["inversion_cached"]


def test_a_strip_of_edits_inverts_its_photo_once_and_each_is_what_it_is_alone(pixels):
    editor = Editor(pixels)
    first = request_for(PIXELS)
    assert calls_of(pixels, editor, first) == ([1] * 6 + [2] * 6, False)
    for changed in (
        request_for(PIXELS, cond=condition(PIXELS, 0.9)),
        request_for(PIXELS, {"guidance_scale": 2.0, "num_inference_steps": 6}),
        request_for(PIXELS, options(edit_strength=0.3)),
    ):
        assert calls_of(pixels, editor, changed) == ([2] * 6, True)
        np.testing.assert_array_equal(edited(pixels, changed, editor=editor)[0], edited(pixels, changed)[0])


def test_a_known_photo_is_not_encoded_again(tmp_path):
    bundle = fake_bundle(tmp_path / "bundle")
    with Sampler(bundle) as sampler:
        reports = [sampler.submit(request_for(MODEL)).result(30).report for _ in range(2)]
    assert [report["edit"]["inversion_cached"] for report in reports] == [False, True]
    assert len(bundle.engine("encoder").calls) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"image": PHOTO + np.float32(2.0**-10)},
        {"source_cond": condition(PIXELS, 0.2)},
        {"settings": {"edit_from_timestep": 400}},
        {"settings": options(inversion_steps=7)},
        {"settings": options(fixed_point_iterations=1)},
        {"settings": options(source_correction=True)},
        {"settings": {"tenant": "somebody else"}},
        {"mask": LEFT},
    ],
    ids=lambda change: str(next(iter(change.get("settings", change)))),
)
def test_another_inversion_is_not_taken_for_the_same(pixels, change):
    editor = Editor(pixels)
    calls_of(pixels, editor, request_for(PIXELS))
    assert calls_of(pixels, editor, request_for(PIXELS, **change))[1] is False


def test_the_cache_holds_what_was_used_last_and_no_more_than_fits():
    def entry(size):
        nothing = np.zeros((0,), np.float32)
        return Inverted(nothing, np.zeros((1, 1, size), np.float32))

    cache = InversionCache(max_bytes=100)
    cache.put("a", entry(10))
    cache.put("b", entry(10))
    assert cache.get("a") is not None
    cache.put("c", entry(10))  # 120 bytes: b goes, a was used since
    assert [cache.get(key) is not None for key in "abc"] == [True, False, True]
    cache.put("d", entry(26))
    assert cache.get("d") is None and cache.get("c") is not None, "larger than all memory"


# --- the whole way


@pytest.fixture(scope="module")
def photo() -> bytes:
    file = io.BytesIO()
    levels = np.linspace(0, 255, 96 * 96 * 3).reshape(96, 96, 3).astype(np.uint8)
    Image.fromarray(levels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def micro(micro_bundle):
    with Pipeline.open(micro_bundle, engine="onnxruntime", threads=1) as pipeline:
        yield pipeline


def edit_of(photo, **fields):
    return GenerateRequest(**{"reference": photo, "edit_from_timestep": 500, "num_inference_steps": 4, "seed": 1, **fields})  # fmt: skip


def test_an_edit_alone_and_among_strangers_is_one_picture(tmp_path, photo):
    """On engines whose rows are independent to the last bit: generations, another photo's edit, and two of the same photo."""
    with Pipeline(fake_bundle(tmp_path / "bundle")) as pipeline:
        alone = pipeline(edit_of(photo, age=70)).image
    with Pipeline(fake_bundle(tmp_path / "again")) as pipeline:
        strangers = [GenerateRequest(age=10 * n, seed=n, num_inference_steps=3 + n) for n in range(3)]
        requests = [*strangers, edit_of(photo, age=20), edit_of(photo, age=70), edit_of(photo, emotion="sad")]
        among = pipeline.batch(requests)[4].image
        np.testing.assert_array_equal(among, alone)
        np.testing.assert_array_equal(pipeline(requests[4]).image, alone)  # from the cache


@pytest.mark.parametrize(
    "change",
    [
        {"age": 20},
        {"emotion": "angry"},
        {"text": "an angry young woman"},
        {"edit_from_timestep": 300},
        {"guidance_scale": 1.5},
        {"options": {"source": "none"}},
        {"options": {"source_text": "a sad boy"}},
        {"options": {"edit_strength": 0.2}},
    ],
    ids=str,
)
def test_every_field_changes_an_edit_on_a_real_engine(micro, photo, change):
    assert not np.array_equal(micro(edit_of(photo, age=70)).image, micro(edit_of(photo, **{"age": 70, **change})).image)


def test_nothing_asked_is_nothing_edited(micro, photo):
    """A photo alone: what it leaves open is estimated from it, so target and source are the same."""
    nothing, none_wanted = (
        micro(edit_of(photo, **change)) for change in ({}, {"age": 70, "options": {"edit_strength": 0}})
    )
    assert np.abs(nothing.image.astype(int) - none_wanted.image).max() <= 1


def test_a_masked_edit_keeps_the_rest_of_a_real_photo(micro, photo):
    size = micro.bundle.model.image_size
    file = io.BytesIO()
    mask = np.zeros((96, 96), np.uint8)
    mask[:48] = 255
    Image.fromarray(mask).save(file, "PNG")
    result = micro(edit_of(photo, age=70, mask=file.getvalue()))
    original = np.asarray(Image.open(io.BytesIO(photo)).resize((size, size), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(result.image[size // 2 :], original[size // 2 :])
    assert (result.image[: size // 4] != original[: size // 4]).any()


def test_the_report_of_an_edit_says_how_it_was_made(micro, photo):
    report = micro(edit_of(photo, age=70, options={"inversion_steps": 6, "fixed_point_iterations": 1})).report
    assert report["edit"] == {
        "t0": 500,
        "inversion_steps": 6,
        "fixed_point_iterations": 1,
        "source": "photo",
        "edit_strength": 1.0,
        "source_correction": None,
        "masked": False,
        "detail_kept": True,
        "inversion_cached": False,
    }
    assert report["unet_calls"] == 6 * 2 + 4


def test_an_edit_is_guided_less_than_a_new_face_unless_it_says_how_much(tmp_path, photo):
    prepare = Preprocessor(MODEL, fake_bundle(tmp_path / "bundle").tokenizer_path, 7.0)
    requests = [edit_of(photo), edit_of(photo, options={"source": "none"}), edit_of(photo, guidance_scale=4.0)]
    scales = [SampleSettings.from_array(prepare(request).settings).guidance_scale for request in requests]
    assert scales == [EDIT_GUIDANCE_SCALE, 7.0, 4.0]


def test_steps_of_both_ways_are_told(micro, photo):
    steps = []
    micro(edit_of(photo, age=30, num_inference_steps=3), on_step=lambda k, n, sample: steps.append((k, n)))
    assert steps == [(k, 6) for k in range(6)]


# --- detail


def test_where_nothing_changed_the_photo_itself_comes_back_and_where_it_did_the_edit_stays():
    rng = np.random.default_rng(0)
    decoded = rng.integers(60, 190, (64, 64, 3)).astype(np.uint8)
    photo = np.clip(decoded + rng.integers(-15, 16, decoded.shape), 0, 255).astype(np.uint8)
    picture = decoded.copy()
    picture[:32] = 255 - picture[:32] // 4  # by 60 levels and more
    kept = keep_detail(picture, (photo.transpose(2, 0, 1) / 127.5 - 1).astype(np.float32), decoded)
    np.testing.assert_array_equal(kept[40:], photo[40:])
    np.testing.assert_array_equal(kept[:24], picture[:24])


def test_detail_is_kept_of_latents_unless_it_is_not_wanted(tmp_path):
    with Sampler(fake_bundle(tmp_path / "bundle")) as sampler:
        unchanged = [
            request_for(MODEL, options(keep_detail=keep), cond=condition(MODEL, 0.1)) for keep in (True, False)
        ]
        results = [sampler.submit(request).result(30) for request in unchanged]
    assert [result.report["edit"]["detail_kept"] for result in results] == [True, False]
    assert not np.array_equal(results[0].image, results[1].image)


def test_a_photo_that_nothing_is_asked_of_comes_back_with_all_its_detail(demo, demo_photo):
    """The autoencoder alone reaches 34.6 dB on this photo."""
    original = middle_square(decode_image(demo_photo), demo.bundle.model.image_size)
    result = demo(
        GenerateRequest(reference=demo_photo, edit_from_timestep=500, num_inference_steps=20, guidance_scale=1)
    )
    assert psnr_db(original, result.image) > 44


# --- the round trip of the shipped model, t0 = 500 with 50 steps inside


@pytest.fixture(scope="module")
def demo():
    with Pipeline.open(DEMO) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def demo_photo() -> bytes:
    return (DEMO / "samples" / "photo.jpg").read_bytes()


def test_the_round_trip_loses_little_beside_the_autoencoder_and_nothing_with_two_fixed_point_iterations(
    demo, demo_photo
):
    """Measured: 0.11 dB and 0.001 dB over four people, in torch, ONNX and the FP16 graph alike (docs/editing.md)."""
    original = middle_square(decode_image(demo_photo), demo.bundle.model.image_size)
    latents = demo.bundle.engine("encoder")({"image": model_pixels(original, len(original))})["latents"]
    best = psnr_db(original, to_levels(demo.bundle.engine("decoder")({"latents": latents})["image"][0]))
    plain, refined = (
        psnr_db(original, result.image)
        for result in demo.batch(
            GenerateRequest(
                reference=demo_photo,
                edit_from_timestep=500,
                guidance_scale=1,
                options={"keep_detail": False, "fixed_point_iterations": iterations},
            )
            for iterations in (0, 2)
        )
    )
    assert plain > best - 0.5 and refined > best - 0.05


def test_torch_onnx_and_the_fp16_graph_make_the_same_round_trip(full_bundle, micro_checkpoint):
    """Of an untrained model, in its latents, at 12 steps: 27.3 dB each; with two iterations what is left is each one's rounding."""
    model = load(micro_checkpoint).eval()
    with Bundle.open(full_bundle, engine="onnxruntime", threads=1) as bundle:
        engines = [bundle.engine("unet", kind) for kind in (ONNX, ONNX_FP16)]

        def in_torch(sample, timestep, cond):
            arrays = (torch.from_numpy(np.ascontiguousarray(array)) for array in (sample, timestep, *cond.values()))
            with torch.no_grad():
                return model.denoise(*arrays).numpy()

        def in_engine(engine):
            return lambda sample, timestep, cond: engine({"sample": sample, "timestep": timestep, **cond})["noise_pred"]

        channels, height, width = bundle.model.sample_shape
        y, x = np.mgrid[0:height, 0:width] / height
        clean = np.stack([np.sin(3 * x + k) * np.cos(4 * y - k) for k in range(channels)]).astype(np.float32)
        cond = {name: bundle.uncond[name] for name in bundle.model.cond}
        grid = edit_timesteps(500, 12)
        trips = []
        for iterations in (0, 2):
            for denoise in (in_torch, *(in_engine(engine) for engine in engines)):
                inversion = Inversion(bundle.schedule, clean, cond, grid, iterations)
                up = walk(inversion, denoise)
                solver = DDIMSolver(steps_back(bundle.schedule, grid), clean.shape)
                back = walk(GuidedTrajectory(up, Guidance(cond), solver), denoise)
                trips.append(10 * np.log10(4 / np.mean((back - clean) ** 2)))
    plain, refined = trips[:3], trips[3:]
    assert max(plain) - min(plain) < 0.1 and min(plain) > 25
    assert min(refined) > 55


# --- an edit begins with its photo being encoded, on a thread of its own


def hold(bundle, engine):
    """Make that engine wait; returns when it was reached and what lets it go on."""
    reached, go_on, original = threading.Event(), threading.Event(), bundle.engine(engine)

    def slow(inputs):
        reached.set()
        assert go_on.wait(30)
        return original(inputs)

    bundle._engines["onnx", engine] = slow
    return reached, go_on


def test_what_is_submitted_is_finished_though_its_photo_is_still_being_encoded(tmp_path):
    bundle = fake_bundle(tmp_path / "bundle")
    reached, go_on = hold(bundle, "encoder")
    sampler = Sampler(bundle)
    future = sampler.submit(request_for(MODEL))
    assert reached.wait(30)
    closing = threading.Thread(target=sampler.close)
    closing.start()
    go_on.set()
    closing.join(30)
    assert future.done() and future.result().image.shape == (16, 16, 3)
    with pytest.raises(UnavailableError):
        sampler.submit(request_for(MODEL))


def test_nobody_else_waits_while_a_photo_is_being_encoded(tmp_path):
    bundle = fake_bundle(tmp_path / "bundle", PIXELS)
    editor_waits, go_on = threading.Event(), threading.Event()
    with Sampler(bundle) as sampler:
        encode = sampler._editor._encode

        def slow(image):
            editor_waits.set()
            assert go_on.wait(30)
            return encode(image)

        sampler._editor._encode = slow
        edit = sampler.submit(request_for(PIXELS))
        assert editor_waits.wait(30)
        steps = threading.Event()
        generation = SampleRequest(condition(PIXELS, 0.4), SampleSettings(1, 2.0, 3), on_step=lambda k, n, s: k == 2 and steps.set())  # fmt: skip
        future = sampler.submit(generation)
        assert steps.wait(30) and not edit.done(), "all steps of a later request are done"
        go_on.set()
        assert future.result(30).image.shape == edit.result(30).image.shape


def test_a_cancelled_edit_is_not_begun(tmp_path):
    bundle = fake_bundle(tmp_path / "bundle")
    reached, go_on = hold(bundle, "encoder")
    with Sampler(bundle) as sampler:
        first, second = (sampler.submit(request_for(MODEL)) for _ in range(2))
        assert reached.wait(30) and second.cancel()
        go_on.set()
        assert first.result(30).image.any()
    assert sampler.stats.submitted == 1 and second.cancelled()


def test_an_encoder_that_gives_nan_fails_the_edit_with_a_coded_error(tmp_path):
    bundle = fake_bundle(tmp_path / "bundle")
    bundle._engines["onnx", "encoder"] = lambda inputs: {"latents": np.full((1, 2, 4, 4), np.nan, np.float32)}
    with Sampler(bundle) as sampler, pytest.raises(EngineError, match="encoder: output 'latents' is not finite"):
        sampler.submit(request_for(MODEL)).result(30)


def test_a_unet_that_gives_nan_names_the_step_and_leaves_nothing_in_the_cache(tmp_path, monkeypatch):
    bundle = fake_bundle(tmp_path / "bundle")
    unet = bundle.engine("unet")
    with Sampler(bundle) as sampler:
        with monkeypatch.context() as patch:
            patch.setattr(sampler, "_unet", lambda inputs: {"noise_pred": unet(inputs)["noise_pred"] * np.nan})
            with pytest.raises(EngineError, match="not finite at step 0"):
                sampler.submit(request_for(MODEL)).result(30)
        assert not sampler.submit(request_for(MODEL)).result(30).report["edit"]["inversion_cached"]


def test_an_edit_s_time_is_told_in_parts(tmp_path):
    with Sampler(fake_bundle(tmp_path / "bundle")) as sampler:
        timings = sampler.submit(request_for(MODEL)).result(30).report["timings_ms"]
    assert set(timings) == {"encode", "queue", "sample", "decode"}
