import numpy as np
import torch

from simgen.calibration.regression import predict
from simgen.calibration.tarp import count_closer, reference_points


def test_counts_by_hand() -> None:
    draws = torch.tensor([[[0.0, 0.0]], [[3.0, 0.0]], [[0.0, 8.0]]])
    truth, reference = torch.tensor([[0.0, 4.0]]), torch.zeros(1, 2)
    closer, ties = count_closer(draws, truth, reference, torch.ones(1, 2))
    assert (closer.item(), ties.item()) == (2, 0)
    closer, _ = count_closer(draws, truth, reference, torch.tensor([[0.1, 10.0]]))
    assert closer.item() == 1


def test_references_depend_on_x_and_scatter_by_the_error_of_the_prediction() -> None:
    rng = np.random.default_rng(0)
    theta = rng.standard_normal((4000, 1))
    x = theta + 0.5 * rng.standard_normal((4000, 1))
    prediction = predict({"x": x}, theta)
    r = reference_points(prediction, rng)[prediction.rows]
    best = (x / 1.25)[prediction.rows]
    assert np.corrcoef(r[:, 0], x[prediction.rows, 0])[0, 1] > 0.85
    # The error of the best prediction is sqrt(0.2).
    assert abs(np.std(r - best) / np.sqrt(0.2) - 1) < 0.1
