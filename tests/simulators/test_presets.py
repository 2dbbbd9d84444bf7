import subprocess
import sys

import pytest

import simulators


def test_importing_loads_no_simulator():
    code = (
        "import sys, simulators\n"
        "loaded = [name for name in sys.modules if name.startswith(('simulators.', 'torch'))]\n"
        "assert not loaded, loaded\n"
        "assert 'ColliderShower' in dir(simulators)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", [name for name in simulators.PRESETS if name != "supernovae"])
def test_presets_simulate(name):
    if name == "pythia":
        pytest.importorskip("pythia8mc")
    simulator = simulators.get(name)
    preset = simulators.PRESETS[name]
    assert type(simulator) is getattr(simulators, preset.cls)
    assert len(preset.description) < 100 and "\n" not in preset.description
    theta = 2 if simulator.prior is None else simulator.prior.sample((2,), seed=0).numpy()
    first, second = simulator(theta, seed=1), simulator(theta, seed=1)
    assert len(first["x"]) == 2
    assert (first["x"] == second["x"]).all()


def test_the_supernovae_ask_for_their_data():
    with pytest.raises(ValueError, match="data"):
        simulators.get("supernovae")


def test_arguments_go_before_the_preset():
    simulator = simulators.get("collider", detector="sharp")
    assert (simulator.detector, simulator.events) == ("sharp", 300)


def test_unknown_names_are_listed():
    with pytest.raises(
        ValueError, match="no built-in simulator 'colider'; there are collider, map"
    ):
        simulators.get("colider")
    with pytest.raises(ValueError, match="takes no argument event; it takes detector, events"):
        simulators.get("collider", event=3)
    with pytest.raises(AttributeError, match="Collider"):
        simulators.Collider  # noqa: B018


def test_answers_are_those_that_the_settings_leave():
    assert simulators.get("lens").answers == ("log_likelihood",)
    assert simulators.get("lens-subhalos").answers == ()
    assert simulators.get("collider").answers == ("log_likelihood", "exact_posterior")
    assert simulators.get("map-quick", field="lognormal").answers == ()
    assert simulators.get("map-quick", field="lognormal", noise=False).answers
    assert simulators.get("galaxies").answers == ()
