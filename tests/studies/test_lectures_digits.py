"""The digits' data, judge, chains and guides against what is known of them."""

import json
import math

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from simgen.models.process import PROCESSES
from studies.lectures import digits_guidance, digits_page
from studies.lectures.digits import digits, halves, joined, pixels, spread_rows
from studies.lectures.digits_chains import Watched, first_noise, forward, solve
from studies.lectures.digits_judge import Judge, apart, energy_distance
from studies.lectures.digits_page import mosaic
from studies.lectures.digits_superresolution import climb


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return digits(str(tmp_path_factory.mktemp("data") / "digits"))


@pytest.fixture(scope="module")
def judge(dataset):
    return Judge(dataset)


def test_images_are_whole_grey_levels_and_every_field_is_the_same_image(dataset):
    rows = {k: dataset[k][:] for k in ("x", "image", "low", "details", "digit")}
    image, whole = rows["image"], np.round(rows["image"])
    assert image.shape == (1797, 1, 8, 8)
    assert np.array_equal(image, whole) and image.min() == 0 and image.max() == 16
    assert np.array_equal(rows["x"], image.reshape(1797, 64))
    blocks = image.reshape(1797, 4, 2, 4, 2).mean((2, 4)).reshape(1797, 16)
    np.testing.assert_allclose(rows["low"], blocks, atol=1e-5)
    again = joined(torch.from_numpy(rows["low"]), torch.from_numpy(rows["details"]))
    np.testing.assert_allclose(again.numpy(), image[:, 0], atol=1e-5)
    assert np.array_equal(np.unique(rows["digit"]), [0, 1])
    counts = rows["digit"].sum(0)
    assert counts.sum() == 1797 and counts.min() >= 170 and counts.max() <= 185


def test_splits_share_no_row_and_leave_none_out(dataset):
    parts = [v.read(["x"])["x"] for v in (dataset.train, dataset.validation, dataset.test)]
    assert sum(map(len, parts)) == 1797
    for part, share in zip(parts, (0.8, 0.1, 0.1)):
        error = math.sqrt(share * (1 - share) / 1797)
        assert abs(len(part) / 1797 - share) < 4 * error
    together = np.unique(np.concatenate(parts), axis=0)  # no two images of 1,797 are the same
    assert len(together) == 1797


def test_spread_rows_round_to_the_images_they_came_from(dataset):
    rows = dataset.test.read(["x", "image", "low", "details", "digit"])
    found = spread_rows(rows, seed=0)
    assert np.array_equal(pixels(found["x"]), rows["image"][:, 0])
    assert torch.equal(found["x"], found["image"].flatten(1))
    low, details = halves(found["image"])
    torch.testing.assert_close(found["low"], low)
    torch.testing.assert_close(found["details"], details)
    assert np.array_equal(found["digit"].numpy(), rows["digit"])
    noise = (found["x"].numpy() - rows["x"]).ravel()
    assert abs(noise.mean()) < 4 / math.sqrt(12 * len(noise))
    assert noise.var() == pytest.approx(1 / 12, rel=4 * math.sqrt(0.8 / len(noise)))


@pytest.mark.parametrize("shape", [(64,), (8, 8), (1, 8, 8)])
def test_pixels_are_grey_levels_whatever_the_shape(shape):
    x = torch.linspace(-3.4, 20, 128).view(2, *shape)
    wanted = np.clip(np.round(np.linspace(-3.4, 20, 128)), 0, 16).reshape(2, 8, 8)
    assert np.array_equal(pixels(x), wanted)


@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_energy_distance_of_shifted_gaussians(shift):
    rng, s = np.random.default_rng(0), math.sqrt(2)
    found = [
        energy_distance(rng.standard_normal((300, 1)), shift + rng.standard_normal((200, 1)))
        for _ in range(20)
    ]
    between = s * math.sqrt(2 / math.pi) * math.exp(-(shift**2) / 4) + shift * math.erf(shift / 2)
    wanted = 2 * (between - 2 / math.sqrt(math.pi))
    assert abs(np.mean(found) - wanted) < 4 * np.std(found, ddof=1) / math.sqrt(20)


def test_mean_distance_of_different_rows():
    assert apart(np.array([[0.0], [3.0], [5.0]])) == pytest.approx((3 + 5 + 2) / 3)
    assert digits_guidance.diversity(
        np.array([[0.0], [3.0], [10.0], [11.0]]), np.array([7, 7, 2, 2])
    ) == pytest.approx((3 + 1) / 2)


