"""Odd files are read, broken ones refused with the reason that the table of faults promises."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from runtime.spec import MAX_AUDIO_SAMPLES, SAMPLING_RATE_HZ
from tests.training.data.media import FRAMES, bomb, picture, pixels, shade, sound, tone, video
from training.data.decode import MAX_PIXELS, MIN_SIDE, read_audio, read_image, right_suffixes
from training.data.faults import SKIPPED, FaultyFileError
from training.data.record import VideoFrame

ORIENTATION = 0x0112  # EXIF tag


def reason(function, *arguments) -> str:
    with pytest.raises(FaultyFileError) as caught:
        function(*arguments)
    assert caught.value.reason in SKIPPED
    return caught.value.reason


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg", ".webp"])
def test_picture_is_read_in_every_format(tmp_path: Path, suffix: str) -> None:
    read = read_image(picture(tmp_path / f"a{suffix}", quality=95))
    assert read.shape == (40, 36, 3) and read.dtype == np.uint8
    assert np.abs(read.astype(int) - pixels(0)).mean() < (0.01 if suffix in (".png", ".bmp") else 6)


@pytest.mark.parametrize(
    ("mode", "suffix"), [("L", ".jpg"), ("CMYK", ".jpg"), ("P", ".png"), ("1", ".png"), ("LA", ".png")]
)
def test_odd_colour_modes_become_rgb(tmp_path: Path, mode: str, suffix: str) -> None:
    read = read_image(picture(tmp_path / f"a{suffix}", mode=mode))
    expected = np.asarray(Image.fromarray(pixels(0)).convert(mode).convert("RGB")).astype(int)
    assert read.shape == (40, 36, 3)
    assert np.abs(read - expected).mean() < 6  # JPEG's loss


def test_sixteen_bit_grey_keeps_its_upper_half(tmp_path: Path) -> None:
    wide = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 16
    Image.fromarray(wide).save(tmp_path / "a.png")
    assert (read_image(tmp_path / "a.png")[..., 1] == wide >> 8).all()


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    rgba = np.zeros((40, 40, 4), np.uint8)
    rgba[:20, :, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png")
    assert (read[:20] == 0).all() and (read[20:] == 255).all()


def test_exif_orientation_turns_the_picture_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # the camera was turned: rows run from right to left
    upright = read_image(picture(tmp_path / "a.png", exif=exif))
    assert (upright == np.rot90(pixels(0), -1)).all()


def test_damaged_exif_does_not_cost_the_picture(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\0\x03")
    assert read_image(path).shape == (40, 36, 3)


def test_content_decides_and_the_wrong_suffix_can_be_told(tmp_path: Path) -> None:
    path = picture(tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert (read_image(path) == pixels(0)).all()
    assert right_suffixes(path) == {".png"}


def test_array_of_grey_pixels_is_repeated_thrice() -> None:
    grey = pixels(0)[..., 0]
    assert (read_image(grey) == grey[..., None]).all()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp"])
def test_truncated_picture_is_damaged(tmp_path: Path, suffix: str) -> None:
    path = picture(tmp_path / f"a{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert reason(read_image, path) == "damaged"


def test_pictures_that_are_none_have_their_reasons(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.jpg").write_text("<html>404 not found</html>")
    Image.fromarray(pixels(0)[: MIN_SIDE - 1]).save(tmp_path / "small.png")
    Image.new("RGB", (40, 40), (7, 7, 7)).save(tmp_path / "blank.png")
    assert reason(read_image, tmp_path / "none.png") == "missing"
    assert reason(read_image, tmp_path) == "unreadable"
    assert reason(read_image, tmp_path / "empty.jpg") == "empty"
    assert reason(read_image, tmp_path / "page.jpg") == "not an image"
    assert reason(read_image, tmp_path / "small.png") == "too small"
    assert reason(read_image, tmp_path / "blank.png") == "blank"


@pytest.mark.parametrize("side", [int(MAX_PIXELS**0.5) + 1, 30_000])  # the second is beyond Pillow's own limit, too
def test_decompression_bomb_is_refused_from_its_header(tmp_path: Path, side: int) -> None:
    assert reason(read_image, bomb(tmp_path / "bomb.png", side)) == "too large"


@pytest.mark.parametrize("position", [0.0, 1 / 3, 0.5, 1.0])
def test_video_frame_lies_where_it_was_asked_for(tmp_path: Path, position: float) -> None:
    frame = read_image(VideoFrame(video(tmp_path / "a.mp4"), position))
    assert frame.shape == (48, 64, 3)
    expected = shade(round(position * (FRAMES - 1)))
    assert abs(float(frame[24:, 24:].mean()) - expected) < 10  # neighbours differ by 20


def test_video_without_pictures_has_its_reasons(tmp_path: Path) -> None:
    whole = video(tmp_path / "a.mp4")
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "page.mp4").write_text("<html>404</html>")
    sound(tmp_path / "voice.m4a")
    assert reason(read_image, VideoFrame(tmp_path / "cut.mp4")) == "damaged"
    assert reason(read_image, VideoFrame(tmp_path / "page.mp4")) == "not a video"
    assert reason(read_image, VideoFrame(tmp_path / "voice.m4a")) == "not a video"


@pytest.mark.parametrize(("suffix", "rate"), [(".wav", 48_000), (".flac", 44_100), (".ogg", 22_050), (".m4a", 48_000)])
def test_sound_is_sixteen_kilohertz_mono_in_every_format(tmp_path: Path, suffix: str, rate: int) -> None:
    samples = read_audio(sound(tmp_path / f"a{suffix}", 1.0, rate))
    assert samples.dtype == np.float32 and samples.ndim == 1
    assert abs(len(samples) - SAMPLING_RATE_HZ) < 0.1 * SAMPLING_RATE_HZ  # AAC adds a block
    middle = samples[4_000:12_000]
    assert np.argmax(np.abs(np.fft.rfft(middle))) == round(220 * len(middle) / SAMPLING_RATE_HZ)
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.06)  # AAC loses something


def test_stereo_is_averaged_over_its_channels(tmp_path: Path) -> None:
    left = tone(0.5, 48_000)
    soundfile.write(tmp_path / "a.wav", np.stack([left, np.zeros_like(left)], axis=1), 48_000)
    assert np.abs(read_audio(tmp_path / "a.wav")[2_000:6_000]).max() == pytest.approx(0.25, abs=0.005)


@pytest.mark.parametrize("suffix", [".wav", ".m4a"])
def test_sound_of_a_video_and_of_a_long_clip_ends_after_five_seconds(tmp_path: Path, suffix: str) -> None:
    assert len(read_audio(sound(tmp_path / f"a{suffix}", 7.0, 16_000))) == MAX_AUDIO_SAMPLES
    assert len(read_audio(video(tmp_path / "v.mp4", with_sound=True))) >= SAMPLING_RATE_HZ // 2


def test_sound_beyond_full_scale_is_scaled_down(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", 300 * tone(0.5, 16_000), 16_000, subtype="FLOAT")
    assert np.abs(read_audio(tmp_path / "a.wav")).max() == 1.0


def test_sounds_that_are_none_have_their_reasons(tmp_path: Path) -> None:
    whole = sound(tmp_path / "a.wav").read_bytes()
    (tmp_path / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "header.wav").write_bytes(whole[:20])
    (tmp_path / "empty.wav").touch()
    (tmp_path / "page.wav").write_text("<html>404</html>")
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "still.wav", np.full(16_000, 0.25), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.full(16_000, np.nan, np.float32), 16_000, subtype="FLOAT")
    cut = sound(tmp_path / "cut.m4a")
    cut.write_bytes(cut.read_bytes()[:1000])
    assert reason(read_audio, tmp_path / "cut.wav") == "damaged"
    assert reason(read_audio, tmp_path / "header.wav") == "damaged"
    assert reason(read_audio, tmp_path / "cut.m4a") == "damaged"
    assert reason(read_audio, tmp_path / "empty.wav") == "empty"
    assert reason(read_audio, tmp_path / "none.wav") == "empty"
    assert reason(read_audio, tmp_path / "page.wav") == "not audio"
    assert reason(read_audio, video(tmp_path / "dumb.mp4")) == "not audio"
    assert reason(read_audio, sound(tmp_path / "short.wav", 0.2)) == "too short"
    assert reason(read_audio, tmp_path / "still.wav") == "silent"
    assert reason(read_audio, tmp_path / "nan.wav") == "not finite"


def test_wav_of_unknown_length_is_read_to_its_end(tmp_path: Path) -> None:
    data = bytearray(sound(tmp_path / "a.wav", 1.0, 16_000).read_bytes())
    at = data.index(b"data")
    data[at + 4 : at + 8] = b"\xff\xff\xff\xff"  # as programs write into a pipe
    (tmp_path / "a.wav").write_bytes(data)
    assert len(read_audio(tmp_path / "a.wav")) == SAMPLING_RATE_HZ


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
@pytest.mark.parametrize("name", [b"caf\xe9", b"concat:a|b", "Zoë".encode()])
def test_name_that_is_no_text_or_looks_like_a_protocol_is_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    for made, read in (
        (picture(tmp_path / "a.png"), read_image),
        (sound(tmp_path / "a.wav"), read_audio),
        (sound(tmp_path / "a.m4a"), read_audio),
        (video(tmp_path / "a.mp4"), lambda path: read_image(VideoFrame(path))),
    ):
        renamed = Path(os.fsdecode(name) + made.suffix)  # relative: a protocol stands at the very beginning
        made.rename(renamed)
        assert read(renamed).size


def test_nothing_but_the_named_error_leaves_a_broken_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for path in [
        picture(tmp_path / "a.png"),
        picture(tmp_path / "a.jpg"),
        sound(tmp_path / "a.wav"),
        sound(tmp_path / "a.m4a"),
        video(tmp_path / "a.mp4", with_sound=True),
    ]:
        whole = path.read_bytes()
        for _ in range(20):
            broken = bytearray(whole[: rng.integers(1, len(whole))] if rng.random() < 0.3 else whole)
            for at in rng.integers(0, min(len(broken), 400), 8):
                broken[at] = rng.integers(0, 256)
            path.write_bytes(broken)
            for function, source in ((read_image, path), (read_audio, path), (read_image, VideoFrame(path))):
                try:
                    function(source)
                except FaultyFileError as error:
                    assert error.reason in SKIPPED
