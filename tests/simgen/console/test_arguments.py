"""Arguments: simulators, settings and families from text."""

import pytest

import simgen
from simgen.console import arguments

MODULE = """
import simgen
from torch.distributions import Normal


class Mine(simgen.Simulator):
    prior = simgen.Prior(mu=Normal(0.0, 1.0))

    def __init__(self, width=1.0, label="a"):
        self.width, self.label = width, label

    def simulate(self, theta, rng):
        return theta + self.width * rng.standard_normal(theta.shape)


made = Mine(2.0)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "argument_simulators.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return "argument_simulators"


def test_a_simulator_by_preset_class_instance_and_file(module):
    assert arguments.simulator("collider", {"events": "50"}).settings["events"] == 50
    mine = arguments.simulator(f"{module}:Mine", {"width": "0.5", "label": "b"})
    assert mine.settings == {"width": 0.5, "label": "b"}
    assert arguments.simulator(f"{module}:made").settings["width"] == 2.0
    assert arguments.simulator(f"{module}.py:made").settings["width"] == 2.0
    assert arguments.prior(f"{module}:Mine").names == ("mu",)


@pytest.mark.parametrize(
    "name, chosen, said",
    [
        ("argument_simulators:Mine", {"depth": "3"}, "depth"),
        ("argument_simulators:made", {"width": "3"}, "no settings"),
        ("argument_simulators:simgen", {}, "not a Simulator"),
        ("argument_simulators:Nobody", {}, "Mine, made"),
        ("argument_simulators.py", {}, "no built-in"),
        ("nothing.py:made", {}, "no file"),
        ("supernovae", {}, "data"),
    ],
)
def test_a_simulator_that_is_not_there(module, name, chosen, said):
    with pytest.raises(ValueError, match=said):
        arguments.simulator(name, chosen)


def test_settings_are_pairs():
    assert arguments.settings(["a=1", "b-c = x=y"]) == {"a": "1", "b_c": "x=y"}
    for wrong in (["a"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(ValueError):
            arguments.settings(wrong)


def test_a_family_takes_its_settings_by_their_types():
    chosen = {"transform": "affine", "transforms": "3", "hidden": "64, 32", "permute": "no"}
    wanted = simgen.Flow(transform="affine", transforms=3, hidden=(64, 32), permute=False)
    assert arguments.family("flow", chosen) == wanted
    assert arguments.family("Flow", {"transforms": "none"}) == simgen.Flow()


@pytest.mark.parametrize(
    "name, chosen, said",
    [
        ("flows", {}, "there are flow"),
        ("flow", {"layers": "3"}, "transforms"),
        ("flow", {"transforms": "2.5"}, "whole number"),
        ("flow", {"hidden": "64,wide"}, "list of a whole number"),
        ("flow", {"permute": "maybe"}, "true or false"),
        ("flow", {"transforms": "0"}, "at least 1"),
    ],
)
def test_a_family_that_cannot_be(name, chosen, said):
    with pytest.raises(ValueError, match=said):
        arguments.family(name, chosen)


def test_shares_of_a_split():
    assert arguments.shares("0.8,0.1,0.1") == (0.8, 0.1, 0.1)
    with pytest.raises(ValueError, match="three shares"):
        arguments.shares("0.8,rest")