def test_the_judge_knows_real_images_copies_and_noise(judge):
    assert judge.accuracy > 0.95
    chance = judge.chance()
    assert abs(chance.distance) < 4 * chance.error
    assert chance.copies == 1 and chance.doubt < 0.1
    train = judge.rows["x"][:300].reshape(-1, 8, 8)
    copies = judge(train)
    assert copies.copies == 0 and copies.distance < 1
    assert (judge.read(train) == judge.rows["digit"][:300].argmax(1)).mean() > 0.97
    noise = judge(np.random.default_rng(0).permuted(train.reshape(300, 64), axis=1))
    assert noise.distance > 5 and noise.doubt > 0.5 and noise.copies > 1.3
    zeros = judge(judge.rows["x"][judge.rows["digit"][:, 0] == 1])  # one digit alone
    assert zeros.distance > 5 and zeros.doubt < 0.05


def test_the_forward_chain_has_the_marginals_of_its_process():
    process = PROCESSES["vp-cosine"](1e-3, 80.0)
    times = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64)
    n, x_0 = 20_000, 2.0
    chain = forward(process, torch.full((n, 1), x_0), times, seed=0)
    for x_t, t in zip(chain, times):
        alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
        assert abs(float(x_t.mean()) - alpha * x_0) < 4 * sigma / math.sqrt(n)
        assert float(x_t.std()) == pytest.approx(sigma, rel=4 / math.sqrt(2 * n))
    step = float(process.alpha(times[2]) / process.alpha(times[1]))  # a Markov chain's regression
    slope = float((chain[1] * chain[2]).mean() / chain[1].square().mean())
    assert abs(slope - step) < 4 / math.sqrt(n)


@pytest.mark.parametrize("name", ["adams", "ddim", "ddpm"])
def test_a_watched_solver_draws_and_says_where_it_was(name):
    process, seen = PROCESSES["vp-cosine"](1e-3, 80.0, 0.5), []

    def denoiser(x_t, alpha, sigma):  # of x_0 ~ N(1, 1/4)
        seen.append(float(sigma / alpha))
        return 1 + 0.25 * alpha / (0.25 * alpha**2 + sigma**2) * (x_t - alpha)

    watched = Watched(denoiser, process)
    x_T = first_noise(process, (4_000, 1), seed=0)
    x_0 = solve(watched, process, x_T, name, 64)
    assert len(watched.times) == 64 and watched.times == sorted(watched.times, reverse=True)
    for t, ratio in zip(watched.times[::7], seen[::7]):
        at = torch.tensor(t, dtype=torch.float64)
        assert float(process.sigma(at) / process.alpha(at)) == pytest.approx(ratio, rel=1e-4)
    assert abs(float(x_0.mean()) - 1) < 4 * 0.5 / math.sqrt(4_000) + 0.01
    assert float(x_0.std()) == pytest.approx(0.5, rel=0.1)
    assert watched.nearest(torch.tensor(watched.times[3:5])) == [3, 4]


def test_the_ascent_ends_at_the_mode_and_never_below_the_start():
    torch.manual_seed(0)
    mode = torch.randn(6, 48)
    q = Independent(Normal(mode, 0.3), 1)
    start = q.sample()
    end = climb(q, start, steps=100)
    assert (end - mode).abs().max() < 0.02
    assert torch.equal(climb(q, mode, steps=3), mode)


def test_a_mosaic_has_every_image_in_its_place():
    images = np.arange(1, 4)[:, None, None] * np.ones((3, 2, 2))
    wanted = [[1, 1, 0, 2, 2], [1, 1, 0, 2, 2], [0] * 5, [3, 3, 0, 0, 0], [3, 3, 0, 0, 0]]
    assert mosaic(images, 2).tolist() == wanted


def test_guidance_from_end_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr(digits_page, "FOLDER", tmp_path)
    small = {"EPOCHS": 2, "STEPS": 150, "EACH": 6, "EVALUATIONS": 8, "WEIGHTS": (0.0, 1.0)}
    for name, value in small.items():
        monkeypatch.setattr(digits_guidance, name, value)
    digits_guidance.main(["--seed", "3"])
    found = json.loads((tmp_path / "digits_guidance.json").read_text())
    classifier, free = (found["measures"][k] for k in ("classifier", "classifier-free"))
    assert found["command"].endswith("digits-guidance --seed 3")
    assert classifier["0.0"] == free["0.0"] and classifier["1.0"] != free["1.0"]
    assert found["real"]["read right"] > 0.95
    assert found["classifier"]["0.2"] > 0.6 > found["classifier"]["5.0"]
    assert classifier["0.0"]["as asked"] < 0.25  # chance is 0.1, the error of 60 draws 0.04
    assert classifier["1.0"]["as asked"] > classifier["0.0"]["as asked"] + 0.2
    page = (tmp_path / "digits_guidance.md").read_text()
    assert (tmp_path / "digits_guidance.png").stat().st_size > 10_000
    assert page.count("(digits_guidance.png)") == 1 and "| classifier-free | 1 |" in page
