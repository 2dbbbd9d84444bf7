"""Tomographic bins against sums, counts and draws of galaxies."""

import numpy as np
import pytest
from scipy.integrate import quad

from simulators.source_galaxies import SourceGalaxies


@pytest.mark.parametrize("bins", [1, 2, 5])
def test_bins_share_the_galaxies(bins):
    source = SourceGalaxies(bins=bins)
    z = np.array([0.0, 0.1, 0.5, 1.3, 4.0, 10.0])
    np.testing.assert_allclose(source.densities(z).sum(0), source.density(z), rtol=1e-12)
    total = quad(source.density, 0, 10, points=[0.5, 2])[0]
    for i in range(bins):
        share = quad(lambda v, i=i: source.densities(np.array(v))[i], 0, 10, limit=200)[0]
        assert share / total == pytest.approx(1 / bins, rel=1e-6)
    assert len(source.edges) == bins + 1 and (np.diff(source.edges) > 0).all()


def test_galaxies_drawn_one_by_one_fall_into_the_bins():
    """A photometric redshift is normal about the true one, with deviation sigma_z (1 + z)."""
    source, rng, n = SourceGalaxies(bins=4, sigma_z=0.08), np.random.default_rng(0), 200_000
    z = np.linspace(0, 10, 20_001)
    below = np.cumsum(source.density(z))
    true = np.interp(rng.random(n), below / below[-1], z)
    seen = true + source.sigma_z * (1 + true) * rng.standard_normal(n)
    which = np.digitize(seen, source.edges[1:-1])
    for i in range(4):
        members = true[which == i]
        assert abs(len(members) / n - 0.25) < 4 * (0.25 * 0.75 / n) ** 0.5
        assert abs(members.mean() - source.means[i]) < 4 * members.std() / len(members) ** 0.5


def test_bad_bins_are_refused():
    for options in ({"bins": 0}, {"sigma_z": 0.0}):
        with pytest.raises(ValueError, match="bins must be at least 1 and sigma_z positive"):
            SourceGalaxies(**options)
