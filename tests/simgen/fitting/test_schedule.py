"""Schedule: the rule, the rate."""

import pytest

from simgen.fitting.schedule import Schedule, default_schedule, image_schedule, surrogate_schedule


def test_rule_follows_rows_and_columns():
    few, many = default_schedule(900, 2), default_schedule(900_000, 2)
    assert few.max_epochs > many.max_epochs and few.batch_size < many.batch_size
    small, large = default_schedule(9_000, 2), default_schedule(9_000, 10)
    assert small.weight_decay == pytest.approx(0.16) and large.weight_decay == pytest.approx(4.0)
    assert small.max_epochs > large.max_epochs
    assert default_schedule(9_000, 2, vectors=False).learning_rate < small.learning_rate


def test_rate_warms_up_and_decays():
    plan = Schedule(256, 1e-3, 10, 3, warmup=0.1)
    rates = [plan.rate(s / 100) for s in range(101)]
    top = rates.index(max(rates))
    assert top == 10 and rates[10] == pytest.approx(1e-3)
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.5e-3) and rates[-1] < 1e-9


def test_bad_settings():
    with pytest.raises(ValueError, match="batch_size must be positive"):
        Schedule(0, 1e-3, 10, 3)


def test_images_take_as_many_steps_of_smaller_batches():
    plan = image_schedule(9_000)
    assert plan.batch_size == 64 and 3_500 < plan.max_epochs * 9_000 / 64 < 4_500
    assert image_schedule(900_000).max_epochs == 10


def test_the_rate_falls_with_the_columns():
    rates = [default_schedule(9_000, d).learning_rate for d in (1, 5, 8, 10, 50)]
    assert rates == pytest.approx([4e-3, 4e-3, 4e-3 * 25 / 64, 1e-3, 1e-3])


def test_surrogates_train_longer_with_less_decay():
    plan, other = surrogate_schedule(9_000), default_schedule(9_000, 8)
    assert 2.5 < plan.max_epochs / other.max_epochs < 3.5
    assert plan.weight_decay < other.weight_decay / 100
    assert surrogate_schedule(900).max_epochs <= 200
