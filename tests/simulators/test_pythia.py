import itertools
import json
import pickle
import re
import sys
import time

import numpy as np
import pytest

from simgen.diagnosis import diagnose
from simulators.jets import anti_kt, thrust
from simulators.parton_shower import JET_PT, JET_RADIUS
from simulators.pythia import LARGEST_SEED, SETTINGS, PythiaEvents


@pytest.fixture(scope="module")
def pythia8():
    return pytest.importorskip("pythia8mc")


def start(pythia8, alpha_s, *settings):
    """A Pythia of its own, all of it initialised at alpha_s, and not quiet."""
    generator = pythia8.Pythia("", False)
    for setting in (*SETTINGS[1:], f"TimeShower:alphaSvalue = {alpha_s!r}", *settings):
        assert generator.readString(setting)
    assert generator.init()
    return generator


@pytest.mark.parametrize("hadrons", [True, False])
def test_events_are_those_of_a_new_pythia(pythia8, hadrons):
    """To the bit; and Pythia's thrust and jets are those of `simulators.jets`."""
    simulator = PythiaEvents(events=40, hadrons=hadrons)
    theta = np.array([[0.13], [0.10], [0.14]])
    x = simulator.simulate(theta, np.random.default_rng(4))["x"]
    seeds = np.random.default_rng(4).integers(1, LARGEST_SEED, 3, endpoint=True)
    level = f"HadronLevel:all = {'on' if hadrons else 'off'}"
    for row, alpha_s, seed in zip(x, theta[:, 0].tolist(), seeds.tolist()):
        generator = start(pythia8, alpha_s, level, "TimeShower:pTmin = 1.5")
        generator.rndm.init(seed)
        for tau, n_jets, number in row:
            assert generator.next()
            final = [p for p in generator.event if p.isFinal()]
            seen = [(p.px(), p.py(), p.pz(), p.e()) for p in final if p.isVisible()]
            count = np.array([len(seen)])
            assert tau == pytest.approx(1 - thrust(np.array([seen]))[0][0], abs=1e-12)
            jets = anti_kt(np.array([seen]), count, JET_RADIUS, JET_PT, "numpy")
            assert n_jets == jets.counts[0]
            assert number == (sum(p.isCharged() for p in final) if hadrons else len(final))


def test_rows_are_repeatable_and_know_nothing_of_each_other(pythia8):
    simulator = PythiaEvents(events=20)
    first = simulator(np.array([[0.10], [0.12], [0.14]]), seed=1)["x"]
    again = simulator(np.array([[0.13], [0.12], [0.11]]), seed=1)["x"]
    other = simulator(np.array([[0.10], [0.12], [0.14]]), seed=2)["x"]
    np.testing.assert_array_equal(first[1], again[1])
    assert (first != again)[[0, 2]].any((1, 2)).all() and (first != other).any((1, 2)).all()
    assert len(np.unique(first[..., 0])) > 50


@pytest.mark.parametrize("hadrons", [True, False])
def test_more_coupling_more_particles_and_fatter_events(pythia8, hadrons):
    """Pythia's default cut-off, raised in silence, would bend this."""
    x = PythiaEvents(2000, hadrons)(np.array([[0.10], [0.12], [0.14]]))["x"].astype(float)
    mean, error = x.mean(1), x.std(1) / 2000**0.5
    for low, high in itertools.pairwise(range(3)):
        for column in (0, 2):
            step = mean[high, column] - mean[low, column]
            assert step > 3 * np.hypot(error[low, column], error[high, column])
    assert mean[2, 1] - mean[0, 1] > 3 * np.hypot(error[0, 1], error[2, 1])


def test_shapes_are_in_range_and_charge_is_conserved(pythia8):
    x = PythiaEvents(500)(np.array([[0.12]]))["x"][0]
    assert (x[:, 0] > 0).all() and (x[:, 0] < 0.5).all()
    assert (x[:, 1:] == x[:, 1:].round()).all() and (x[:, 1] >= 0).all()
    assert (x[:, 2] % 2 == 0).all() and (x[:, 2] > 0).all()


def test_charged_multiplicity_of_the_z(pythia8):
    """Pythia's own tune at its own cut-off against LEP's 20.76 (PDG)."""
    x = PythiaEvents(2000, cutoff=0.5)(np.array([[0.1365]]))["x"][0, :, 2].astype(float)
    assert abs(x.mean() - 20.76) < 0.3 + 4 * x.std() / 2000**0.5


@pytest.mark.parametrize("alpha_s, side", [(0.15, -1), (0.15, 1), (0.2, -1)])
def test_a_cut_off_that_pythia_would_raise_is_an_error(pythia8, capfd, alpha_s, side):
    with pytest.raises(ValueError, match=r"would raise the cut-off from 0\.1 to \d") as error:
        PythiaEvents(1, cutoff=0.1)(np.array([[alpha_s]]))
    least = float(re.search(r"to (\d\.\d+) GeV", str(error.value))[1])
    start(pythia8, alpha_s, f"TimeShower:pTmin = {least + side * 1e-3}")
    assert ("pTmin too low , raised to" in capfd.readouterr().out) == (side < 0)


def test_nothing_is_printed(pythia8, capfd):
    PythiaEvents(3)(np.array([[0.12]]))
    assert capfd.readouterr() == ("", "")


def test_keeps_the_rules(pythia8):
    found = diagnose(PythiaEvents(events=2), rows=16)
    assert not [f for f in found.findings if f.passed is False]


def test_prior_settings_and_pickle():
    simulator = PythiaEvents(events=30, hadrons=False)
    assert json.loads(json.dumps(simulator.settings)) == {
        "events": 30,
        "hadrons": False,
        "cutoff": 1.5,
    }
    assert simulator.prior.names == simulator.names == ("alpha_s",)
    np.testing.assert_allclose([*simulator.prior.low, *simulator.prior.high], [0.10, 0.14])
    assert simulator.fields["x"].names == ("tau", "n_jets", "n_partons")
    assert pickle.loads(pickle.dumps(simulator)).settings == simulator.settings


def test_without_pythia_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pythia8mc", None)
    with pytest.raises(ImportError, match=r'pip install "simgen\[pythia\]"'):
        PythiaEvents()(np.array([[0.12]]))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"events": 0}, "events must be a whole number of at least 1; got 0"),
        ({"events": 2.5}, "events must be a whole number"),
        ({"events": True}, "events must be a whole number"),
        ({"cutoff": 2.5}, "Pythia takes a cutoff from 0.1 to 2 GeV; got 2.5"),
        ({"cutoff": float("nan")}, "Pythia takes a cutoff"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        PythiaEvents(**arguments)


@pytest.mark.parametrize(
    "theta, message",
    [
        ([[0.26]], "Pythia takes alpha_s from 0.06 to 0.25; got 0.26"),
        ([[np.nan]], "Pythia takes alpha_s from"),
        ([[0.1, 0.2]], r"theta must be \(n, 1\)"),
    ],
)
def test_bad_parameters(pythia8, theta, message):
    with pytest.raises(ValueError, match=message):
        PythiaEvents().simulate(np.array(theta), np.random.default_rng(0))


def test_throughput(pythia8):
    simulator, theta = PythiaEvents(), np.full((5, 1), 0.12)
    begin = time.process_time()
    simulator(theta)
    print(f"{500 / (time.process_time() - begin):,.0f} events per CPU-second")
