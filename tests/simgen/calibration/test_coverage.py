import pytest
import torch
from torch.distributions import Normal

from simgen.calibration.coverage import count_denser


def test_counts_by_hand() -> None:
    inf = float("inf")
    denser, ties = count_denser(
        torch.tensor([[0.0, 1.0], [-1.0, 1.0]]), torch.tensor([-0.5, -inf])
    )
    assert denser.tolist() == [1, 2]
    assert ties.tolist() == [0, 0]


def test_level_is_the_mass_of_the_densest_region() -> None:
    torch.manual_seed(0)
    q, truth = Normal(0.0, 1.0), torch.tensor([0.5, 1.0, 2.0])
    draws = q.sample((40_000, 1))
    denser, _ = count_denser(q.log_prob(draws).expand(-1, 3), q.log_prob(truth))
    expected = q.cdf(truth) - q.cdf(-truth)
    assert torch.allclose(denser / 40_000, expected, atol=4 * 0.5 / 200)


def test_nan_is_an_error() -> None:
    with pytest.raises(ValueError, match="NaN"):
        count_denser(torch.zeros(3, 1), torch.tensor([float("nan")]))
