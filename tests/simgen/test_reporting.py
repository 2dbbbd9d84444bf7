import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import torch
from torch.distributions import Distribution, Independent, Normal

import simgen
from simgen.calibration import calibrate
from simgen.field import Field
from simgen.prior import Prior
from simgen.reporting import report

NOISE = 0.5
LABELS, UNITS = (r"\Omega_m", "E_0"), ("", "GeV")


def prior() -> Prior:
    return Prior(
        Omega_m=Normal(0.0, 1.0), E_0=Normal(0.0, 1.0), labels=list(LABELS), units=list(UNITS)
    )


@simgen.simulator(prior=prior(), batched=True, settings={"noise": NOISE})
def channel(theta, rng):
    x = theta[:, [0, 1, 0, 1]] + NOISE * rng.standard_normal((len(theta), 4))
    return {"x": x.astype(np.float32)}


class Exact:
    """The posterior of two measurements of each parameter, as a trained model presents itself."""

    expression, target, given = "theta | x", ("theta",), ("x",)
    names, labels, units = ("Omega_m", "E_0"), LABELS, UNITS
    fields = {  # noqa: RUF012
        "theta": Field((2,), names=("Omega_m", "E_0")),
        "x": Field((4,), labels=("a", "b", "c", "d"), units=("V",) * 4),
    }
    history = {  # noqa: RUF012
        "epoch": [1, 2, 3, 4, 5],
        "train_loss": [2.0, 1.0, 0.7, 0.6, 0.5],
        "validation_loss": [2.1, 1.2, 0.9, 0.85, 0.9],
        "seconds": [1.0, 2.0, 3.0, 4.0, 5.0],
    }
    provenance = {  # noqa: RUF012
        "dataset": {"identity": "0123456789abcdef", "rows": 5000, "split": [0.9, 0.1, 0.0]},
        "training": {"epochs": 5, "seconds": 5.04, "parameters": 12345},
        "seed": 7,
        "versions": {"simgen": "0.1.0", "note": "<b>&</b>"},
    }
    prior = prior()
    verdict = None

    def __call__(self, x) -> Distribution:
        x = torch.as_tensor(x, dtype=torch.float32)
        variance = 1 / (1 + 2 / NOISE**2)
        mean = variance * (x[..., :2] + x[..., 2:]) / NOISE**2
        return Independent(Normal(mean, variance**0.5), 1)


