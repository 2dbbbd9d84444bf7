"""Rounds: simulations inside a region, in one dataset, with the same bytes whatever happens."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Normal, Uniform

import simgen
from simgen import Dataset, DatasetError, Flow, Prior, fit, simulate
from simgen.campaign.coordinator import draw_theta
from simgen.campaign.restoration import restore
from simgen.expression import parse
from simgen.forward import BLOCK, stream
from simgen.rounds.proposals import rows_following, rows_for, truncated
from simgen.rounds.truncation import TruncatedPrior

PRIOR = Prior(mu=Uniform(-2.0, 2.0), tau=Normal(0.0, 1.0))
SEEN = np.array([0.5, -0.4])
SMALL = Flow(transform="affine", transforms=1, hidden=(8,))
NOISE = 0.25


def noisy(theta, rng):
    return {"x": theta + NOISE * rng.standard_normal(theta.shape)}


def simulator(function=noisy):
    return simgen.simulator(function, prior=PRIOR, batched=True, name="noisy")


def learned(dataset, **options):
    return fit("theta | x", dataset, SMALL, max_epochs=3, progress=False, **options)


def content(path):
    """Every stored byte of every field, row by row."""
    names = ("theta", "x", "row", "round", "status")
    out = {name: b"" for name in names}
    for file in sorted(path.glob("shard-*.h5")):
        with h5py.File(file) as shard:
            out |= {name: out[name] + shard[name][()].tobytes() for name in names}
    return out


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A dataset of round 0, which ends within a block, and a posterior for one observation."""
    path = tmp_path_factory.mktemp("rounds") / "first"
    dataset = simulate(simulator(), 600, path, seed=3, block=64, shard_size=128)
    return path, learned(dataset)(SEEN)


@pytest.fixture(scope="module")
def two(first, tmp_path_factory):
    """The same with a second round of 700 rows."""
    path = tmp_path_factory.mktemp("rounds") / "two"
    shutil.copytree(first[0], path)
    return simulate(simulator(), 1300, path, seed=3, proposal=first[1])


def copied(first, tmp_path):
    shutil.copytree(first[0], tmp_path / "d")
    return tmp_path / "d"


def test_parameters_are_those_of_the_truncated_prior(two) -> None:
    theta = two["theta"][600:]
    law = truncated(PRIOR, two.path, two.rounds)
    assert isinstance(law, TruncatedPrior)
    assert law.contains(torch.from_numpy(theta)).all()
    # each marginal is that of prior times indicator on a grid
    edges = [np.linspace(a, b, 401) for a, b in ((-2.0, 2.0), (-4.0, 4.0))]
    middle = [(e[1:] + e[:-1]) / 2 for e in edges]
    grid = torch.tensor(np.stack(np.meshgrid(*middle, indexing="ij"), -1).reshape(-1, 2))
    mass = (PRIOR.log_prob(grid).exp() * law.contains(grid)).view(400, 400).numpy()
    for i, at in enumerate(edges):
        cdf = np.concatenate([[0.0], mass.sum(1 - i).cumsum()]) / mass.sum()
        found = stats.kstest(theta[:, i], lambda t, at=at, cdf=cdf: np.interp(t, at, cdf))
        assert found.pvalue > 1e-3
    area = (edges[0][1] - edges[0][0]) * (edges[1][1] - edges[1][0])
    assert law.volume.volume == pytest.approx(mass.sum() * area, rel=0.1)
    # the streams are those that the design names; round 1 starts within block 9
    assert np.array_equal(theta[: 640 - 600], draw_theta(law, 3, 9, 64, 1)[24:])
    assert np.array_equal(theta[640 - 600 : 704 - 600], draw_theta(law, 3, 10, 64, 1))
    x = noisy(theta[40:104].astype(float), stream(3, BLOCK, 10))["x"]
    assert np.array_equal(two["x"][640:704], x.astype(np.float32))


def test_the_same_bytes_in_parts_in_pieces_and_by_workers(first, two, tmp_path) -> None:
    wanted = content(two.path)
    path = copied(first, tmp_path)
    for part in ("2/2", "1/2"):
        simulate(simulator(), 1300, path, seed=3, proposal=first[1], part=part)
    assert content(path) == wanted and Dataset(path).verify() == []
    path = copied(first, tmp_path / "again")
    with ThreadPoolExecutor(2) as executor:
        simulate(simulator(), 800, path, seed=3, proposal=first[1], executor=executor)
    simulate(simulator(), 1000, path, seed=3)  # the last round goes on
    simulate(simulator(), 1300, path, seed=3, proposal=first[1])
    assert content(path) == wanted
    assert len(Dataset(path).rounds) == 2
    # what is lost is simulated again by the stored region
    for start in (128, 1024):
        (path / f"shard-{start:08d}.h5").unlink()
    assert restore(path, simulator(), progress=False)
    assert content(path) == wanted


