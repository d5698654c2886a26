"""The command `edit`: one picture or a labelled sheet, in process or over a server, the photo inverted once for all."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import runtime.client
import runtime.pipeline
from runtime.__main__ import main
from runtime.edit_command import COLUMNS, DEFAULT_T0, edit, sheet_rows
from runtime.provenance import read_provenance
from runtime.request import GenerateRequest, GenerateResult
from runtime.sheet import CELL, sheet_size
from runtime.sweep import Sweep, variations
from tests.fakes import MODEL, fake_bundle

PHOTO = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)


@pytest.fixture
def photo(tmp_path) -> str:
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    return str(tmp_path / "photo.png")


@pytest.fixture
def faked(monkeypatch, tmp_path):
    """`edit` in this process, on a bundle of fakes; what the pipeline was opened with."""
    opened = []

    def open_fakes(folder, engine, threads, face_pack):
        opened.append(face_pack)
        return runtime.pipeline.Pipeline(fake_bundle(tmp_path / f"bundle-{len(opened)}"))

    monkeypatch.setattr(runtime.pipeline.Pipeline, "open", open_fakes)
    return opened


def run(tmp_path: Path, photo: str, *flags: str, out: str = "out.png") -> int:
    return main(
        ["edit", "B", "--reference", photo, "--steps", "3", "--seed", "1", "--out", str(tmp_path / out), *flags]
    )


def test_one_edit_is_one_picture_from_the_paper_s_t0(faked, tmp_path, photo, capsys):
    assert run(tmp_path, photo, "--age", "70") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["edit"]["t0"] == DEFAULT_T0 == 500 and printed["conditions"] == ["reference", "age"]
    found = read_provenance(tmp_path / "out.png")
    assert found["edit"] == printed["edit"] and "sweep" not in found
    assert found["digital_source_type"].endswith("/compositeWithTrainedAlgorithmicMedia")
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.size == (MODEL.image_size, MODEL.image_size)


def test_t0_and_a_mask_reach_the_edit(faked, tmp_path, photo, capsys):
    Image.new("L", (90, 60), "white").save(tmp_path / "mask.png")
    assert run(tmp_path, photo, "--age", "70", "--t0", "300", "--mask", str(tmp_path / "mask.png")) == 0
    report = json.loads(capsys.readouterr().out)["edit"]
    assert (report["t0"], report["masked"]) == (300, True)


def test_a_sweep_inverts_the_photo_once(faked, tmp_path, photo, capsys):
    assert run(tmp_path, photo, "--sweep", "age=20:70:6") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["sweep"] == {"age": [20, 30, 40, 50, 60, 70]}
    assert [report["edit"]["inversion_cached"] for report in printed["reports"]] == [False] + [True] * 5


def test_the_sheet_says_what_was_swept_and_the_animation_too(faked, tmp_path, photo):
    assert run(tmp_path, photo, "--sweep", "age=20:70:3", "--animate", str(tmp_path / "strip.webp")) == 0
    for name in ("out.png", "strip.webp"):
        found = read_provenance(tmp_path / name)
        assert found["sweep"] == {"age": [20, 45, 70]} and found["edit"]["t0"] == 500 and found["seed"] == 1
    with Image.open(tmp_path / "strip.webp") as animation:
        assert animation.n_frames == 4 and animation.width == 2 * CELL


def test_pictures_of_a_sweep_are_what_single_edits_make(faked, tmp_path, photo, monkeypatch):
    """The sheet is no other way of making them: each cell is the answer to its request alone."""
    cells = []
    monkeypatch.setattr("runtime.edit_command.captioned", lambda image, label: cells.append((label, image)) or image)
    run(tmp_path, photo, "--sweep", "emotion=happy,sad", "--animate", str(tmp_path / "strip.gif"))
    for label, image in cells:
        run(tmp_path, photo, "--emotion", label, out=f"{label}.png")
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / f"{label}.png")), image)


def test_the_face_goes_back_into_the_photo(faked, tmp_path, photo):
    assert run(tmp_path, photo, "--age", "70", "--paste-back") == 0
    pasted = np.asarray(Image.open(tmp_path / "out.png"))
    assert pasted.shape == PHOTO.shape
    np.testing.assert_array_equal(pasted[:, :15], PHOTO[:, :15])  # the middle square begins there
    assert (pasted[25:35, 40:50] != PHOTO[25:35, 40:50]).any()


def test_a_server_answers_the_same_command(monkeypatch, tmp_path, photo, capsys):
    asked = []

    class FakeClient:
        def __init__(self, url, timeout_s, access):
            asked.append((url, timeout_s, access.tenant, access.token))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __call__(self, request):
            asked.append((request.age, request.edit_from_timestep))
            return result(int(request.age))

    monkeypatch.setattr(runtime.client, "Client", FakeClient)
    monkeypatch.setenv("CLIPFACEFUSION_TOKEN", "secret")
    access = ["--tls", "--tenant", "museum"]
    flags = ["--url", "host:1", "--timeout", "7", *access, "--reference", photo, "--sweep", "age=20,70"]
    assert main(["edit", *flags, "--out", str(tmp_path / "out.png")]) == 0
    assert asked == [("host:1", 7.0, "museum", "secret"), (20.0, 500), (70.0, 500)]
    assert json.loads(capsys.readouterr().out)["sweep"] == {"age": [20, 70]}


def test_the_face_pack_reaches_the_pipeline(faked, tmp_path, photo):
    assert run(tmp_path, photo, "--face-pack", "packs/mine") == 0
    assert faked == [Path("packs/mine")]


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--sweep", "height=1,2", "--reference", "PHOTO"], 2, "sweep: got 'height'"),
        (["--sweep", "age=20,130", "--reference", "PHOTO"], 2, "age: got 130, allowed 0..120"),
        (["--age", "70"], 2, "reference: missing; an edit changes a photo"),
        (["--animate", "a.gif", "--reference", "PHOTO"], 2, "sweep: missing; an animation shows the pictures of one"),
        (["--face-index", "1", "--reference", "PHOTO"], 2, "options.face_index: no face detector is at work here"),
        (["--url", "host:1", "--reference", "PHOTO"], 1, "edit: give a BUNDLE to edit in this process, or --url"),
    ],
)
def test_what_cannot_be_edited_is_one_line(faked, tmp_path, photo, capsys, flags, status, message):
    flags = [photo if flag == "PHOTO" else flag for flag in flags]
    assert main(["edit", "B", "--out", str(tmp_path / "out.png"), *flags]) == status
    captured = capsys.readouterr()
    assert captured.err.startswith(f"clipfacefusion: {message}") and captured.err.count("\n") == 1
    assert not (tmp_path / "out.png").exists()


@pytest.mark.parametrize("flags", [["--animate", "strip.png"], ["--animate", "/nowhere/a.gif"], ["--out", "x.gif"]])
def test_a_file_that_cannot_be_written_is_refused_before_anything_runs(faked, tmp_path, photo, capsys, flags):
    with pytest.raises(SystemExit):
        run(tmp_path, photo, "--sweep", "age=20,70", *flags)
    assert flags[0] in capsys.readouterr().err and not faked


def result(shade: int) -> GenerateResult:
    crop = {"photo": [90, 60], "size": 16, "matrix": [[0.2, 0, 0], [0, 0.2, 0]]}
    report = {"bundle": "fake", "num_inference_steps": 3, "guidance_scale": 2.0, "edit": {"t0": 500}, "crop": crop}
    return GenerateResult(np.full((16, 16, 3), shade, np.uint8), report)


def photo_request() -> GenerateRequest:
    file = io.BytesIO()
    Image.fromarray(PHOTO).save(file, "PNG")
    return GenerateRequest(reference=file.getvalue(), edit_from_timestep=500)


def test_the_first_picture_runs_alone_and_an_error_ends_the_rest():
    order = []

    def generate(request):
        order.append(request.age)
        if request.age == 40:
            raise ValueError("a picture failed")
        return result(1)

    asked = [each.request for each in variations(photo_request(), [Sweep.parse("age=20:70:6")])]
    with pytest.raises(ValueError, match="a picture failed"):
        edit(generate, asked, lambda: None)
    assert order[0] == 20 and order.count(20) == 1


def rows_of(*sweeps: str):
    parsed = [Sweep.parse(text) for text in sweeps]
    asked = variations(photo_request(), parsed)
    return sheet_rows(PHOTO, parsed, asked, [result(n) for n in range(len(asked))])


def labels(row) -> list[str | None]:
    return [cell and cell.label for cell in row.cells]


def test_a_strip_begins_with_the_photo():
    (row,) = rows_of("age=20,45,70")
    assert row.title == "Age" and labels(row) == ["the photo", "20 years", "45 years", "70 years"]
    np.testing.assert_array_equal(row.cells[0].picture, PHOTO)


def test_a_grid_has_the_first_sweep_downwards_and_columns_that_align():
    rows = rows_of("emotion=happy,sad", "age=20,70")
    assert [row.title for row in rows] == ["Emotion happy", "Emotion sad"]
    assert [row.note for row in rows] == ["across: age", ""]
    assert [labels(row) for row in rows] == [["the photo", "20 years", "70 years"], [None, "20 years", "70 years"]]
    assert [int(cell.picture[0, 0, 0]) for row in rows for cell in row.cells[1:]] == [0, 1, 2, 3]


def test_a_long_strip_goes_on_in_the_next_row():
    first, second = rows_of("age=1:100:10")
    assert len(first.cells) == COLUMNS and labels(second) == [None, "89 years", "100 years"]
    assert second.title == ""
    assert sheet_size([first, second])[0] == sheet_size([first])[0]


@pytest.mark.parametrize(("count", "side"), [(4, 3), (8, 3), (12, 5), (16, 5)])
def test_a_circle_is_laid_out_around_the_photo_with_valence_to_the_right_and_arousal_upwards(count, side):
    rows = rows_of(f"circumplex={count}")
    places = {cell.label: (x, y) for y, row in enumerate(rows) for x, cell in enumerate(row.cells) if cell}
    middle = side // 2
    assert len(rows) == len(rows[0].cells) == side and len(places) == count + 1
    assert places["the photo"] == (middle, middle)
    assert places["valence\u00a0+0.85, arousal\u00a0+0"] == (side - 1, middle)
    assert places["valence\u00a0+0, arousal\u00a0+0.85"] == (middle, 0)


def test_under_each_picture_stands_what_the_networks_see():
    def notes(*sweeps: str) -> list[str]:
        parsed = [Sweep.parse(text) for text in sweeps]
        asked = variations(photo_request(), parsed)
        assessed = {
            "id_sim": 0.912,
            "before": {"age": 31.2, "emotion": "sad"},
            "after": {"age": 66.4, "emotion": "happy"},
        }
        shown = [GenerateResult(result(1).image, result(1).report | assessed)] * len(asked)
        return [cell.note for cell in sheet_rows(PHOTO, parsed, asked, shown)[0].cells[:2]]

    assert notes("age=70,80") == ["looks 31", "id 0.91, looks 66"]
    assert notes("emotion=happy,sad") == ["looks sad", "id 0.91, looks happy"]
    assert notes("t0=300,500") == ["", "id 0.91"]
    assert rows_of("age=70,80")[0].cells[1].note == ""


def test_three_sweeps_title_each_row_with_two_values():
    assert [row.title for row in rows_of("t0=300,500", "emotion=happy,sad", "age=20,70")] == [
        f"Noise level t0 {t0}, emotion {emotion}" for t0 in (300, 500) for emotion in ("happy", "sad")
    ]


def test_the_subtitle_names_what_all_pictures_share_and_not_what_is_swept(faked, tmp_path, photo, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "runtime.edit_command.draw_sheet", lambda *given: drawn.append(given[1]) or Image.new("RGB", (9, 9))
    )
    run(tmp_path, photo, "--sweep", "age=20,70", "--guidance", "2")
    run(tmp_path, photo, "--sweep", "t0=300,500", "--guidance", "2")
    id_sim = "id: cosine to the photo's identity"
    assert drawn == [f"fake, t0 500, 3 steps, guidance 2, {id_sim}", f"fake, 3 steps, guidance 2, {id_sim}"]
