"""Pictures as tensors: sizes, the stand-in for a second photo, and where the numbers of the encoders come from."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from runtime.preprocess.image import clip_pixels, model_pixels
from training.pictures import SMALLEST_CROP, augmented_crop, resized, to_clip, to_model


def photo(size: int = 48) -> np.ndarray:
    """(size, size, 3) uint8: smooth, and nowhere symmetric."""
    corners = np.random.default_rng(0).integers(30, 220, (3, 3, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(corners).resize((size, size), Image.Resampling.BICUBIC))


def test_training_and_serving_see_the_same_pixels() -> None:
    image = photo()
    assert np.array_equal(to_model(image[None]).numpy(), model_pixels(image, 48))
    np.testing.assert_allclose(to_clip(to_model(image[None])).numpy(), clip_pixels(image, 48), atol=1e-5)
    smaller = to_clip(resized(to_model(image[None]), 32)).numpy()
    # Serving rounds to 8 bits after resizing: half a step, of CLIP's smallest deviation.
    np.testing.assert_allclose(smaller, clip_pixels(image, 32), atol=1.5 / 255 / 0.26)


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    image = to_model(photo()[None])
    assert resized(image, 48) is image
    assert resized(image, 20).shape == (1, 3, 20, 20)


def test_a_crop_is_another_picture_of_the_same_thing() -> None:
    image = to_model(np.stack([photo()] * 64))
    crop = augmented_crop(image, np.random.default_rng(0))
    assert crop.shape == image.shape and crop.abs().max() <= 1
    apart = (crop - image).abs().mean(dim=(1, 2, 3))
    assert apart.min() > 0.02, "none is the picture itself"
    assert len(torch.unique(apart)) == 64, "and each is cropped its own way"
    assert torch.equal(crop, augmented_crop(image, np.random.default_rng(0)))


def test_a_crop_keeps_most_of_the_picture() -> None:
    """A white square in the middle, as large as the largest shift and turn leave room for, is never lost."""
    image = -torch.ones(200, 3, 64, 64)
    image[:, :, 26:38, 26:38] = 1
    crop = augmented_crop(image, np.random.default_rng(1))
    white = (crop > 0.3).float().mean(dim=(1, 2, 3)) * 64 * 64 / 144
    assert white.min() > 0.8 and white.max() < 1.25 / SMALLEST_CROP**2
    left = (crop[:, 0] > 0.3).float().mean(1).argmax(1)
    assert left.min() >= 16 and left.max() <= 40
