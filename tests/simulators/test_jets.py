import itertools

import numpy as np
import pytest

from simulators.jets import anti_kt, thrust


def events(n, K, seed=0, most=None):
    """Massless particles bunched around a few axes, and how many of the K there are."""
    rng = np.random.default_rng(seed)
    axes = rng.standard_normal((n, 4, 3))
    p = axes[np.arange(n)[:, None], rng.integers(0, 4, (n, K))] * rng.exponential(5, (n, K, 1))
    p += rng.standard_normal((n, K, 3))
    momenta = np.concatenate([p, np.linalg.norm(p, axis=-1, keepdims=True)], -1)
    counts = rng.integers(2, (most or K) + 1, n)
    return momenta * (np.arange(K) < counts[:, None])[..., None], counts


def naive(particles, radius):
    """Anti-kt by its definition, one event, plain Python."""

    def place(p):
        return p[0] ** 2 + p[1] ** 2, np.arctanh(p[2] / p[3]), np.arctan2(p[1], p[0])

    left, jets = [np.array(p) for p in particles], []
    while left:
        at = [place(p) for p in left]
        best = min((1 / pt2, i, i) for i, (pt2, _, _) in enumerate(at))
        for i, j in itertools.combinations(range(len(left)), 2):
            turn = abs(at[i][2] - at[j][2])
            apart = (at[i][1] - at[j][1]) ** 2 + min(turn, 2 * np.pi - turn) ** 2
            d = min(1 / at[i][0], 1 / at[j][0]) * apart / radius**2
            best = min(best, (d, i, j))
        _, i, j = best
        if i == j:
            jets.append(left.pop(i))
        else:
            left[i] = left[i] + left.pop(j)
    return np.array(sorted(jets, key=lambda p: -np.hypot(p[0], p[1])))


