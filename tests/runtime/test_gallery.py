"""The gallery: what its sheets ask, what they show and say, and that its page names every sheet with what was asked."""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from runtime.emotions import EMOTIONS
from runtime.gallery import LARGEST_BYTES, _encoded
from runtime.gallery_sheets import sheets
from runtime.manifest import Manifest
from runtime.provenance import read_provenance
from runtime.request import DEFAULT_STEPS
from runtime.samples import Samples
from runtime.solvers import SOLVERS

ROOT = Path(__file__).parents[2]
DEMO, PAGE = ROOT / "bundles" / "demo", ROOT / "docs" / "gallery" / "README.md"


@pytest.fixture(scope="module")
def samples() -> Samples:
    return Samples.read(DEMO, Manifest.read(DEMO))


@pytest.fixture(scope="module")
def by_file(samples):
    shipped = Manifest.read(DEMO).guidance_scale
    return {sheet.file: sheet for sheet in sheets(samples, DEFAULT_STEPS, shipped)}


def rows_of(sheet):
    return [story.requests for story in sheet.stories]


def test_the_page_has_a_section_for_each_sheet_that_says_what_was_asked(by_file):
    _, *sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for section, sheet in zip(sections, by_file.values(), strict=True):
        title, text = section.split("\n", 1)
        assert title == sheet.title
        assert sheet.asked in text, f"{title}: say '{sheet.asked}'"
        assert re.findall(r'src="([^"]+)"', text) == [sheet.file]


def test_the_gallery_holds_no_sheet_or_all_and_each_loads_fast(by_file):
    drawn = {path.name: path for path in PAGE.parent.iterdir() if path != PAGE}
    assert not drawn or set(drawn) == set(by_file), "draw all of them: make gallery"
    for path in drawn.values():
        assert path.stat().st_size <= LARGEST_BYTES
        assert read_provenance(path)["generator"] == "ClipFaceFusion"


def test_steps_and_seeds_are_those_that_a_sheet_names(samples):
    for sheet in sheets(samples, 7, 3.0):
        if sheet.file != "steps.jpg":
            assert {request.num_inference_steps for request in sheet.requests} == {7} and "7 steps" in sheet.asked
        seeds = sorted({request.seed for request in sheet.requests})
        first, last = (int(n) for n in (re.findall(r"\d+", sheet.asked.split(",")[0]) * 2)[:2])
        assert seeds == list(range(first, last + 1)), sheet.file


def test_guidance_is_the_bundles_unless_a_sheet_varies_it(by_file):
    asked = {file: {request.guidance_scale for request in sheet.requests} for file, sheet in by_file.items()}
    assert asked.pop("guidance.jpg") == {1, 2, 3, 4, 5, 6}
    assert set().union(*asked.values()) == {None}


@pytest.mark.parametrize(
    ("file", "conditions"),
    [
        ("seeds.jpg", ("text",)),
        ("prompts.jpg", ("text",)),
        ("ages.jpg", ("age",)),
        ("emotions.jpg", ("age", "emotion")),
        ("circle.jpg", ("age", "valence_arousal")),
        ("voices.jpg", ("audio",)),
        ("moods.jpg", ("reference", "age", "emotion")),
        ("people.jpg", ("reference", "age")),
        ("steps.jpg", ("text",)),
    ],
)
def test_a_sheet_about_one_input_gives_that_input_and_no_other(by_file, file, conditions):
    assert {request.conditions for request in by_file[file].requests} == {conditions}


def test_seeds_prompts_and_ages_are_as_many_as_promised(by_file):
    assert len({request.seed for request in by_file["seeds.jpg"].requests}) == 16
    assert len({request.text for request in by_file["prompts.jpg"].requests}) == 12
    for row in rows_of(by_file["ages.jpg"]):
        assert [row[0].age, row[-1].age] == [5, 80] and len({request.seed for request in row}) == 1


def test_emotions_are_all_at_every_intensity_and_the_circle_is_one(by_file):
    for row in rows_of(by_file["emotions.jpg"]):
        assert tuple(request.emotion for request in row) == EMOTIONS
    points = [request.valence_arousal for request in by_file["circle.jpg"].requests]
    assert len(set(points)) == 21
    assert max(math.hypot(*point) for point in points) <= 1
    assert {(-valence, -arousal) for valence, arousal in points} == set(points)


def test_a_point_of_the_circle_stands_where_its_numbers_say(by_file):
    for up, story in zip((2, 1, 0, -1, -2), by_file["circle.jpg"].stories, strict=True):
        for column, request in enumerate(story.requests, start=len(story.given)):
            assert request.valence_arousal == pytest.approx(((column - 2) * 0.425, up * 0.425))