def test_the_same_bytes_after_an_interruption(first, two, tmp_path) -> None:
    path, calls = copied(first, tmp_path), 0

    def interrupted(theta, rng):
        nonlocal calls
        calls += 1
        if calls == 8:
            raise KeyboardInterrupt
        return noisy(theta, rng)

    with pytest.raises(KeyboardInterrupt):
        simulate(simulator(interrupted), 1300, path, seed=3, proposal=first[1])
    assert 600 <= len(Dataset(path)) < 1300 and len(Dataset(path).rounds) == 2
    dataset = simulate(simulator(), 1300, path, seed=3)  # another process knows no proposal
    assert content(path) == content(two.path)
    assert dataset.verify() == []


def test_a_round_says_where_it_comes_from(first, two) -> None:
    entry = json.loads((two.path / "dataset.json").read_text())["rounds"][1]
    assert entry["first"] == 600
    assert entry["observation"]["x"] == pytest.approx(SEEN.tolist())
    proposal = entry["proposal"]
    assert proposal["file"] == "round-1.safetensors" and proposal["quantile"] == 1e-4
    assert proposal["model"]["rows"] == first[1].conditional.provenance["training"]["rows"]
    assert 0 < proposal["volume"] < 0.5 and proposal["origin"] == "prior"
    assert two.provenance["rounds"][1]["proposal"] == proposal
    with h5py.File(two.path / "index.h5") as index:
        assert np.array_equal(index["round"][()], np.arange(1300) >= 600)
    assert two.verify() == []
    from simgen.console.inspection import inspect

    (section,) = [s for s in inspect(two.path) if s.title.startswith("rounds for")]
    assert "[0.5, -0.4" in section.title
    assert section.rows[0][:4] == ("0", "0", "600", "1")
    assert section.rows[1][:3] == ("1", "600", "700")
    assert section.rows[1][4:] == ("prior", "round-1.safetensors")
    # an observation in another type is the same one, and resumes
    again = first[1].conditional(torch.tensor(SEEN, dtype=torch.float32))
    assert len(simulate(simulator(), 1300, two.path, seed=3, proposal=again)) == 1300


def test_each_expression_takes_the_rows_that_it_can(two) -> None:
    n = np.arange(1300)
    law = truncated(PRIOR, two.path, two.rounds)
    within = law.contains(torch.from_numpy(two["theta"][:])).numpy()
    assert within[600:].all() and 20 < within[:600].sum() < 300
    wanted = {
        "theta | x": within,
        "mu | x": within,
        "mu | tau, x": within,
        "theta, x": within,
        "x | theta": n >= 0,
        "x | mu, tau": n >= 0,
        "x": n < 600,
        "x | mu": n < 600,
    }
    for expression, rows in wanted.items():
        chosen = rows_for(two, parse(expression))
        assert np.array_equal(chosen.good.rows, n[rows]), expression
        sides = [chosen.train.rows, chosen.validation.rows, chosen.test.rows]
        assert np.array_equal(np.sort(np.concatenate(sides)), n[rows])
        assert set(chosen.train.rows) <= set(two.train.rows)
    assert rows_for(two, parse("theta | x")).prior.volume == law.volume
    assert rows_for(two, parse("x | theta")).prior is two.prior
    posterior = learned(two)
    assert posterior.provenance["training"]["rows"] == (within[two.train.rows]).sum()
    surrogate = fit("x | theta", two, SMALL, max_epochs=1, progress=False)
    assert surrogate.provenance["training"]["rows"] == len(two.train)
    assert not isinstance(surrogate.prior, TruncatedPrior)


