"""PSNR and SSIM against arithmetic, and against scikit-image where that is installed."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.similarity import IDENTICAL_DB, psnr_db, ssim

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 32, 3), dtype=np.uint8)


def test_one_level_everywhere_is_48_db() -> None:
    grey = np.full((16, 16, 3), 100, np.uint8)
    assert psnr_db(grey, grey + 1) == pytest.approx(20 * np.log10(255))


def test_equal_pictures() -> None:
    assert psnr_db(PICTURE, PICTURE) == IDENTICAL_DB
    assert ssim(PICTURE, PICTURE) == 1


def test_levels_do_not_wrap_around() -> None:
    assert psnr_db(np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)) == 0


def test_likeness_falls_with_noise_and_is_nothing_for_strangers() -> None:
    noise = np.random.default_rng(1).normal(size=PICTURE.shape)
    found = [ssim(PICTURE, np.clip(PICTURE + sigma * noise, 0, 255).astype(np.uint8)) for sigma in (2, 20, 80)]
    assert 1 > found[0] > found[1] > found[2]
    assert abs(ssim(PICTURE, PICTURE[::-1])) < 0.1


def test_ssim_is_that_of_scikit_image() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    other = np.clip(PICTURE + np.random.default_rng(2).normal(0, 15, PICTURE.shape), 0, 255).astype(np.uint8)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    expected = metrics.structural_similarity(PICTURE, other, channel_axis=2, **settings)
    assert ssim(PICTURE, other) == pytest.approx(expected, abs=1e-12)


def test_a_picture_smaller_than_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="smaller than the window of 11"):
        ssim(PICTURE[:10], PICTURE[:10])
