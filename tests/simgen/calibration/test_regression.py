import numpy as np
import pytest

from simgen.calibration.regression import predict, summaries


def linear(n: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, 4))
    return x, x[:, :2] @ np.array([[1.0, 2.0], [-1.0, 0.5]]) + noise * rng.standard_normal((n, 2))


def test_learns_a_linear_relation_from_the_past() -> None:
    x, y = linear(800, 0.1)
    prediction = predict({"x": x}, y)
    late = slice(400, None)
    # Features are x on a logarithmic scale: not linear exactly, so errors exceed the noise.
    assert np.std(prediction.mean[late] - y[late]) < 0.15
    assert np.allclose(prediction.scale[late], 0.1, atol=0.06)
    assert not prediction.rows[:100].any() and prediction.rows[100:].all()


def test_uses_no_pair_from_the_present_or_the_future() -> None:
    x, y = linear(400, 0.1)
    changed = y.copy()
    changed[200:] += 10.0
    before, after = predict({"x": x}, y), predict({"x": x}, changed)
    assert np.array_equal(before.mean[50:250], after.mean[50:250])
    assert not np.allclose(before.mean[300:], after.mean[300:])


def test_without_given_the_prediction_is_the_mean_of_the_past() -> None:
    _, y = linear(80, 0.1)
    prediction = predict({}, y)
    assert np.allclose(prediction.mean[10], y[:10].mean(0))
    assert np.allclose(prediction.mean[79], y[:70].mean(0))


@pytest.mark.parametrize("shape", [(), (3,), (200,), (60, 4), (1, 16, 16)])
def test_summaries_are_finite_standardised_and_find_an_amplitude(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    amplitude = np.exp(rng.uniform(-1, 1, 300))
    noise = rng.standard_normal((300, *shape))
    x = amplitude.reshape(-1, *[1] * len(shape)) * (1.0 + 0.3 * noise)
    h = summaries({"x": x})
    assert np.isfinite(h).all() and np.abs(h).max() < 60
    prediction = predict({"x": x}, np.log(amplitude)[:, None])
    error = (prediction.mean - np.log(amplitude)[:, None])[prediction.rows]
    assert np.std(error) < 0.75 * np.std(np.log(amplitude))


def test_constant_and_heavy_tailed_columns_do_no_harm() -> None:
    rng = np.random.default_rng(1)
    x = np.stack([np.ones(400), rng.standard_cauchy(400), rng.standard_normal(400)], 1)
    y = x[:, 2:] + 0.1 * rng.standard_normal((400, 1))
    prediction = predict({"x": x}, y)
    assert np.std((prediction.mean - y)[100:]) < 0.6
