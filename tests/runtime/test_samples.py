"""What a bundle brings to be tried with: read with its truth, found by its mood, refused where something is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from runtime.errors import BundleError
from runtime.manifest import Manifest, sha256_of
from runtime.samples import Photo, Samples, Voice

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "bundles" / "demo"
PHOTO = Photo(b"jpeg", "female", 30.8)


def written(folder: Path, described: dict) -> SimpleNamespace:
    """A manifest of a folder with these samples, each file of which holds its own name."""
    (folder / "samples").mkdir()
    photos = [described[name] for name in ("photo",) if name in described] + described.get("more_photos", [])
    for sample in (*photos, *described["voices"]):
        (folder / "samples" / sample["file"]).write_text(sample["file"])
    (folder / "samples" / "samples.json").write_text(json.dumps(described))
    files = {
        f"samples/{path.name}": {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in (folder / "samples").iterdir()
    }
    return SimpleNamespace(name="tried", files=files)


def voice(emotion: str, sex: str = "male") -> dict:
    return {"file": f"{emotion}-{sex}.wav", "sex": sex, "age": 40.0, "emotion": emotion}


def test_photos_and_voices_are_read_with_their_truth_the_portrait_first(tmp_path):
    described = {
        "photo": {"file": "a.jpg", "sex": "male", "age": 28.1},
        "more_photos": [{"file": "b.jpg", "sex": "female", "age": 54.9}],
        "voices": [voice("sad")],
    }
    samples = Samples.read(tmp_path, written(tmp_path, described))
    assert samples.photos == (Photo(b"a.jpg", "male", 28.1), Photo(b"b.jpg", "female", 54.9))
    assert samples.photo.label == "male, 28" and samples.photo == samples.photos[0]
    assert samples.voices == (Voice(b"sad-male.wav", "male", 40.0, "sad"),)


def test_a_bundle_with_one_photo_has_one(tmp_path):
    described = {"photo": {"file": "a.jpg", "sex": "male", "age": 28.1}, "voices": [voice("sad")]}
    assert len(Samples.read(tmp_path, written(tmp_path, described)).photos) == 1


def test_a_voice_is_found_by_its_emotion_then_by_the_portrait_s_sex():
    sad, man, woman = (Voice(b"", *of) for of in (("male", 60, "sad"), ("male", 20, "happy"), ("female", 30, "happy")))
    samples = Samples((PHOTO,), (sad, man, woman))
    assert samples.voice("happy") is woman
    assert samples.voice("sad") is sad, "of another sex rather than in another mood"
    assert samples.voice("angry") is woman
    assert samples.one_voice_each == (sad, man)


@pytest.mark.parametrize("missing", ["photo", "voices"])
def test_a_description_without_photo_or_voices_is_refused_with_the_way_out(tmp_path, missing):
    described = {"photo": {"file": "a.jpg", "sex": "male", "age": 28.1}, "voices": [voice("sad")]}
    manifest = written(tmp_path, described)
    del described[missing]
    path = tmp_path / "samples" / "samples.json"
    path.write_text(json.dumps(described))
    manifest.files["samples/samples.json"] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    with pytest.raises(BundleError, match=rf"{missing}.*training\.samples"):
        Samples.read(tmp_path, manifest)


def test_nothing_to_show_an_unknown_sex_and_an_unknown_emotion_are_refused():
    with pytest.raises(BundleError, match="'bored', allowed neutral, calm"):
        Voice(b"", "male", 3.0, "bored")
    with pytest.raises(BundleError, match="1 photos and 0 voices"):
        Samples((PHOTO,), ())
    with pytest.raises(BundleError, match="'robot', allowed female, male"):
        Photo(b"", "robot", 3.0)


def test_a_bundle_without_samples_is_refused_with_the_way_out():
    manifest = SimpleNamespace(name="bare", files={})
    with pytest.raises(BundleError, match=r"'bare' holds no samples/samples\.json; export it with --samples"):
        Samples.read(Path("bare"), manifest)


def test_the_shipped_samples_are_all_there():
    samples = Samples.read(DEMO, Manifest.read(DEMO))
    assert {"happy", "sad", "angry"} <= {voice.emotion for voice in samples.voices}


def test_the_samples_that_pages_name_lie_in_the_shipped_bundle():
    named = {
        (page.name, name)
        for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
        for name in re.findall(r"bundles/demo/(samples/[\w.-]+\.\w+)", page.read_text(encoding="utf-8"))
    }
    files = Manifest.read(DEMO).files
    assert named and {(page, name) for page, name in named if name not in files} == set()
