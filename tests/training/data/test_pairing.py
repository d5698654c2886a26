"""Whose voice is heard with which picture."""

from __future__ import annotations

from pathlib import Path

from tests.training.data.odd import write
from training.data.cache import DataCache
from training.data.cache_writer import Truth
from training.data.pairing import ALIKE_VOICES, match_voices


def matches(tmp_path: Path, pictures: list[Truth], clips: list[tuple[Truth, int | None]]) -> list[set[int]]:
    """Per picture the clips that may be heard with it; -1 is silence."""
    found = match_voices(DataCache(write(tmp_path / "a", pictures, clips)))
    assert found.shape == (len(pictures), ALIKE_VOICES)
    return [set(row) for row in found.tolist()]


def test_the_recording_of_the_moment_beats_every_other_of_the_person(tmp_path: Path) -> None:
    """As RAVDESS: the same actor says the same in the same mood twice."""
    said = Truth(0, sex=1, emotion="happy")
    assert matches(tmp_path, [said, said], [(said, 1), (said, 0), (said, None)]) == [{1}, {0}]


def test_another_recording_of_the_person_is_heard_unless_its_mood_is_known_to_differ(tmp_path: Path) -> None:
    """As VoxCeleb, where moods are unknown."""
    pictures = [Truth(0, emotion="sad"), Truth(1), Truth(2, emotion="sad")]
    clips = [(Truth(0), None), (Truth(0, emotion="angry"), None), (Truth(1, emotion="calm"), None)]
    clips += [(Truth(2, emotion="angry"), None)]
    assert matches(tmp_path, pictures, clips) == [{0}, {2}, {-1}]


def test_a_stranger_shares_sex_and_emotion_and_is_nearest_in_age_and_intensity(tmp_path: Path) -> None:
    picture = Truth(0, sex=0, emotion="happy", age=30.0, intensity=0.5)
    alike = [(Truth(None, 0, age, "happy", 0.5), None) for age in (29.0, 31.0, 33.0, 35.0, 60.0)]
    unlike = [
        (Truth(None, 1, 30.0, "happy", 0.5), None),
        (Truth(None, 0, 30.0, "sad", 0.5), None),
        (Truth(None, 0, 30.0, "happy", 1.0), None),  # as far as 12.5 years
    ]
    assert matches(tmp_path, [picture], unlike + alike) == [{3, 4, 5, 6}]


def test_a_voice_of_unknown_mood_takes_one_place_of_four_beside_a_known_mood_and_all_where_no_other_fits(
    tmp_path: Path,
) -> None:
    """As VoxCeleb beside RAVDESS: thousands of speakers without a mood, few with one."""
    pictures = [Truth(0, sex=0, emotion="sad"), Truth(1, sex=0, emotion="happy"), Truth(2, sex=0)]
    clips = [(Truth(None, sex=0, emotion="sad"), None), (Truth(None, sex=0), None), (Truth(None, sex=1), None)]
    found = match_voices(DataCache(write(tmp_path / "a", pictures, clips))).tolist()
    assert sorted(found[0]) == [0, 0, 0, 1]
    assert found[1:] == [[1, 1, 1, 1], [1, 1, 1, 1]]  # the unknown mood also before a known one, where none is known


def test_what_is_known_of_both_is_never_contradicted(tmp_path: Path) -> None:
    """Every combination of known and unknown sex and mood against every other, in one cache."""
    labels = [(sex, mood) for sex in (0, 1, None) for mood in ("sad", "happy", "calm", None)]
    kept = [label for label in labels if label[1] != "calm"]  # no voice is calm
    pictures = [Truth(n, sex, emotion=mood) for n, (sex, mood) in enumerate(labels)]
    found = matches(tmp_path, pictures, [(Truth(None, sex, emotion=mood), None) for sex, mood in kept])
    for (sex, mood), clips in zip(labels, found, strict=True):
        for voice_sex, voice_mood in (kept[clip] for clip in clips - {-1}):
            assert None in (sex, voice_sex) or sex == voice_sex
            assert None in (mood, voice_mood) or mood == voice_mood
            assert (sex is not None and sex == voice_sex) or (mood is not None and mood == voice_mood)
    assert [labels[n] for n, clips in enumerate(found) if clips == {-1}] == [(None, "calm"), (None, None)]


def test_an_unknown_sex_is_heard_only_where_no_known_one_fits_and_then_in_the_same_mood(tmp_path: Path) -> None:
    women = [(Truth(None, sex=None, emotion="sad"), None), (Truth(None, sex=0), None)]
    picture = Truth(0, sex=0, emotion="sad")
    assert matches(tmp_path / "both", [picture], women) == [{1}]
    assert matches(tmp_path / "one", [picture, Truth(1, sex=0)], women[:1]) == [{0}, {-1}]
    assert matches(tmp_path / "face", [Truth(0, emotion="sad"), Truth(1)], women) == [{0}, {-1}]
    assert matches(tmp_path / "men", [picture], [(Truth(None, sex=1, emotion="sad"), None)]) == [{-1}]


def test_any_mood_fits_a_face_of_unknown_mood_where_all_voices_have_one(tmp_path: Path) -> None:
    clips = [(Truth(None, 0, emotion="sad"), None), (Truth(None, 1, emotion="sad"), None)]
    assert matches(tmp_path, [Truth(0, sex=0), Truth(1, sex=1)], clips) == [{0}, {1}]


def test_an_unknown_age_spreads_strangers_instead_of_favouring_some(tmp_path: Path) -> None:
    """RAVDESS's clips have no age: of 40 alike voices nearly all should be heard by 200 pictures, not the same four."""
    pictures = [Truth(n, sex=0, age=20.0 + n % 50, emotion="sad", intensity=0.5) for n in range(200)]
    heard = matches(tmp_path, pictures, [(Truth(None, sex=0, emotion="sad", intensity=0.5), None)] * 40)
    assert len(set.union(*heard)) > 30


def test_no_voices_at_all_is_silence(tmp_path: Path) -> None:
    assert matches(tmp_path, [Truth(0, sex=0)], []) == [{-1}]
