"""sequential(): rounds that resume, and a better posterior for the same number of simulations."""

from __future__ import annotations

import math
import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch.distributions import Normal, Uniform

import simgen
from simgen import Dataset, DatasetError, Flow, Prior
from simgen.rounds.proposals import truncated
from simgen.rounds.sequence import round_table, sequential
from simgen.rounds.truncation import TruncatedPrior

PRIOR = Prior({f"t{i}": Uniform(-3.0, 3.0) for i in range(3)})
NOISE = 0.1
SEEN = np.array([0.9, -1.2, 0.3])
# no closed-form start, which would know a linear-Gaussian model at once
MODEL = Flow(transform="affine", transforms=2, hidden=(32,), linear=False)


def linear(theta, rng):
    return {"x": theta + NOISE * rng.standard_normal(theta.shape)}


def simulator(function=linear):
    return simgen.simulator(function, prior=PRIOR, batched=True, name="linear")


def shards(path):
    """Parameters and observations as they are stored."""
    out = []
    for file in sorted(path.glob("shard-*.h5")):
        with h5py.File(file) as shard:
            out += [shard["theta"][()], shard["x"][()]]
    return b"".join(a.tobytes() for a in out)


def truth(n):
    """Draws of the exact posterior: a normal, of which the prior cuts nothing off."""
    return torch.from_numpy(SEEN) + NOISE * torch.randn(
        n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )


def divergence(q) -> float:
    """KL(exact | q) in nats."""
    theta = truth(4000)
    exact = Normal(torch.from_numpy(SEEN), NOISE).log_prob(theta).sum(1)
    return float((exact - q.log_prob(theta)).mean())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three rounds without interruption."""
    path = tmp_path_factory.mktemp("sequence") / "whole"
    options = {"rounds": 3, "model": MODEL, "max_epochs": 40, "progress": False}
    return path, sequential(simulator(), SEEN, 500, path, **options)


def test_rounds_beat_as_many_simulations_from_the_prior(whole, tmp_path) -> None:
    path, posterior = whole
    dataset = simgen.simulate(simulator(), 1500, tmp_path / "prior", progress=False)
    amortised = simgen.fit("theta | x", dataset, MODEL, max_epochs=40, progress=False)
    ours, theirs = divergence(posterior(SEEN)), divergence(amortised(SEEN))
    print(f"KL {ours:.3f} in rounds, {theirs:.3f} from the prior")
    assert ours < 0.7 * theirs
    # the regions hold the exact posterior
    law = truncated(PRIOR, path, Dataset(path).rounds)
    assert float(law.contains(truth(4000)).double().mean()) >= 1 - 1e-3
    assert law.volume.volume < 0.02


def test_the_table_of_rounds(whole) -> None:
    path, posterior = whole
    table = posterior.provenance["rounds"]
    assert table == round_table(Dataset(path), posterior)
    assert [row["round"] for row in table] == [0, 1, 2]
    assert [row["first"] for row in table] == [0, 500, 1000]
    assert [row["rows"] for row in table] == [500, 500, 500]
    assert table[0]["volume"] == 1 and table[0]["acceptance"] == 1
    assert 1 > table[1]["volume"] > table[2]["volume"]
    assert all(math.isfinite(row["held_out_loss"]) for row in table)
    assert table[2]["training_rows"] == posterior.provenance["training"]["rows"]
    assert isinstance(posterior.prior, TruncatedPrior)
    assert Dataset(path).verify() == []


def test_interrupted_it_goes_on_to_the_same_posterior(whole, tmp_path) -> None:
    path, options = tmp_path / "d", {"rounds": 3, "model": MODEL, "max_epochs": 40}
    calls = 0

    def counted(theta, rng):
        nonlocal calls
        calls += 1
        if calls == 5:  # two blocks of the first round, one that is compared, one of the second
            raise KeyboardInterrupt
        return linear(theta, rng)

    with pytest.raises(KeyboardInterrupt):
        sequential(simulator(counted), SEEN, 500, path, progress=False, **options)
    before = len(Dataset(path))
    assert 500 <= before < 1000 and len(Dataset(path).rounds) == 2
    calls = -1000
    posterior = sequential(simulator(counted), SEEN, 500, path, progress=False, **options)
    assert shards(path) == shards(whole[0])
    x = torch.from_numpy(SEEN)
    assert torch.equal(posterior(x).sample((9,), seed=0), whole[1](x).sample((9,), seed=0))
    calls = 0
    again = sequential(simulator(counted), SEEN, 500, path, progress=False, **options)
    assert calls <= 1  # the comparison of the first block
    assert torch.equal(again(x).sample((9,), seed=0), posterior(x).sample((9,), seed=0))


def test_the_command_does_the_same(tmp_path, capsys) -> None:
    from simgen.cli import main

    (tmp_path / "mine.py").write_text(SCRIPT)
    words = ["sequential", f"{tmp_path / 'mine.py'}:mine", "-n", "300", "--rounds", "2"]
    words += ["--data", str(tmp_path / "d"), "-o", str(tmp_path / "p.safetensors")]
    with pytest.raises(SystemExit) as end:
        main([*words, "--given", "0.3,0.4", "--max-epochs", "1"])
    assert end.value.code == 0
    assert "held_out_loss" in capsys.readouterr().out
    assert len(Dataset(tmp_path / "d")) == 600
    assert isinstance(simgen.load(tmp_path / "p.safetensors").prior, TruncatedPrior)
    with pytest.raises(SystemExit) as end:
        main([*words, "--given", "0.3,0.4,0.5"])
    assert end.value.code == 2 and "must have shape (2,)" in capsys.readouterr().err


SCRIPT = """
import simgen
from torch.distributions import Uniform

@simgen.simulator(prior=simgen.Prior(mu=Uniform(-1.0, 1.0)))
def mine(theta, rng):
    return theta + 0.1 * rng.standard_normal(2)
"""


def test_what_does_not_fit_is_refused(whole, tmp_path) -> None:
    path, _ = whole
    with pytest.raises(DatasetError, match="another observation"):
        sequential(simulator(), SEEN + 1, 500, path, rounds=4, model=MODEL)
    with pytest.raises(DatasetError, match="has 3 rounds already"):
        sequential(simulator(), SEEN, 500, path, rounds=2, model=MODEL)
    for n, rounds in ((0, 2), ([500, 500], 3), (500, 0)):
        with pytest.raises(ValueError, match="positive number for each"):
            sequential(simulator(), SEEN, n, tmp_path / "n", rounds=rounds, model=MODEL)


def test_the_page_runs(tmp_path, monkeypatch):
    """docs/sequential.md, with fewer rows."""
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[3] / "docs/sequential.md").read_text()
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.S))
    small = "rounds=2, model=simgen.Flow(transforms=1, hidden=(16,))"
    fewer = {"10_000": "2000", "1_000": "300", "2_000": "600", "rounds=3": small}
    for much, little in fewer.items():
        code = code.replace(much, little)
    names = {}
    exec(code, names)
    theta = names["theta"].double()
    off = (theta.mean(0) - torch.as_tensor(names["x_o"])).abs()
    assert float(off.max()) < 0.5 and float(theta.std(0).max()) < 1
