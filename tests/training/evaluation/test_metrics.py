"""Every metric against arithmetic by hand or scipy, and worse input gives a worse metric."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.linalg import sqrtm
from scipy.stats import mannwhitneyu

from training.evaluation import (
    age,
    consistency,
    distribution,
    emotion,
    identity,
    likeness,
    spectrum,
    told_apart,
    traits,
    words,
)
from training.evaluation.figure import METRICS, Figure
from training.evaluation.scene import blur


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def pictures(rng: np.random.Generator, count: int = 6, size: int = 32) -> np.ndarray:
    return rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)


# --- pictures as a whole


def test_fid_is_the_frechet_distance_of_two_gaussians(rng):
    made, real = rng.normal(size=(200, 4)) @ rng.normal(size=(4, 4)) + 1, rng.normal(size=(300, 4))
    first, second = np.cov(made.T), np.cov(real.T)
    mean = np.square(made.mean(0) - real.mean(0)).sum()
    expected = mean + np.trace(first + second - 2 * sqrtm(first @ second).real)
    assert distribution.fid(made, real) == pytest.approx(expected, rel=1e-6)


def test_fid_of_a_shift_by_one_deviation_in_one_feature_is_one(rng):
    real = rng.normal(size=(500, 8))
    assert distribution.fid(real + np.eye(8)[0], real) == pytest.approx(1, abs=1e-6)


def test_kid_is_unbiased_and_grows_with_the_distance(rng):
    real, same, other = (rng.normal(size=(400, 8)) for _ in range(3))
    near, far = (distribution.kid(other + shift, real) for shift in (0.3, 0.9))
    assert abs(distribution.kid(same, real)) < near < far


def test_kid_of_two_pictures_each_is_the_kernel_by_hand():
    real, made = np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[0.0, 1.0], [0.0, 2.0]])

    def kernel(a, b):
        return (a @ b / 2 + 1) ** 3

    within = kernel(*real) + kernel(*made)
    across = np.mean([kernel(a, b) for a in real for b in made])
    assert distribution.kid(made, real) == pytest.approx(within - 2 * across)


def test_kid_neither_reads_nor_moves_torchs_generator(rng):
    import torch

    real, made = rng.normal(size=(150, 4)), rng.normal(size=(150, 4))
    torch.manual_seed(5)
    first = distribution.kid(made, real)
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    assert distribution.kid(made, real) == first


@pytest.mark.parametrize("distance", [distribution.fid, distribution.kid])
def test_distributions_of_unlike_width_are_refused(distance):
    with pytest.raises(ValueError, match=r"\(5, 3\) and \(5, 4\)"):
        distance(np.zeros((5, 3)), np.zeros((5, 4)))


def test_a_wave_has_its_power_at_its_own_frequency():
    wave = 127 + 100 * np.cos(2 * np.pi * 5 * np.arange(64) / 64)
    picture = np.broadcast_to(wave.astype(np.uint8)[None, None, :, None], (1, 64, 64, 3))
    power = spectrum.radial_power(np.ascontiguousarray(picture))
    assert power.shape == (31,)
    assert power.argmax() + 1 == 5


def test_spectrum_error_is_zero_for_equal_and_one_for_ten_times_the_power(rng):
    power = rng.uniform(1, 2, 31)
    assert spectrum.spectrum_error(power, power) == 0
    assert spectrum.spectrum_error(10 * power, power) == pytest.approx(1, rel=1e-6)
    assert spectrum.spectrum_error(power / 10, power) == pytest.approx(1, rel=1e-6)


def test_a_blur_takes_the_fine_detail(rng):
    real = pictures(rng, size=64)
    before, after = (spectrum.radial_power(these) for these in (real, blur(real)))
    assert spectrum.fine_detail(after, before) < 0.1
    assert spectrum.power_ratio(after, before)[0] == pytest.approx(1, abs=0.1)


def test_a_pictures_own_spectrum_is_the_mean_over_one(rng):
    these = pictures(rng, count=70)
    each = spectrum.radial_powers(these)
    assert each.shape == (70, 15)
    assert np.allclose(each[[3, 66]], [spectrum.radial_power(these[[row]]) for row in (3, 66)])
    assert np.allclose(each.mean(0), spectrum.radial_power(these))


def test_pictures_that_do_not_differ_cannot_be_told_apart_and_a_shift_by_four_deviations_can(rng):
    made, real = rng.normal(size=(2, 300, 10))
    assert told_apart.accuracy(made, real) == pytest.approx(0.5, abs=0.08)
    shift = np.eye(10)[2]
    # Half the distance of two normal clouds is where they are told apart: Φ(2) = 0.977.
    assert told_apart.accuracy(made + 4 * shift, real) == pytest.approx(0.977, abs=0.02)
    assert told_apart.accuracy(made + shift, real) == pytest.approx(0.69, abs=0.05)


def test_a_blur_gives_a_picture_away(rng):
    first, second = pictures(rng, 40), pictures(rng, 40)
    nothing = np.zeros((40, 1))
    seen = [told_apart.clues(these, nothing) for these in (first, blur(second))]
    assert told_apart.accuracy(seen[1], seen[0]) > 0.95


def test_too_few_pictures_to_learn_from_are_refused():
    with pytest.raises(ValueError, match="5 folds need 10"):
        told_apart.accuracy(np.zeros((9, 2)), np.zeros((20, 2)))


# --- likeness


def test_ssim_of_flat_pictures_is_the_luminance_term_by_hand():
    first, second = (np.full((1, 32, 32, 3), value, np.uint8) for value in (100, 150))
    a, b, c1 = 100 / 255, 150 / 255, 0.01**2
    assert likeness.ssim(first, second) == pytest.approx(
        (2 * a * b + c1) / (a * a + b * b + c1), rel=1e-3
    )  # torchmetrics works in float32


def test_ssim_is_one_for_equal_pictures_and_falls_with_noise(rng):
    real = pictures(rng)
    slightly = np.clip(real.astype(int) + rng.integers(-10, 11, real.shape), 0, 255).astype(np.uint8)
    badly = np.clip(real.astype(int) + rng.integers(-80, 81, real.shape), 0, 255).astype(np.uint8)
    assert likeness.ssim(real, real) == pytest.approx(1)
    assert 1 > likeness.ssim(slightly, real) > likeness.ssim(badly, real)


# --- person


def test_auc_is_the_mann_whitney_statistic_with_ties_counted_half():
    genuine, impostor = np.array([0.9, 0.5, 0.1]), np.array([0.5, 0.0, -0.7, 0.2])
    expected = mannwhitneyu(genuine, impostor).statistic / 12
    assert identity.auc(genuine, impostor) == pytest.approx(expected)


def test_auc_tells_cosines_apart_that_differ_in_the_sixth_digit():
    genuine, impostor = np.array([0.9999995, 0.9999994]), np.array([0.9999985, 0.9999984])
    assert identity.auc(genuine, impostor) == 1


def test_accept_rate_lets_one_of_a_hundred_impostors_pass():
    impostor = np.arange(100) / 100  # 0 … 0.99: the lowest threshold that only one passes lies just above 0.98
    genuine = np.array([0.995, 0.985, 0.975, 0.5])
    assert identity.accept_rate(genuine, impostor) == 0.5
    assert identity.accept_rate(genuine, impostor, false_accept_rate=0.5) == 1


def test_identity_figures_fall_when_the_made_face_drifts_away(rng):
    people = np.arange(40)
    reference = rng.normal(size=(40, 8))
    impostor = np.roll(reference, 1, axis=0)
    reference, impostor = (
        vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (reference, impostor)
    )
    found = []
    for noise in (0.2, 1.0, 5.0):
        made = reference + noise * rng.normal(size=reference.shape) / np.sqrt(8)
        made /= np.linalg.norm(made, axis=1, keepdims=True)
        genuine, against = identity.cosines(made, reference), identity.cosines(made, impostor)
        found.append(
            (
                genuine.mean(),
                identity.auc(genuine, against),
                identity.accept_rate(genuine, against),
                identity.rank1(made, reference, people),
            )
        )
    assert all(better >= worse for a, b in itertools.pairwise(found) for better, worse in zip(a, b, strict=True))
    assert all(best > worst for best, worst in zip(found[0], found[-1], strict=True))


def test_rank1_counts_another_picture_of_the_same_person():
    references = np.eye(3)
    made = np.array([[1, 0, 0], [1, 0.9, 0], [1, 0, 0.9]])
    assert identity.rank1(made, references, np.array([0, 0, 1])) == pytest.approx(2 / 3)


def test_first_of_a_crowd_is_above_all_its_own_impostors():
    genuine = np.array([0.9, 0.5])
    impostor = np.array([[0.8, 0.1], [0.95, 0.1]])
    assert identity.rank1_among(genuine, impostor) == 0.5


def test_traits_are_explained_by_their_own_arithmetic_and_sex_does_not_count():
    truth = np.array([[0.0, -1, 0], [1, 0, 1], [0, 1, -1]])
    read = truth.copy()
    read[:, 0] = 9
    assert traits.explained(truth, read) == 1
    read[:, 1] = 0  # the mean: nothing of the first trait
    assert traits.explained(truth, read) == 0.5
    assert np.isnan(traits.explained(np.zeros((3, 2)), np.ones((3, 2))))


def test_half_as_varied_is_half_the_spread(rng):
    real = rng.normal(size=(50, 4))
    assert traits.spread(0.5 * real + 3, real) == pytest.approx([0.5] * 3)
    assert traits.spread(np.tile(real[:1], (50, 1)), real) == pytest.approx([0] * 3)


def test_a_reader_finds_traits_that_lie_along_directions_and_guesses_the_mean_elsewhere(rng):
    vectors = rng.normal(size=(400, 12))
    truth = np.stack([np.zeros(400), vectors[:, 3] - vectors[:, 5], rng.normal(size=400)], axis=1)
    read = traits.TraitReader.fitted(vectors[:300], truth[:300]).read(vectors[300:])
    assert traits.explained(truth[300:, :2], read[:, :2]) > 0.95
    assert abs(traits.explained(truth[300:, ::2], read[:, ::2])) < 0.2


# --- age


def test_age_figures_by_hand():
    found = age.age_figures(np.array([20.0, 40.0, 60.0]), np.array([24.0, 40.0, 50.0]))
    assert found["age_mae"] == pytest.approx(14 / 3)
    assert found["age_rmse"] == pytest.approx(np.sqrt((16 + 100) / 3))
    assert found["age_within_5"] == pytest.approx(2 / 3)
    assert found["age_slope"] == pytest.approx((50 - 24) / 40)


def test_age_chance_is_what_the_best_constant_gets(rng):
    asked = rng.uniform(5, 85, 300)
    chance = age.age_chance(asked)
    for constant in rng.uniform(5, 85, 50):
        of_constant = age.age_figures(asked, np.full(300, constant))
        assert of_constant["age_mae"] >= chance["age_mae"] - 1e-9
        assert of_constant["age_rmse"] >= chance["age_rmse"] - 1e-9
        assert of_constant["age_within_5"] <= chance["age_within_5"] + 0.02  # the constant there is one of the ages


def test_decades_hold_every_age_once_and_only_those_that_occur():
    asked = np.array([9.9, 20.0, 29.5, 30.0])
    found = {name: places.tolist() for name, places in age.decades(asked).items()}
    assert found == {"0-9": [0], "20-29": [1, 2], "30-39": [3]}


# --- emotion


def test_avd_is_the_mean_length_of_the_error_eq_33():
    assert emotion.avd(np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([[0.3, 0.4], [1.0, 1.0]])) == pytest.approx(0.25)


def test_earth_movers_distance_forgets_whom_a_feeling_was_asked_of():
    asked = np.array([[0.0, 0.0], [1.0, 0.0]])
    assert emotion.emd(asked, asked[::-1]) == 0
    assert emotion.avd(asked, asked[::-1]) == 1


def test_earth_movers_distance_is_scipys_along_a_line(rng):
    from scipy.stats import wasserstein_distance

    asked, judged = rng.uniform(-1, 1, (2, 50, 2))
    asked[:, 1] = judged[:, 1] = 0
    assert emotion.emd(asked, judged) == pytest.approx(wasserstein_distance(asked[:, 0], judged[:, 0]))


def test_concordance_punishes_an_offset_that_correlation_forgives(rng):
    asked = rng.uniform(-1, 1, (60, 2))
    found = emotion.value_figures(asked, asked + np.array([0.5, 0.0]))
    variance = asked[:, 0].var()
    assert found["valence_pearson"] == pytest.approx(1)
    assert found["valence_ccc"] == pytest.approx(2 * variance / (2 * variance + 0.25), rel=0.03)
    assert found["arousal_ccc"] == pytest.approx(1, rel=1e-6)


def test_emotion_figures_worsen_with_the_judged_values(rng):
    asked = rng.uniform(-1, 1, (80, 2))
    noise = rng.normal(size=asked.shape)
    good, bad = (emotion.value_figures(asked, asked + scale * noise) for scale in (0.1, 1.0))
    for name in good:
        better = METRICS[name].direction
        assert (good[name] > bad[name]) == (better == "higher"), name


def test_a_judge_that_always_says_the_same_has_chances_accuracy_and_no_correlation():
    asked = np.array([0, 0, 0, 4, 5])
    assert emotion.accuracy(asked, np.zeros(5, int)) == emotion.label_chance(asked) == 0.6
    chance = emotion.value_chance(np.array([[0.5, 0.1], [-0.5, 0.3]]))
    assert chance["valence_pearson"] == chance["valence_ccc"] == 0
    assert emotion.confusion(asked, np.zeros(5, int))[:, 0].tolist() == [3, 0, 0, 0, 1, 1, 0, 0]


# --- words and inputs


def test_clip_score_cuts_what_is_below_zero_and_the_cosine_does_not():
    image, text = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[2.0, 0.0], [-3.0, 0.0]])
    assert words.clip_score(image, text) == 50
    assert words.text_image_cosine(image, text) == 0


def test_direction_is_one_when_the_picture_changes_as_the_words_do(rng):
    reference, source, change = rng.normal(size=(3, 20, 16))
    reference, source = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (reference, source))

    def moved(start, amount):
        return start + amount * change

    assert words.directional(source + change, source, source + change, source).min() == pytest.approx(1)
    right = words.directional(moved(reference, 0.5), reference, moved(source, 0.5), source).mean()
    wrong = words.directional(moved(reference, -0.5), reference, moved(source, 0.5), source).mean()
    assert right > 0.3 > -0.3 > wrong


def test_words_that_ask_for_no_change_have_no_direction():
    same = np.array([[1.0, 0.0], [1.0, 0.0]])
    text = np.array([[1.0, 0.01], [0.0, 1.0]])
    assert len(words.directional(same[::-1], np.eye(2), text, same)) == 1


def test_cmc_is_the_mean_over_present_pairs():
    tokens = np.array([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    assert consistency.cmc(tokens, np.ones((1, 3))) == pytest.approx(1 / 3)
    assert consistency.cmc(tokens, np.array([[1, 1, 0]])) == 1
    assert np.isnan(consistency.cmc(tokens, np.array([[1, 0, 0]])))


def test_tokens_of_other_requests_agree_less(rng):
    shared = rng.normal(size=(30, 1, 16))
    tokens = shared + 0.3 * rng.normal(size=(30, 4, 16))
    present = np.ones((30, 4))
    assert consistency.cmc(tokens, present) > 0.8
    assert abs(consistency.cmc(*consistency.unmatched(tokens, present))) < 0.2


# --- figures


def test_a_figure_has_the_mean_and_the_sample_deviation_over_seeds():
    figure = Figure((1.0, 2.0, 3.0), "lower", 10)
    assert (figure.value, figure.deviation) == (2, 1)
    assert np.isnan(Figure((1.0,), "lower", 10).deviation)
    with pytest.raises(ValueError, match="nonsense"):
        Figure((1.0,), "lower", 10, {"nonsense": 1.0})
