import json

import numpy as np
import pytest
from torch.distributions import Independent, Normal

from simgen.calibration import Verdict, calibrate
from simgen.calibration.verdict import holm


def test_holm_by_hand() -> None:
    assert np.allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_holm_rejects_what_its_definition_rejects() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        p = rng.random(6) ** 3
        order = np.argsort(p)
        rejected = np.zeros(6, bool)
        for step, i in enumerate(order):
            if p[i] * (6 - step) >= 0.05:
                break
            rejected[i] = True
        assert np.array_equal(np.array(holm(p)) < 0.05, rejected)


@pytest.fixture(scope="module")
def verdict() -> Verdict:
    rng = np.random.default_rng(0)
    theta = rng.standard_normal((200, 2))
    x = theta + 0.5 * rng.standard_normal((200, 2))
    return calibrate(
        lambda x: Independent(Normal(x / 1.25, 0.5 * 0.2**0.5), 1),
        {"theta": theta, "x": x},
        progress=False,
    )


def test_survives_json_whole(verdict: Verdict) -> None:
    text = json.dumps(verdict.to_dict(), allow_nan=False)
    assert Verdict.from_dict(json.loads(text)) == verdict


def test_plots_from_json(verdict: Verdict) -> None:
    again = Verdict.from_dict(json.loads(json.dumps(verdict.to_dict())))
    figure = again.plot()
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[:4] == ["Ranks of the truth", "Expected coverage", "TARP", "Classifier"]
    assert len(titles) == 5 and titles[4].startswith("Local: ")
    legend = [text.get_text() for text in figure.axes[4].get_legend().get_texts()]
    assert legend == ["95 % band", "low", "middle", "high"]


def test_reads_in_words(verdict: Verdict) -> None:
    text = str(verdict)
    assert not verdict.passed and text.startswith("Not calibrated: ")
    assert "too narrow" in text and "overconfident" in text and "all rows given" in text
    assert verdict.row("ranks", "theta_1")["passed"] is False
    with pytest.raises(KeyError, match="no check"):
        verdict.row("ranks", "nobody")


def test_renders_by_rich(verdict: Verdict) -> None:
    from rich.console import Console

    console = Console(width=140, record=True, file=open("/dev/null", "w"))
    console.print(verdict)
    text = console.export_text()
    assert "corrected p" in text and "FAIL" in text
    console.file.close()