class Reader(HTMLParser):
    """Tags, attributes and text; complains of tags that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag not in ("img", "meta", "br", "link"):
            self.open.append(tag)
        self.ids += [v for k, v in attrs if k == "id"]
        self.links += [v for k, v in attrs if k in ("src", "href")]
        assert tag not in ("script", "link", "iframe", "object")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    theta = rng.standard_normal((500, 2)).astype(np.float32)
    model = Exact()
    verdict = calibrate(model, {"theta": theta} | channel(theta, seed=1), progress=False)
    truth = np.array([0.4, -0.8])
    observed = channel(truth[None], seed=2)["x"][0]
    path = tmp_path_factory.mktemp("report") / "page.html"
    return report(
        path, model, verdict=verdict, observation=observed, truth=truth, simulator=channel
    )


def test_a_whole_page_in_one_file(page: Path) -> None:
    text = page.read_text()
    reader = Reader(text)
    assert not reader.open
    sections = ["simulation", "training", "calibration", "posterior", "predictive", "provenance"]
    assert reader.ids[: len(sections)] == sections
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in reader.links)
    assert "http" not in text and "@import" not in text and "url(" not in text
    assert text.count("data:image/png") == 4
    for word in ("GeV", "noise = 0.5", "Normal(", "12,345", "0123456789abcdef", "Calibrated"):
        assert word in reader.words, word
    assert "<b>&</b>" in reader.words and "<b>&</b>" not in text
    assert "Left out" in reader.words and "no dataset was given" in reader.words


def test_the_table_holds_the_posterior(page: Path) -> None:
    text = page.read_text()
    rows = re.findall(r"<td>Omega_m</td>(.*?)</tr>", text)
    mean, sd, _, truth = (
        re.sub("<.*?>", "", c) for c in re.findall(r"<td class=n>(.*?)</td>", rows[-1])[:4]
    )
    observed = channel(np.array([[0.4, -0.8]]), seed=2)["x"][0]
    exact = (observed[0] + observed[2]) * 4 / 9
    assert float(mean) == pytest.approx(exact, abs=4 * (1 / 9) ** 0.5 / 100)
    assert float(sd) == pytest.approx((1 / 9) ** 0.5, rel=0.04) and float(truth) == 0.4


def test_what_is_not_given_is_left_out_and_said(tmp_path: Path) -> None:
    model = Exact()
    model.history, model.provenance, model.prior = {}, {}, None
    text = report(tmp_path / "bare.html", model).read_text()
    reader = Reader(text)
    assert "posterior" not in reader.ids and "calibration" not in reader.ids
    for what in ("The simulator", "Calibration", "Training curves", "The posterior", "The prior"):
        assert f"{what}" in reader.words.split("Left out")[-1]


@pytest.mark.parametrize(
    ("noise", "word", "kind"), [(NOISE, "they agree", "good"), (0.05, "which is much", "bad")]
)
def test_the_cross_check_is_one_number(tmp_path: Path, noise: float, word: str, kind: str) -> None:
    def surrogate(x, theta):
        return Normal(theta[:, [0, 1, 0, 1]], noise).log_prob(x).sum(-1)

    x = np.array([0.3, -0.2, 0.4, 0.1])
    text = report(
        tmp_path / "page.html", Exact(), observation=x, surrogate=surrogate, draws=500
    ).read_text()
    reader = Reader(text)
    spread = float(re.search(r"differ by ([\d.e+-]+) nats", reader.words)[1])
    assert (spread < 1e-3) == (noise == NOISE) and word in reader.words
    assert f'class="lead {kind}"' in text.split("Cross-check")[1]
    bare = report(tmp_path / "bare.html", Exact(), observation=x, draws=500).read_text()
    assert "no surrogate likelihood was given" in Reader(bare).words


def test_the_models_own_verdict_is_shown(tmp_path: Path, page: Path) -> None:
    rng = np.random.default_rng(1)
    theta = rng.standard_normal((300, 2)).astype(np.float32)
    data = {"theta": theta} | channel(theta, seed=3)
    wide = calibrate(lambda x: Independent(Normal(x[..., :2], 1.0), 1), data, progress=False)
    model = Exact()
    model.verdict = wide.to_dict()
    text = report(tmp_path / "page.html", model).read_text()
    assert "Not calibrated" in text and 'class="lead bad"' in text


def test_a_simulator_that_fails_is_a_finding(tmp_path: Path) -> None:
    @simgen.simulator(prior=prior(), batched=True)
    def broken(theta, rng):
        raise RuntimeError("out of <range>")

    text = report(
        tmp_path / "page.html", Exact(), observation=np.zeros(4), simulator=broken, draws=500
    ).read_text()
    assert "out of &lt;range&gt;" in text and "predictive" not in Reader(text).ids


def test_sets_of_variable_length(tmp_path: Path) -> None:
    @simgen.simulator(
        prior=prior(), batched=True, fields={"x": Field((30, 2), "set", names=("E", "phi"))}
    )
    def events(theta, rng):
        x = theta[:, None] + rng.standard_normal((len(theta), 30, 2))
        return {"x": x, "x_length": rng.integers(10, 31, len(theta))}

    class Model(Exact):
        fields = {"theta": Exact.fields["theta"], "x": events.fields["x"]}  # noqa: RUF012

        def __call__(self, x, x_length=None) -> Distribution:
            return Independent(Normal(torch.zeros(2), 1.0), 1)

    observed = np.random.default_rng(0).standard_normal((20, 2))
    text = report(
        tmp_path / "page.html",
        Model(),
        observation={"x": observed, "x_length": np.array(20)},
        simulator=events,
        draws=500,
    ).read_text()
    assert "predictive" in Reader(text).ids


def test_several_given_fields_need_names(tmp_path: Path) -> None:
    model = Exact()
    model.given = ("x", "y")
    with pytest.raises(ValueError, match="2 given fields: give the observation as a dict"):
        report(tmp_path / "page.html", model, observation=np.zeros(4))


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no chromium")
def test_a_browser_shows_it(page: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--screenshot={picture}",
        "--window-size=1200,3000",
        page.as_uri(),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    image = matplotlib.image.imread(picture)[..., :3]
    assert image.shape == (3000, 1200, 3)
    inked = (image < 0.9).any(-1)
    # Something is drawn in every part of the page, and the middle column is not all ink.
    assert all(0.003 < part.mean() < 0.7 for part in np.array_split(inked[:, 150:1050], 5))
