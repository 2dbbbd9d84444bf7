"""Missing data: laws of the patterns, what networks see of them, learned against exact answers."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, Normal

import simgen
from simgen.expression import parse
from simgen.field import Field
from simgen.fitting.masks import Masks
from simgen.fitting.source import Source, prepare
from simgen.missing import Blocks, Number, Patterns, Random
from simgen.preprocessing import Standardise, flagged

FIELDS = {
    "number": Field(()),
    "vector": Field((5,)),
    "set": Field((6, 3), "set"),
    "series": Field((12, 2), "series"),
    "image": Field((2, 8, 8), "image"),
    "volume": Field((1, 4, 4, 4), "image"),
}
SMALL = simgen.Flow(transforms=2, hidden=(32, 32))
A = np.array([[1.0, 0.5], [0.0, 1.0], [1.0, -1.0], [0.5, 0.5]])


def rng(seed=0):
    return np.random.default_rng(seed)


def drawn(law, field, n, seed=0):
    """Patterns (n, *shape) as `fit` draws them."""
    return Masks(law, {"x": field}, {})(rng(seed), n)["x"].numpy()


# the laws


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0, (0.2, 0.6)])
def test_each_entry_is_missing_with_its_probability(name, p):
    n, field = 4000, FIELDS[name]
    observed = drawn(Random(p), field, n)
    assert observed.shape == (n, *field.shape) and observed.dtype == bool
    expected = 1 - np.mean(p)
    assert np.abs(observed.mean(0) - expected).max() <= 4.5 * math.sqrt(0.25 / n) * (
        p not in (0, 1)
    )
    if field.size > 1 and p == 0.3:  # entries are independent of each other
        flat = observed.reshape(n, -1)[:, :5].astype(float)
        correlation = np.corrcoef(flat.T) - np.eye(flat.shape[1])
        assert np.abs(correlation).max() < 4.5 / math.sqrt(n)


def test_any_number_is_missing_and_any_of_that_many_alike():
    n, size = 20_000, 4
    observed = drawn(Number(), Field((size,)), n)
    counts = np.bincount((~observed).sum(1), minlength=size + 1)
    expected = n / (size + 1)
    assert ((counts - expected) ** 2 / expected).sum() < 25  # chi-squared of 4, beyond 5e-5
    pairs = observed[(~observed).sum(1) == 2]
    code = (~pairs @ (1 << np.arange(size))).tolist()
    by_pair = np.array([code.count(v) for v in set(code)])
    assert len(by_pair) == 6
    assert ((by_pair - by_pair.mean()) ** 2 / by_pair.mean()).sum() < 28
    bounded = drawn(Number(3, 2), FIELDS["image"], 200)
    assert set((~bounded).sum((1, 2, 3)).tolist()) == {2, 3}


@pytest.mark.parametrize("law", [Random(0.5, whole=True), Number(whole=True)])
@pytest.mark.parametrize(("name", "axes"), [("image", (2, 3)), ("series", (1,)), ("set", (1,))])
def test_whole_channels_and_features(law, name, axes):
    observed = drawn(law, FIELDS[name], 300)
    assert (observed.all(axes) == observed.any(axes)).all()
    assert 0 < observed.mean() < 1


def test_blocks_are_gaps_of_neighbours():
    series = drawn(Blocks(5), FIELDS["series"], 2000)
    assert (series.all(2) == series.any(2)).all()  # both features together
    gone = ~series[..., 0]
    edges = (np.diff(np.pad(gone, ((0, 0), (1, 1))).astype(int), axis=1) == 1).sum(1)
    assert set(edges.tolist()) == {0, 1} and set(gone.sum(1).tolist()) == {0, 1, 2, 3, 4, 5}
    assert abs((edges == 0).mean() - 0.5) < 4.5 * 0.5 / math.sqrt(2000)
    image = ~drawn(Blocks((2, 6), count=1), FIELDS["image"], 500)
    assert (image[:, 0] == image[:, 1]).all()
    for one in image[:, 0]:
        rows, columns = one.any(1), one.any(0)
        assert (one == rows[:, None] & columns).all()  # a rectangle
        assert rows.sum() <= 2 and columns.sum() <= 6
    assert (~drawn(Blocks(4, count=3), FIELDS["vector"], 500)).any(0).all()


def test_patterns_come_as_often_as_said():
    off = [[True, True, True, True, False], [0, 1, 1, 1, 1]]
    observed = drawn(Patterns(off, [3, 1]), FIELDS["vector"], 4000)
    first = (observed == np.array(off[0])).all(1)
    assert (first | (observed == np.array(off[1], bool)).all(1)).all()
    assert abs(first.mean() - 0.75) < 4.5 * math.sqrt(0.1875 / 4000)
    per_channel = drawn(Patterns([np.array([True, False])[:, None, None]]), FIELDS["image"], 3)
    assert per_channel[:, 0].all() and not per_channel[:, 1].any()


# what may be said


def test_functions_of_a_row_of_many_and_of_several_fields_agree():
    given = {"x": Field((3,)), "image": FIELDS["image"]}

    def row(rng):
        return {"x": rng.random(3) < 0.5, "image": rng.random((2, 1, 1)) < 0.5}

    def many(rng, n):
        rows = [row(rng) for _ in range(n)]
        return {k: np.stack([r[k] for r in rows]) for k in rows[0]}

    one, other = (Masks(f, given, {}) for f in (row, many))
    a, b = one(rng(1), 50), other(rng(1), 50)
    assert one.names == ("x", "image") and a["image"].shape == (50, 2, 8, 8)
    assert all(torch.equal(a[k], b[k]) for k in a)
    parts = Masks({"x": lambda rng: rng.random(3) < 0.5, "image": Random(1.0)}, given, {})(
        rng(), 9
    )
    assert 0 < parts["x"].float().mean() < 1 and not parts["image"].any()
    only = Masks({"image": Random(0.5)}, given, {})
    assert only.names == ("image",)
    scalar = Masks(lambda rng: bool(rng.random() < 0.5), {"x": Field(())}, {})
    assert scalar(rng(), 7)["x"].shape == (7,)


def varying(rng):
    return {"x": [True] * 3} if rng.random() < 0.5 else {"y": [True] * 3}


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (lambda rng: rng.random(2) < 0.5, r"the mask of 'x' must have shape \(3,\).* got \(2,\)"),
        (lambda rng: rng.random(3), "must be boolean, True where observed"),
        (
            lambda rng, n: np.ones((n + 1, 3), bool),
            r"must be 2 patterns, \(2, 3\); got shape \(3, 3\)",
        ),
        (lambda rng: {"z": True}, "mask of 'z': given are x"),
        (varying, "mask must name the same fields|mask of 'y'"),
        ({}, "names no given field"),
        ({"y": Random(0.5)}, "mask of 'y': given are x"),
        ("seen", "no field 'seen' in the dataset"),
        ("other", r"must hold booleans of shape \(3,\); it has shape \(2,\)"),
        (Number(4), "at most 3 entries can be missing"),
        (Blocks(4), "do not fit the axes"),
        (Patterns([[True, False]]), r"a pattern must have shape \(3,\)"),
    ],
)
def test_a_mask_that_does_not_fit_says_why(mask, message):
    stored = {"x": Field((3,)), "other": Field((2,), discrete=True)}
    with pytest.raises(ValueError, match=message):
        masks = Masks(mask, {"x": stored["x"]}, stored)
        masks(rng(), 40)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Random(1.5),
        lambda: Random((0.6, 0.2)),
        lambda: Number(2, 3),
        lambda: Blocks(0),
        lambda: Patterns([]),
        lambda: Patterns([[True]], [1, 2]),
        lambda: drawn(Blocks(2), FIELDS["set"], 1),
        lambda: Masks(Random(0.5), {}, {}),
        lambda: Masks(lambda r: True, {"x": Field((1,)), "y": Field((1,))}, {}),
    ],
)
def test_laws_that_make_no_sense(make):
    with pytest.raises(ValueError):
        make()


def test_no_mask_at_all_is_a_type_error():
    with pytest.raises(TypeError, match="function of a generator"):
        Masks(0.3, {"x": Field((1,))}, {})


# what networks see


@pytest.mark.parametrize("name", FIELDS)
def test_hiding_before_and_after_standardising_agree(name):
    """Values at masked places are nowhere in what networks see."""
    field = FIELDS[name]
    x = torch.randn(200, *field.shape, generator=torch.Generator().manual_seed(0)).double() + 3
    standardise = Standardise(field, partial=True).fit_(x)
    observed = torch.from_numpy(drawn(Random(0.4), field, 200))
    z = standardise.hide(standardise(x), observed)
    assert torch.equal(z, standardise(x.masked_fill(~observed, torch.nan)))
    assert torch.equal(z, standardise.hide(standardise(x + 1e3 * ~observed), observed))
    assert z.shape[1:] == standardise.shape == flagged(field).shape
    axis = 1 if field.layout == "image" else -1
    values, flags = z.chunk(2, axis)
    assert torch.equal(flags.bool().view(observed.shape), observed)
    assert not values[flags == 0].any()
    assert torch.equal(standardise.values(z), values)
    plain = Standardise(field).fit_(x)
    assert torch.equal(plain(x), standardise.values(standardise(x)))
    assert plain.values(plain(x)).shape[1:] == plain.shape


def test_statistics_leave_out_what_is_missing():
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)).double() * 2 + 5
    x[:, 2] = torch.nan
    x[::2, 1] = torch.nan
    standardise = Standardise(Field((3,)), partial=True).fit_(x)
    alone = Standardise(Field((1,))).fit_(x[1::2, 1:2])
    torch.testing.assert_close(standardise.loc[1:2], alone.loc)
    torch.testing.assert_close(standardise.scale[1:2], alone.scale)
    assert not standardise(x).isnan().any() and not standardise(x)[:, [2, 5]].any()


def test_gradients_pass_by_what_is_missing():
    x = torch.randn(50, 2).double()
    standardise = Standardise(Field((2,)), [{"kind": "sinh", "loc": 0.0, "scale": 1.0}] * 2, True)
    point = x.masked_fill(torch.tensor([True, False]), torch.nan).requires_grad_()
    (slope,) = torch.autograd.grad(standardise(point).sum(), point)
    assert slope.isfinite().all() and (slope[:, 1] != 0).all() and not slope[:, 0].any()


# what fit draws


def linear(n, seed=0):
    """theta ~ N(0, 1)^2, x = A theta + 3 + 0.5 noise."""
    generator = rng(seed)
    theta = generator.standard_normal((n, 2)).astype(np.float32)
    noise = 0.5 * generator.standard_normal((n, len(A)))
    return theta, (theta @ A.T + 3 + noise).astype(np.float32)


def exact(x):
    """The posterior of the observed entries of one x."""
    there = ~np.isnan(x)
    a, y = A[there], x[there].astype(float) - 3
    covariance = np.linalg.inv(np.eye(2) + a.T @ a / 0.25)
    return MultivariateNormal(torch.tensor(covariance @ a.T @ y / 0.25), torch.tensor(covariance))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    theta, x = linear(4000)
    path = tmp_path_factory.mktemp("missing") / "linear"
    prior = simgen.Prior(a=Normal(0.0, 1.0), b=Normal(0.0, 1.0))
    return simgen.Dataset.create(path, theta=theta, x=x, prior=prior)


@pytest.fixture(scope="module")
def posterior(dataset):
    return simgen.fit("theta | x", dataset, SMALL, mask=Number(), seed=0, max_epochs=40)


@pytest.mark.parametrize("memory", [1 << 30, 20_000], ids=["memory", "disk"])
def test_patterns_are_a_function_of_seed_and_step(dataset, memory):
    parsed = parse("theta | x")
    fields = parsed.resolve(dataset.fields)
    masks = Masks(Random(0.5), {"x": fields["x"]}, dataset.fields)
    source = Source(parsed, fields, dataset, None, 3, memory, None, masks)
    pipeline = prepare(parsed, fields, source, None, SMALL)
    feed, held_out = (source.feed(pipeline, side, 256) for side in (False, True))
    epoch = [b.given["x"] for b in feed.epoch(1)]
    again = [b.given["x"] for b in feed.epoch(1, 5)]
    assert all(torch.equal(a, b) for a, b in zip(epoch[5:], again, strict=True))
    flags = torch.cat([z[:, 4:] for z in epoch])
    assert abs(float(flags.mean()) - 0.5) < 0.02
    other = torch.cat([b.given["x"][:, 4:] for b in feed.epoch(2)])
    assert 0.4 < float((flags == other).float().mean()) < 0.6
    twice = [torch.cat([b.given["x"] for b in held_out.epoch(0)]) for _ in range(2)]
    assert torch.equal(*twice) and 0.4 < float(twice[0][:, 4:].mean()) < 0.6


@pytest.mark.parametrize("after", [3, 20])
def test_resume_is_bit_equal(dataset, tmp_path, monkeypatch, after):
    settings = {"model": SMALL, "seed": 1, "max_epochs": 2, "mask": Random((0.1, 0.9))}
    whole = simgen.fit("theta | x", dataset, **settings)
    from simgen.training import Training

    update, count = Training._update, [0]

    def interrupted(self, batch, rate):
        count[0] += 1
        if count[0] > after:
            raise KeyboardInterrupt
        return update(self, batch, rate)

    path = tmp_path / "fit.checkpoint"
    monkeypatch.setattr(Training, "_update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        simgen.fit("theta | x", dataset, **settings, checkpoint=path)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="is of another fit: its mask is"):
        simgen.fit("theta | x", dataset, **{**settings, "mask": Random(0.1)}, checkpoint=path)
    resumed = simgen.fit("theta | x", dataset, **settings, checkpoint=path)
    for key, value in whole.pipeline.state_dict().items():
        other = resumed.pipeline.state_dict()[key]
        torch.testing.assert_close(value, other, rtol=0, atol=0, equal_nan=True)
    assert resumed.history["validation_loss"] == whole.history["validation_loss"]


def test_what_was_not_recorded_never_enters(tmp_path):
    """Bit-equal weights, whatever stands where the record says that nothing was observed."""
    theta, x = linear(600)
    seen = drawn(Random(0.3), Field((4,)), 600)
    data = simgen.Dataset.create(tmp_path / "recorded", theta=theta, x=x, seen=seen)

    def scramble(batch, rng):
        noise = torch.from_numpy(100 * rng.standard_normal(batch["x"].shape)).float()
        return batch | {"x": torch.where(batch["seen"], batch["x"], noise)}

    fits = [
        simgen.fit("theta | x", data, SMALL, mask="seen", augment=augment, max_epochs=1)
        for augment in (lambda batch, rng: batch, scramble)
    ]
    states = [f.pipeline.state_dict() for f in fits]
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], rtol=0, atol=0, equal_nan=True)


# what is learned


def divergence(q, x):
    """KL(exact, q) in nats, mean over rows of x."""
    total = 0.0
    for row in x:
        p = exact(row)
        theta = p.sample((300,))
        total += float((p.log_prob(theta) - q(row).log_prob(theta)).mean())
    return total / len(x)


@pytest.mark.parametrize("missing", [[], [0], [3], [1, 2], [0, 1, 3], [0, 1, 2, 3]], ids=str)
def test_the_posterior_of_every_pattern_of_a_linear_gaussian(posterior, missing):
    torch.manual_seed(0)
    _, x = linear(40, seed=1)
    x[:, missing] = np.nan
    # 3,600 rows are shared by 16 patterns; a posterior that takes one of these entries for
    # observed at its mean is off by 0.35 to 7 nats
    assert -0.02 < divergence(posterior, x) < 0.1


def test_nothing_observed_gives_the_prior(posterior):
    q = posterior(np.full(4, np.nan))
    theta = q.sample((4000,), seed=0)
    assert theta.mean(0).abs().max() < 0.15 and (theta.std(0) - 1).abs().max() < 0.15
    assert abs(float(np.corrcoef(theta.T)[0, 1])) < 0.15


def test_missing_is_not_the_same_as_the_mean(posterior, dataset):
    """Without flags, both would be zero, and one answer had to serve for two."""
    mean = dataset["x"][:].mean(0)
    gap = mean.copy()
    gap[[0, 2, 3]] = np.nan
    wide, narrow = (posterior(x).sample((2000,), seed=0)[:, 0].std() for x in (gap, mean))
    assert abs(float(narrow) - float(exact(mean).stddev[0])) < 0.08
    assert abs(float(wide) - float(exact(gap).stddev[0])) < 0.15
    assert wide > 2 * narrow


def test_a_batch_may_differ_in_its_gaps_and_a_file_keeps_it_all(posterior, tmp_path):
    _, x = linear(6, seed=2)
    x[1, 0] = x[2, 1:3] = x[3] = np.nan
    theta = torch.randn(6, 2)
    together = posterior(x).log_prob(theta)
    alone = torch.stack([posterior(row).log_prob(t) for row, t in zip(x, theta)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    posterior.save(tmp_path / "model.safetensors")
    loaded = simgen.load(tmp_path / "model.safetensors")
    assert torch.equal(loaded(x).log_prob(theta), together)
    assert loaded.provenance["training"]["mask"] == str(Number())


def test_censored_values_tell_of_the_parameter(tmp_path):
    """x = theta + noise, not seen above 1: that it is not seen says that theta is large."""
    n, generator = 4000, rng(4)
    theta = generator.standard_normal((n, 1)).astype(np.float32)
    x = theta + 0.5 * generator.standard_normal((n, 1)).astype(np.float32)
    prior = simgen.Prior(a=Normal(0.0, 1.0))
    data = simgen.Dataset.create(tmp_path / "cut", theta=theta, x=x, seen=x < 1, prior=prior)
    q = simgen.fit("theta | x", data, SMALL, mask="seen", max_epochs=15)
    drawn = q([np.nan]).sample((4000,), seed=0)
    scale = math.sqrt(1.25)
    hazard = math.exp(-0.5 / 1.25) / math.sqrt(2 * math.pi) / (0.5 * math.erfc(1 / scale / 2**0.5))
    assert abs(float(drawn.mean()) - hazard / scale) < 0.1  # 1.36; the prior's is 0
    below = q([0.0]).sample((4000,), seed=0)
    assert abs(float(below.mean())) < 0.1 and abs(float(below.std()) - 0.2**0.5) < 0.05


# every family, layout and place

TINY = {
    "flow": simgen.Flow(transforms=1, hidden=(8,)),
    "ensemble": simgen.Ensemble(simgen.Flow(transforms=1, hidden=(8,)), 2),
    "vae": simgen.VAE(),
    "diffusion": simgen.Diffusion(),
}


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    """A field of each layout, all with the first parameter as their mean."""
    n, generator = 300, rng(5)
    theta = generator.standard_normal((n, 2)).astype(np.float32)
    arrays = {}
    for name in ("number", "vector", "set", "series", "image"):
        noise = generator.standard_normal((n, *FIELDS[name].shape))
        arrays[name] = theta[:, 0].reshape(n, *[1] * (noise.ndim - 1)) + noise
    arrays["x"] = generator.standard_normal((n, 1, 8, 8))
    arrays["set_length"] = generator.integers(1, 7, n)
    path = tmp_path_factory.mktemp("missing") / "layouts"
    declared = {k: FIELDS[k] for k in arrays if k in FIELDS}
    return simgen.Dataset.create(path, theta=theta, declared=declared, **arrays)


@pytest.mark.parametrize("family", TINY)
def test_families_take_gaps(layouts, family):
    q = simgen.fit("theta | vector", layouts, TINY[family], mask=Random(0.3), max_epochs=1)
    x = np.stack([np.full(5, np.nan), np.arange(5), [0, np.nan, 1, 2, np.nan]])
    drawn = q(x).sample((3,), seed=0)
    assert drawn.shape == (3, 3, 2) and drawn.isfinite().all()
    assert not torch.equal(drawn[:, 0], drawn[:, 1])


@pytest.mark.parametrize("memory", [1 << 30, 30_000], ids=["memory", "disk"])
@pytest.mark.parametrize("name", ["number", "set", "series", "image"])
def test_layouts_take_gaps(layouts, tmp_path, name, memory):
    family = TINY["flow"]
    law = Random(0.3, whole=name == "image")
    q = simgen.fit(f"theta | {name}", layouts, family, mask=law, max_epochs=1, memory=memory)
    q.save(tmp_path / "q.safetensors")
    x = layouts[name][:1][0].copy()
    some = drawn(law, FIELDS[name], 5)[4]
    gap = np.where(some, x, np.nan)
    theta = torch.randn(10, 2)
    loaded = simgen.load(tmp_path / "q.safetensors")
    assert torch.equal(q(gap).log_prob(theta), loaded(gap).log_prob(theta))
    assert not torch.equal(q(gap).log_prob(theta), q(x).log_prob(theta)) or some.all()


def test_an_image_with_holes_as_a_map(layouts, tmp_path):
    model = simgen.Diffusion(hidden=8, blocks=1)
    q = simgen.fit("x | image", layouts, model, mask=Blocks(4), max_epochs=1)
    image = layouts["image"][:1][0].copy()
    image[:, :3, 2:5] = np.nan
    assert q(image).sample((2,), seed=0).isfinite().all()
    assert q.pipeline.heads[0].maps == ("image",)


def test_one_of_two_fields_and_an_embedding_of_ones_own(layouts):
    seen = []

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(10, 4)

        def forward(self, x):
            seen.append(x.detach())
            return self.layer(x)

    q = simgen.fit(
        "theta | vector, number",
        layouts,
        TINY["flow"],
        mask={"vector": lambda rng: rng.random(5) < 0.5},
        embedding={"vector": Own()},
        max_epochs=1,
    )
    values, flags = torch.cat(seen).chunk(2, 1)
    assert set(flags.unique().tolist()) == {0.0, 1.0} and not values[flags == 0].any()
    gap = np.full(5, np.nan)
    assert q(vector=gap, number=1.0).sample().isfinite().all()
    with pytest.raises(ValueError, match="field 'number' holds NaN"):
        q(vector=gap, number=np.nan)
    with pytest.raises(ValueError, match="field 'vector' holds NaN or infinite"):
        q(vector=np.full(5, np.inf), number=1.0)


def test_what_does_not_go_together(dataset, layouts):
    with pytest.raises(ValueError, match="nothing is given here"):
        simgen.fit("theta", dataset, SMALL, mask=Random(0.5))
    with pytest.raises(ValueError, match="mask must name them"):
        simgen.fit("theta | vector, number", layouts, mask=lambda rng: True)
    with pytest.raises(ValueError, match="gold= and mask= cannot go together"):
        simgen.fit("x | theta", dataset, SMALL, mask=Random(0.5), gold="joint_score")
    with pytest.raises(ValueError, match="near= and mask= cannot go together"):
        simgen.calibrate(exact, dataset, mask=Random(0.5), near=np.zeros(4))
    complete = simgen.fit("theta | x", dataset, TINY["flow"], max_epochs=1)
    with pytest.raises(ValueError, match="a model fitted with mask= takes NaN as not observed"):
        complete(np.full(4, np.nan))
    summary = nn.Identity()
    summary.preprocessing = (complete.pipeline.given_field("x"),)
    with pytest.raises(ValueError, match="was trained on complete rows"):
        simgen.fit("theta | x", dataset, embedding=summary, mask=Random(0.5))


# judging


def test_calibration_of_what_was_observed(dataset):
    """The exact posterior of observed entries passes; zeros for gaps do not."""
    theta, x = linear(250, seed=6)
    pairs, law = {"theta": theta, "x": x}, Random(0.5)

    def filled(x):
        return exact(np.where(np.isnan(x), 3.0, x))

    verdicts = {
        f: simgen.calibrate(lambda x, f=f: f(x.numpy()), pairs, mask=law, progress=False)
        for f in (exact, filled)
    }
    assert verdicts[exact].passed, str(verdicts[exact].table)
    assert "Random(p=0.5" in " ".join(verdicts[exact].notes)
    assert not verdicts[filled].passed


def test_the_page_on_missing_data_runs(tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs/missing.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec("\n".join(blocks), names)
    slope = names["q"].sample((500,), seed=0)[:, 1]
    known = names["posterior"](np.nan_to_num(names["x"])).sample((500,), seed=0)[:, 1]
    assert names["nothing"].sample((500,), seed=0).std(0).min() > 0.7
    assert slope.std() > 1.3 * known.std()
    assert names["verdict"].n > 100
