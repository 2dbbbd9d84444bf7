"""docs/export.md: every example runs, where its tool is installed, and finds the peak."""

import re
from pathlib import Path

import numpy as np
import pytest

import simgen

pytestmark = pytest.mark.filterwarnings("ignore")
PAGE = (Path(__file__).parents[2] / "docs/export.md").read_text()
CODE = {
    part.partition("\n")[0]: "\n".join(re.findall(r"```python\n(.*?)```", part, re.S))
    for part in PAGE.split("\n## ")
}
BASE = ("The likelihood as a function", "scipy", "Samples")
TOOLS = {
    "scipy": "scipy",
    "emcee": "emcee",
    "Cobaya": "cobaya",
    "NumPyro": "numpyro",
    "ArviZ": "arviz",
    "GetDist": "getdist",
    "corner": "corner",
    "pandas": "pandas",
    "sbi": "sbi",
}
MASS, WIDTH = 91.0, 2.6


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What the page starts with, of fewer rows and a smaller model."""
    import matplotlib

    matplotlib.use("agg")
    first = next(iter(CODE.values()))
    made, fits = re.subn(
        r'^(\w+ = simgen\.fit\("[^"]+", dataset), seed=0\)', r"\1, **small)", first, flags=re.M
    )
    made, rows = re.subn(r'10_000, "peak"', "4_000, path", made)
    assert (fits, rows) == (2, 1)
    flow = simgen.Flow(transforms=2, hidden=(32, 32))
    found = {
        "small": {"model": flow, "max_epochs": 20, "progress": False, "seed": 0},
        "path": str(tmp_path_factory.mktemp("export") / "peak"),
    }
    exec(made, found)
    for part in BASE[:2]:
        exec(CODE[part], found)
    return found


def run(tool, names, tmp_path, monkeypatch):
    """The names after a tool's example."""
    monkeypatch.chdir(tmp_path)
    found = dict(names)
    exec(CODE["Samples"], found)
    exec(CODE[tool], found)
    return found


def test_every_tool_has_its_example_of_a_few_lines():
    assert set(TOOLS) <= set(CODE)
    for tool in set(TOOLS) - {"NumPyro"}:
        assert 2 <= len(CODE[tool].strip().splitlines()) <= 14


def test_the_function_is_what_the_page_says(names):
    f, x = names["f"], names["x"]
    assert isinstance(f([91.0, 2.5]), float) and f([79.0, 2.5]) == -np.inf
    assert names["value"] == f(mass=91.0, width=2.5) and names["slope"].shape == (2,)
    # sqrt(50) (mean - M) / Gamma is N(0, 1): at the peak the slope is what says so.
    shift = 1.0
    expected = -50 * shift**2 / (2 * 2.6**2)
    assert f([x[0] + shift, 2.6]) - f([x[0], 2.6]) == pytest.approx(expected, rel=0.4)


@pytest.mark.parametrize("tool", TOOLS)
def test_the_example_runs(tool, names, tmp_path, monkeypatch):
    pytest.importorskip(TOOLS[tool])
    found = run(tool, names, tmp_path, monkeypatch)
    near = {"rtol": 0, "atol": 0.35}  # deviations are 0.37 and 0.27
    if tool == "scipy":
        np.testing.assert_allclose(found["best"].x, [MASS, WIDTH], **near)
        np.testing.assert_allclose(found["errors"], [0.37, 0.27], rtol=0.35)
    elif tool == "emcee":
        np.testing.assert_allclose(found["chain"].mean, [MASS, WIDTH], **near)
        assert found["chain"].bounds.tolist() == [[80, 100], [1, 5]]
    elif tool == "Cobaya":
        drawn = found["mcmc"].products(to_getdist=True)["sample"]
        np.testing.assert_allclose(drawn.getMeans()[:2], [MASS, WIDTH], rtol=0, atol=0.6)
    elif tool == "NumPyro":
        drawn = found["nuts"].get_samples()
        np.testing.assert_allclose(drawn["mass"].mean(), MASS, **near)
        np.testing.assert_allclose(drawn["width"].mean(), WIDTH, **near)
    elif tool == "ArviZ":
        groups = ("posterior", "prior", "posterior_predictive", "observed_data", "sample_stats")
        assert all(len(found["data"][k].data_vars) for k in groups)
        assert float(found["table"]["mean"]["mass"]) == pytest.approx(MASS, abs=0.35)
    elif tool == "GetDist":
        assert found["chain"].mean("mass") == pytest.approx(MASS, abs=0.35)
        assert found["chain"].getParamNames().labels() == [
            r"M\ [\mathrm{GeV}]",
            r"\Gamma\ [\mathrm{GeV}]",
        ]
    elif tool == "corner":
        assert (tmp_path / "peak.png").stat().st_size > 1000
    elif tool == "pandas":
        assert found["mean"] == pytest.approx(MASS, abs=0.35)
        assert found["frame"].attrs["units"] == {"mass": "GeV", "width": "GeV"}
    else:
        assert found["ranks"].shape == (200, 2)
        found["torch"].manual_seed(0)
        drawn = found["mcmc"].sample((40,), x=found["x"], show_progress_bars=False)
        assert abs(float(drawn[:, 0].mean()) - MASS) < 0.6
    import matplotlib.pyplot as plt

    plt.close("all")