@pytest.mark.parametrize("radius", [0.4, 0.7, 1.5])
def test_clusters_as_defined(radius):
    momenta, counts = events(20, 14)
    found = anti_kt(momenta, counts, radius, backend="numpy")
    for p, m, jets, k in zip(momenta, counts, found.momenta, found.counts):
        expected = naive(p[:m], radius)
        assert k == len(expected) and not jets[k:].any()
        np.testing.assert_allclose(jets[:k], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("radius", [0.4, 1.0])
def test_equals_fastjet(radius):
    pytest.importorskip("fastjet")
    momenta, counts = events(50, 60, seed=2)
    ours = anti_kt(momenta, counts, radius, pt_min=2.0, backend="numpy")
    theirs = anti_kt(momenta, counts, radius, pt_min=2.0, backend="fastjet")
    assert (ours.counts == theirs.counts).all() and ours.counts.sum() > 100
    np.testing.assert_allclose(ours.momenta, theirs.momenta, rtol=1e-10, atol=1e-10)
    chosen = anti_kt(momenta, counts, radius, pt_min=2.0)
    np.testing.assert_allclose(chosen.momenta, theirs.momenta, rtol=1e-10, atol=1e-10)


def test_momentum_is_shared_out_among_the_jets():
    momenta, counts = events(60, 25, seed=3)
    jets = anti_kt(momenta, counts, 0.5, backend="numpy")
    np.testing.assert_allclose(jets.momenta.sum(1), momenta.sum(1), atol=1e-10)
    pt = np.hypot(jets.momenta[..., 0], jets.momenta[..., 1])
    assert (np.diff(pt, axis=1) <= 0).all()
    assert (jets.counts == (jets.momenta[..., 3] > 0).sum(1)).all()


def test_soft_and_collinear_particles_change_no_hard_jet():
    momenta, counts = events(40, 12, seed=4)
    hard = anti_kt(momenta, counts, 0.6, pt_min=3.0, backend="numpy")
    split = np.concatenate([0.3 * momenta, 0.7 * momenta], 1)
    order = np.argsort(split[..., 3] == 0, axis=1, kind="stable")
    split = np.take_along_axis(split, order[..., None], 1)
    collinear = anti_kt(split, 2 * counts, 0.6, pt_min=3.0, backend="numpy")
    rng = np.random.default_rng(0)
    soft = rng.standard_normal((40, 12, 3)) * 1e-9
    soft = np.concatenate([soft, np.linalg.norm(soft, axis=-1, keepdims=True)], -1)
    together = np.concatenate([soft, momenta], 1)
    dusty = anti_kt(together, 12 + counts, 0.6, pt_min=3.0, backend="numpy")
    for other in (collinear, dusty):
        assert (other.counts == hard.counts).all()
        np.testing.assert_allclose(other.momenta[:, :12], hard.momenta, atol=1e-6)


def test_order_of_particles_and_company_of_events_do_not_matter():
    momenta, counts = events(30, 18, seed=5)
    together = anti_kt(momenta, counts, 0.4, pt_min=1.0, backend="numpy")
    rng = np.random.default_rng(1)
    for i in range(30):
        order = rng.permutation(counts[i])
        alone = anti_kt(momenta[i : i + 1, order], counts[i : i + 1], 0.4, 1.0, "numpy")
        assert alone.counts[0] == together.counts[i]
        k = alone.counts[0]
        np.testing.assert_allclose(alone.momenta[0, :k], together.momenta[i, :k], rtol=1e-10)
        T = thrust(momenta[i : i + 1, order])[0]
        assert T == pytest.approx(thrust(momenta, counts)[0][i], rel=1e-12)


def test_radius_decides_what_is_merged():
    p = np.array([[10.0, 0, 0, 10], [9 * np.cos(0.5), 9 * np.sin(0.5), 0, 9]])[None]
    assert anti_kt(p, np.array([2]), 0.49, backend="numpy").counts[0] == 2
    assert anti_kt(p, np.array([2]), 0.51, backend="numpy").counts[0] == 1
    turned = np.array([[np.cos(3.1), np.sin(3.1), 0, 1], [np.cos(-3.1), np.sin(-3.1), 0, 1]])[None]
    assert anti_kt(turned, np.array([2]), 0.1, backend="numpy").counts[0] == 1
    assert anti_kt(p, np.array([0]), backend="numpy").counts[0] == 0


def test_a_particle_along_the_beam_is_no_trouble():
    p = np.array([[0, 0, 5.0, 5.0], [3.0, 0, 0, 3.0], [0, 0, -4.0, 4.0]])[None]
    jets = anti_kt(p, np.array([3]), 0.4, backend="numpy")
    assert jets.counts[0] == 3 and np.isfinite(jets.momenta).all()


def test_thrust_of_two_three_and_many():
    two = np.array([[1.0, 2, -3], [-1, -2, 3]])
    angle = 2 * np.pi / 3 * np.arange(3)
    mercedes = np.stack([np.cos(angle), np.sin(angle), 0 * angle], -1)
    T, axis = thrust(np.array([two, 2 * two]))
    np.testing.assert_allclose(T, 1, rtol=1e-14)
    np.testing.assert_allclose(np.abs(axis @ two[0]), np.linalg.norm(two[0]))
    assert thrust(mercedes[None])[0][0] == pytest.approx(2 / 3, rel=1e-14)
    i = np.arange(151) + 0.5
    z, phi = 1 - 2 * i / 151, np.pi * (1 + 5**0.5) * i
    sphere = np.stack([*(np.sqrt(1 - z**2) * f(phi) for f in (np.cos, np.sin)), z], -1)
    assert thrust(sphere[None])[0][0] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("kind", ["space", "plane", "line", "doubled"])
def test_thrust_is_the_largest_over_all_signs(kind):
    """Also for momenta in one plane, where any plane through two of them holds them all."""
    rng = np.random.default_rng(6)
    p = rng.standard_normal((12, 9, 3))
    if kind in ("plane", "line"):
        p[..., 1 if kind == "line" else 2 :] = 0
        p = p @ np.linalg.qr(rng.standard_normal((3, 3)))[0]
    if kind == "doubled":
        p[:, 5:] = p[:, :4] * rng.uniform(0.2, 3, (12, 4, 1))
    signs = np.array(list(itertools.product([1, -1], repeat=9)))
    exact = np.linalg.norm(np.einsum("sk,nki->nsi", signs, p), axis=-1).max(1)
    T, axis = thrust(p)
    total = np.linalg.norm(p, axis=-1).sum(1)
    np.testing.assert_allclose(T, exact / total, rtol=1e-12)
    along = np.abs(np.einsum("nki,ni->nk", p, axis)).sum(1)
    np.testing.assert_allclose(along / total, T, rtol=1e-12)


def test_thrust_skips_padding_and_empty_events():
    momenta, counts = events(25, 10, seed=7)
    longer = np.concatenate([momenta, np.full((25, 5, 4), 3.0)], 1)
    np.testing.assert_allclose(thrust(longer, counts)[0], thrust(momenta)[0], rtol=1e-12)
    T, axis = thrust(np.zeros((2, 3, 3)))
    assert (T == 1).all() and not axis.any()
    assert thrust(np.array([[[0, 0, 7.0]]]))[0][0] == 1


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda p, n: anti_kt(p[0], n), r"momenta must be \(n, K, 4\)"),
        (lambda p, n: anti_kt(p, n[:1]), r"counts \(n,\)"),
        (lambda p, n: anti_kt(p, n, 0.0), "radius must be positive; got 0.0"),
        (lambda p, n: anti_kt(p, n, backend="slow"), "backend must be one of fastjet, numpy"),
        (lambda p, n: thrust(p[0]), r"momenta must be \(n, K, 3\) or"),
        (lambda p, n: thrust(p[..., :2]), r"momenta must be \(n, K, 3\) or"),
        (lambda p, n: thrust(p, n[:1]), r"counts \(n,\)"),
    ],
)
def test_bad_input(call, message):
    momenta, counts = events(3, 4)
    with pytest.raises(ValueError, match=message):
        call(momenta, counts)