def test_every_photo_and_every_voice_of_the_bundle_is_shown(by_file, samples):
    assert {request.reference for request in by_file["people.jpg"].requests} == {p.reference for p in samples.photos}
    assert {request.audio for request in by_file["voices.jpg"].requests} == {voice.audio for voice in samples.voices}


def test_edits_start_from_the_photo_and_all_others_from_noise(by_file):
    for file, sheet in by_file.items():
        starts = {request.edit_from_timestep is not None for request in sheet.requests}
        assert starts == {file == "edits.jpg"}
    strengths = [request.options.edit_strength for request in rows_of(by_file["edits.jpg"])[-1]]
    assert strengths == sorted(set(strengths)) and (strengths[0], strengths[-1]) == (0, 1)


def test_each_input_stands_alone_and_then_joins_the_ones_before(by_file):
    alone, _, together, _ = rows_of(by_file["together.jpg"])
    added: set[str] = set()
    for one, more in zip(alone, together, strict=True):
        assert len(one.conditions) == 1
        added |= set(one.conditions)
        assert set(more.conditions) == added


def test_a_contradiction_is_each_input_alone_and_then_both_from_several_seeds(by_file):
    rows = rows_of(by_file["conflicts.jpg"])
    for first, second, *both in rows:
        assert (len(first.conditions), len(second.conditions), len(both)) == (1, 1, 4)
        for request in both:
            assert set(request.conditions) == {*first.conditions, *second.conditions}
            assert all(getattr(request, name) == getattr(first, name) for name in first.conditions)
            assert all(getattr(request, name) == getattr(second, name) for name in second.conditions)
    sad_words, happy_voice, *_ = rows[0]
    assert (sad_words.conditions, happy_voice.conditions) == (("text",), ("audio",)) and "sad" in sad_words.text


def test_a_row_of_steps_is_one_sampler_and_no_sampler_is_left_out(by_file):
    rows = rows_of(by_file["steps.jpg"])
    assert [{request.options.sampler for request in row} for row in rows] == [{name} for name in SOLVERS]
    assert all([row[0].num_inference_steps, row[-1].num_inference_steps] == [5, 50] for row in rows)


def test_a_sheet_that_would_be_large_is_encoded_until_it_is_not():
    noise = np.random.default_rng(0).integers(0, 256, (600, 800, 3), dtype=np.uint8)
    assert len(_encoded(noise, {})) <= LARGEST_BYTES
    assert len(_encoded(np.zeros_like(noise), {})) < 20_000


def test_the_command_draws_the_sheets_asked_for_and_says_what_the_estimators_see(tmp_path, capsys, monkeypatch):
    from runtime.__main__ import main

    written: list[str] = []
    write = ImageDraw.ImageDraw.text

    def remember(self, place, text, *arguments, **options):
        written.append(text)
        return write(self, place, text, *arguments, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", remember)
    command = ["gallery", str(DEMO), str(tmp_path / "sheets"), "--steps", "1", "--threads", "1"]
    assert main([*command, "--only", "moods.jpg"]) == 0
    (path,) = (tmp_path / "sheets").iterdir()
    assert re.search(r"moods\.jpg: 30 faces in \d+ s, \d+ KB", capsys.readouterr().out)
    words = " ".join(written)
    assert "1 steps" in words and "surprised" in words and "80 years" in words
    assert len(re.findall(r"id [-\d.]+, looks \d+", words)) == 30
    with Image.open(path) as sheet:
        assert sheet.format == "JPEG" and sheet.width > 7 * 128
    made = read_provenance(path)
    assert (made["num_inference_steps"], made["seed"]) == (1, 5)
    assert "after" not in made


def test_what_differs_between_the_faces_of_a_sheet_is_not_said_of_the_sheet(tmp_path):
    from runtime.gallery import _shared

    provenance = {"generator": "ClipFaceFusion", "digital_source_type": "x"}
    reports = [{"seed": seed, "num_inference_steps": 9, "provenance": provenance} for seed in (1, 2)]
    assert _shared(reports) == {"num_inference_steps": 9, "provenance": provenance}


def test_an_unknown_sheet_is_refused_with_the_names_there_are(tmp_path, capsys):
    from runtime.__main__ import main

    assert main(["gallery", str(DEMO), str(tmp_path / "sheets"), "--only", "moods.jpg", "cats.jpg"]) == 1
    error = capsys.readouterr().err
    assert "no sheet is called cats.jpg; there are seeds.jpg" in error
    assert not (tmp_path / "sheets").exists()
