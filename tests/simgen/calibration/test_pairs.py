import numpy as np
import pytest

from simgen.calibration.pairs import select
from simgen.dataset import Dataset, DatasetError
from simgen.expression import parse

N = 200
POSTERIOR = parse("theta | x")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    theta = np.arange(2 * N, dtype=np.float32).reshape(N, 2)
    x = theta[:, :1] + 0.5
    path = tmp_path_factory.mktemp("pairs") / "data"
    Dataset.create(path, theta=theta, x=x)
    return Dataset(path, split=(0.7, 0.2, 0.1))


def rows_of(pairs) -> np.ndarray:
    return (pairs.truth[:, 0] / 2).astype(int)


def provenance(dataset: Dataset, **changes) -> dict:
    known = {"identity": dataset.identity, "rows": len(dataset), "split": list(dataset.split)}
    return known | changes


def test_of_another_dataset_all_rows(dataset: Dataset) -> None:
    for known in (None, provenance(dataset, identity="another")):
        pairs = select(dataset, POSTERIOR, known, 1000, 0)
        assert np.array_equal(rows_of(pairs), np.arange(N))
        assert np.allclose(pairs.given["x"][:, 0], pairs.truth[:, 0] + 0.5)


def test_of_the_training_dataset_test_rows(dataset: Dataset) -> None:
    pairs = select(dataset, POSTERIOR, provenance(dataset), 1000, 0)
    assert np.array_equal(rows_of(pairs), dataset.test.rows)
    assert "test rows" in pairs.source and not pairs.notes


def test_rows_simulated_after_training_count(dataset: Dataset) -> None:
    pairs = select(dataset, POSTERIOR, provenance(dataset, rows=N - 30), 1000, 0)
    expected = np.union1d(dataset.test.rows, np.arange(N - 30, N))
    assert np.array_equal(rows_of(pairs), expected)
    assert "30 rows simulated after training" in pairs.source


def test_the_split_of_training_counts_not_the_one_the_dataset_is_opened_with(
    dataset: Dataset,
) -> None:
    other = Dataset(dataset.path, split=(0.1, 0.0, 0.9))
    pairs = select(other, POSTERIOR, provenance(dataset), 1000, 0)
    assert np.array_equal(rows_of(pairs), dataset.test.rows)
    assert len(other.test.rows) > len(dataset.test.rows)


def test_validation_rows_are_the_last_resort_and_the_verdict_says_so(dataset: Dataset) -> None:
    two = Dataset(dataset.path, split=(0.8, 0.2, 0.0))
    pairs = select(two, POSTERIOR, provenance(two), 1000, 0)
    assert np.array_equal(rows_of(pairs), two.validation.rows)
    assert "validation rows" in pairs.source and "flatter" in pairs.notes[0]


def test_none_left_is_an_error(dataset: Dataset) -> None:
    one = Dataset(dataset.path, split=(1.0, 0.0, 0.0))
    with pytest.raises(DatasetError, match="trained on every row"):
        select(one, POSTERIOR, provenance(one), 1000, 0)


def test_a_random_part_in_order(dataset: Dataset) -> None:
    first, again = (select(dataset, POSTERIOR, None, 50, 3) for _ in range(2))
    rows = rows_of(first)
    assert len(rows) == 50 and np.all(np.diff(rows) > 0)
    assert np.array_equal(rows, rows_of(again))
    assert not np.array_equal(rows, rows_of(select(dataset, POSTERIOR, None, 50, 4)))


def test_parameters_by_name(dataset: Dataset) -> None:
    names = dataset.fields["theta"].names or ()
    pairs = select(dataset, parse(f"{names[1]} | x"), None, 1000, 0)
    assert np.array_equal(pairs.truth[:, 0], np.arange(1, 2 * N, 2))
    assert pairs.names == (names[1],)


def test_weights_thin_the_rows() -> None:
    rng = np.random.default_rng(0)
    theta = rng.uniform(0, 1, (20_000, 1))
    data = {"theta": theta, "x": theta, "weight": 2 * theta[:, 0]}
    pairs = select(data, POSTERIOR, None, 100_000, 0)
    # Density 2 theta: mean 2/3, standard deviation sqrt(1/18).
    assert abs(pairs.truth.mean() - 2 / 3) < 4 * (1 / 18) ** 0.5 / len(pairs) ** 0.5
    with pytest.raises(ValueError, match="not negative"):
        select(data | {"weight": theta[:, 0] - 0.5}, POSTERIOR, None, 10, 0)


def test_rows_that_are_not_finite_are_left_out() -> None:
    theta = np.ones((30, 2))
    x = np.ones((30, 3))
    x[4, 1], theta[7, 0] = np.nan, np.inf
    pairs = select({"theta": theta, "x": x}, POSTERIOR, None, 100, 0)
    assert len(pairs) == 28 and "2 rows" in pairs.notes[0]


def test_lengths_go_along() -> None:
    data = {"theta": np.ones((5, 1)), "x": np.ones((5, 4, 2)), "x_length": np.arange(5)}
    assert list(select(data, POSTERIOR, None, 10, 0).given) == ["x", "x_length"]