def test_a_posterior_knows_the_truncation(two, tmp_path) -> None:
    posterior = learned(two)
    posterior.save(tmp_path / "p.safetensors")
    at = torch.tensor([[0.5, -0.4], [-1.5, 2.0]])
    for made in (
        posterior,
        simgen.load(tmp_path / "p.safetensors"),
        simgen.load(tmp_path / "p.safetensors", prior=PRIOR),
    ):
        assert isinstance(made.prior, TruncatedPrior)
        assert made.prior.log_prob(at).isfinite().tolist() == [True, False]
    # a prior beyond it is refused where it is learned from, one within is not
    from simgen.domain import check_domain

    with pytest.raises(ValueError, match="wider than the prior of training"):
        check_domain(PRIOR, posterior.prior, "the prior of training")
    inner = Prior(mu=Uniform(0.45, 0.55), tau=Uniform(-0.45, -0.35))
    check_domain(inner, posterior.prior, "the prior of training")
    # it is judged inside of it
    same = rows_following(two, posterior.provenance["dataset"]["truncation"])
    fresh = simulate(simulator(), 3000, tmp_path / "fresh", seed=9)
    other = rows_following(fresh, posterior.provenance["dataset"]["truncation"], same=False)
    for chosen in (same, other):
        theta = torch.from_numpy(chosen.good["theta"][:])
        assert posterior.prior.contains(theta).all()
    verdict = simgen.calibrate(posterior, fresh, n=400, progress=False)
    assert any("inside the region" in note for note in verdict.notes)
    assert verdict.n == min(400, len(other.good))
    # the dataset gone, the model still draws; what needs the region says what is missing
    moved = simgen.load(tmp_path / "p.safetensors")
    moved.prior.stored["path"] = str(tmp_path / "nowhere")
    moved.prior.__dict__.pop("regions", None)
    lost = TruncatedPrior.of_rounds(PRIOR, moved.prior.stored)
    assert moved(SEEN).sample((2,)).shape == (2, 2)
    with pytest.raises(DatasetError, match=r"round-1.safetensors is missing"):
        lost.sample((3,))


def test_a_region_that_is_gone_or_damaged(first, two, tmp_path) -> None:
    path = tmp_path / "d"
    shutil.copytree(two.path, path)
    region = path / "round-1.safetensors"
    whole = region.read_bytes()
    for what in ("missing", "damaged"):
        if what == "missing":
            region.unlink()
        else:
            region.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        dataset = Dataset(path)
        assert any(f"{region.name} is {what}" in problem for problem in dataset.verify())
        with pytest.raises(DatasetError, match=rf"{region.name} is {what}"):
            learned(dataset)
        with pytest.raises(DatasetError, match=rf"{region.name} is {what}"):
            simulate(simulator(), 1400, path, seed=3)
        assert len(rows_for(dataset, parse("x")).good) == 600
        assert len(rows_for(dataset, parse("x | theta")).good) == 1300
    region.write_bytes(whole)
    assert len(simulate(simulator(), 1400, path, seed=3)) == 1400


def test_what_does_not_fit_is_refused(first, two, tmp_path) -> None:
    path, q = first
    with pytest.raises(DatasetError, match="there is no dataset"):
        simulate(simulator(), 100, tmp_path / "none", proposal=q)
    assert not (tmp_path / "none").exists()
    copy = copied(first, tmp_path)
    with pytest.raises(DatasetError, match="n counts all rows"):
        simulate(simulator(), 600, copy, seed=3, proposal=q)
    with pytest.raises(TypeError, match=r"posterior\(x\)"):
        simulate(simulator(), 700, copy, seed=3, proposal=Normal(0.0, 1.0))
    with pytest.raises(ValueError, match="one observation"):
        simulate(simulator(), 700, copy, seed=3, proposal=q.conditional(np.stack([SEEN] * 2)))
    surrogate = fit("x | theta", Dataset(path), SMALL, max_epochs=1, progress=False)
    with pytest.raises(ValueError, match="over theta"):
        simulate(simulator(), 700, copy, seed=3, proposal=surrogate(SEEN))
    mine = type("Mine", (Flow,), {})
    other = fit("theta | x", Dataset(path), mine(transforms=1, hidden=(8,)), max_epochs=1)
    with pytest.raises(ValueError, match="own families"):
        simulate(simulator(), 700, copy, seed=3, proposal=other(SEEN))
    assert Dataset(copy).rounds == Dataset(path).rounds and len(Dataset(copy)) == 600
    with pytest.raises(DatasetError, match="another observation"):
        simulate(simulator(), 2000, two.path, seed=3, proposal=learned(two)(SEEN + 0.1))
    with pytest.raises(ValueError, match="small share"):
        simulate(simulator(), 700, copy, seed=3, proposal=q, quantile=0.9)


@pytest.mark.parametrize(
    "family",
    [simgen.Ensemble(SMALL, 2), simgen.VAE(width=8, blocks=1, latent=2, draws=2)],
    ids=["ensemble", "vae"],
)
def test_regions_of_other_families(first, tmp_path, family) -> None:
    """What a region's file says is what the model said."""
    path = copied(first, tmp_path)
    q = fit("theta | x", Dataset(path), family, max_epochs=2, progress=False)(SEEN)
    dataset = simulate(simulator(), 700, path, seed=3, proposal=q)
    (region,) = truncated(PRIOR, path, dataset.rounds).regions
    theta = PRIOR.sample((50,), seed=0)
    torch.testing.assert_close(region.q.log_prob(theta), q.log_prob(theta), rtol=1e-4, atol=1e-4)
    assert region.contains(torch.from_numpy(dataset["theta"][600:])).all()
