import torch

from simgen.calibration.ranks import count_below


def test_counts_by_hand() -> None:
    draws = torch.tensor([[[1.0, 5.0]], [[2.0, 5.0]], [[3.0, 7.0]]])
    below, ties = count_below(draws, torch.tensor([[2.5, 5.0]]))
    assert below.tolist() == [[2, 0]]
    assert ties.tolist() == [[0, 2]]
