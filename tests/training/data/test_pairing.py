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


def test_where_a_label_is_unknown_on_one_side_only_nothing_is_claimed(tmp_path: Path) -> None:
    """A voice of unknown mood beside a sad face would teach that voices say nothing of moods."""
    pictures = [Truth(0, sex=0, emotion="sad"), Truth(1, sex=0), Truth(2)]
    clips = [(Truth(None, sex=0), None), (Truth(None, sex=0, emotion="angry"), None), (Truth(None), None)]
    assert matches(tmp_path, pictures, clips) == [{-1}, {0}, {-1}]


def test_an_unknown_age_spreads_strangers_instead_of_favouring_some(tmp_path: Path) -> None:
    """RAVDESS's clips have no age: of 40 alike voices nearly all should be heard by 200 pictures, not the same four."""
    pictures = [Truth(n, sex=0, age=20.0 + n % 50, emotion="sad", intensity=0.5) for n in range(200)]
    heard = matches(tmp_path, pictures, [(Truth(None, sex=0, emotion="sad", intensity=0.5), None)] * 40)
    assert len(set.union(*heard)) > 30


def test_no_voices_at_all_is_silence(tmp_path: Path) -> None:
    assert matches(tmp_path, [Truth(0, sex=0)], []) == [{-1}]
