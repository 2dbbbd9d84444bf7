"""The quickstart, small: everything it promises lies in its folder."""

import numpy as np

import simgen
from simgen.console.quickstart import tour


def test_the_tour_leaves_everything_in_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = []
    result = tour(
        "q", rows=700, checks=120, events=20, epochs=3, workers=1, say=lines.append, progress=False
    )
    assert [p.name for p in tmp_path.iterdir()] == ["q"]
    there = {p.name for p in (tmp_path / "q").iterdir()}
    wanted = {"observation.npy", "posterior.safetensors", "report.html", "samples.h5"}
    assert there == {*wanted, "shower", "shower-check"}
    assert len(lines) == 5
    posterior = simgen.load("q/posterior.safetensors")
    assert posterior.verdict["n"] == 120
    samples = simgen.Samples.load("q/samples.h5")
    again = posterior(np.load("q/observation.npy")).sample((10_000,), seed=0)
    assert np.array_equal(samples.draws, again.numpy())
    low, high = posterior.prior.low.numpy(), posterior.prior.high.numpy()
    assert ((samples.draws > low) & (samples.draws < high)).all()
    assert [row["truth"] for row in samples.summary(result.truth)] == [0.8, 0.118]
    assert result.report.read_text().startswith("<!")
