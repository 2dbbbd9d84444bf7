"""The Lennard-Jones fluid against finite differences, quadrature, exact identities and OpenMM."""

import pickle
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import binomtest, kstest, multivariate_normal

import simgen
from simgen.diagnosis import diagnose
from simulators import lennard_jones
from simulators.lennard_jones import Fluid, LennardJones, propose

CUTOFF, SHORT = 2.5, 1.3
STATE = (2.0, 0.4)


def u(r, cutoff=CUTOFF):
    """The truncated and shifted potential."""
    shift = cutoff**-12 - cutoff**-6
    return np.where(r < cutoff, 4 * (r**-12 - r**-6 - shift), 0.0)


@pytest.fixture(scope="module")
def fluid():
    """Configurations at one state, in double precision."""
    simulator = LennardJones(fixed=STATE)
    return simulator, simulator.simulate(np.empty((160, 0)), np.random.default_rng(1))


def side_of(simulator):
    return np.cbrt(simulator.particles / simulator.fixed[1])


@pytest.fixture
def few():
    """Three small systems in equilibrium, each with a box of its own."""
    simulator = LennardJones(particles=9, cutoff=SHORT, steps=20)
    theta = np.array([[1.5, 0.3], [2.0, 0.4], [3.0, 0.5]])
    x = simulator.simulate(theta, np.random.default_rng(0))["x"]
    return x, np.cbrt(9 / theta[:, 1])


def test_energy_is_the_sum_over_nearest_images(few):
    x, side = few
    images = np.stack(np.meshgrid(*[(-1, 0, 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    exact = np.zeros(3)
    for row in range(3):
        for i in range(9):
            for j in range(i):
                d = x[row, i] - x[row, j] + side[row] * images
                exact[row] += u(np.sqrt((d**2).sum(-1)), SHORT).sum()
    np.testing.assert_allclose(Fluid(9, side, SHORT)(x).energy, exact, rtol=1e-10)
    assert np.abs(exact).max() > 1


def test_forces_are_minus_the_gradient(few):
    x, side = few
    fluid, h = Fluid(9, side, SHORT), 1e-5
    now = fluid(x)
    for i, axis in ((0, 0), (4, 1), (8, 2)):
        step = np.zeros_like(x)
        step[:, i, axis] = h
        slope = (fluid(x + step).energy - fluid(x - step).energy) / (2 * h)
        np.testing.assert_allclose(now.forces[:, i, axis], -slope, rtol=1e-6, atol=1e-6)
    assert np.abs(now.forces.sum(1)).max() < 1e-10


def test_the_virial_is_minus_the_slope_by_the_box(few):
    x, side = few
    h = 1e-6
    larger, smaller = (Fluid(9, side * s, SHORT)(x * s).energy for s in (1 + h, 1 - h))
    np.testing.assert_allclose(Fluid(9, side, SHORT)(x).virial, (smaller - larger) / (2 * h), 1e-5)


def test_neither_origin_image_nor_order_matters(few):
    x, side = few
    fluid, rng = Fluid(9, side, SHORT), np.random.default_rng(3)
    now = fluid(x)
    order = rng.permutation(9)
    cells = side[:, None, None] * rng.integers(-2, 3, x.shape)
    for other in (x + rng.normal(size=(3, 1, 3)), x + cells, x[:, order]):
        new = fluid(other)
        np.testing.assert_allclose(new.energy, now.energy, rtol=1e-9)
        np.testing.assert_allclose(new.virial, now.virial, rtol=1e-9)
    np.testing.assert_allclose(new.forces, now.forces[:, order], rtol=1e-9)


def test_langevin_acceptance_is_detailed_balance(few):
    """pi(x) q(x, y) alpha = pi(y) q(y, x), with the proposals of one leap written as densities."""
    x, side = few
    T, h = np.array([1.5, 2.0, 3.0]), np.array([0.05, 0.02, 0.1])
    fluid = Fluid(9, side, SHORT)
    now = fluid(x)
    y, _, new, log_alpha = propose(
        x, np.random.default_rng(4).normal(size=x.shape), now, fluid, h, T, 1
    )
    for row in range(3):

        def q(a, to, forces, row=row):
            mean = (a + h[row] ** 2 / (2 * T[row]) * forces).ravel()
            return multivariate_normal(mean, h[row] ** 2 * np.eye(27)).logpdf(to.ravel())

        exact = (now.energy - new.energy)[row] / T[row]
        exact += q(y[row], x[row], new.forces[row]) - q(x[row], y[row], now.forces[row])
        assert abs(log_alpha[row] - exact) < 1e-8 * max(1, abs(exact))


@pytest.mark.parametrize("leaps", [1, 2, 7])
def test_leaps_run_backwards(few, leaps):
    """Momenta turned about at y lead back to x, with the inverse ratio."""
    x, side = few
    T, h, fluid = np.array([1.5, 2.0, 3.0]), np.array([0.02, 0.01, 0.005]), Fluid(9, side, SHORT)
    noise = np.random.default_rng(4).normal(size=x.shape)
    now = fluid(x)
    y, p, new, log_alpha = propose(x, noise, now, fluid, h, T, leaps)
    back, q, _, inverse = propose(y, -p, new, fluid, h, T, leaps)
    np.testing.assert_allclose(back, x, atol=1e-9)
    np.testing.assert_allclose(-q, noise, atol=1e-6)
    np.testing.assert_allclose(inverse, -log_alpha, atol=1e-6)
    assert (np.abs(y - x) > h[:, None, None]).any((1, 2)).all()


@pytest.mark.parametrize("T, leaps", [(1.0, 10), (2.5, 10), (1.5, 1)])
def test_two_particles(T, leaps):
    """Separations follow exp(-u / T) in the box; with them the mean energy and pressure."""
    n, side = 4000, 5.2
    simulator = LennardJones(
        2, fixed=(T, 2 / side**3), steps=80 if leaps > 1 else 500, leaps=leaps
    )
    fields = simulator.simulate(np.empty((n, 0)), np.random.default_rng(5))
    d = fields["x"][:, 0] - fields["x"][:, 1]
    d -= side * np.rint(d / side)
    r = np.sqrt((d**2).sum(-1))

    def ball(function, end=CUTOFF):
        def weight(r):
            return 4 * np.pi * r**2 * np.exp(-u(r) / T)

        edges = [e for e in (0.7, 1.0, 1.2, 1.6, CUTOFF) if e < end] + [end]
        return sum(quad(lambda r: weight(r) * function(r), *ends)[0] for ends in pairwise(edges))

    near = ball(lambda r: 1.0)
    total = near + side**3 - 4 / 3 * np.pi * CUTOFF**3
    inside = r[r < CUTOFF]
    assert binomtest(len(inside), n, near / total).pvalue > 1e-3
    grid = np.linspace(0.75, CUTOFF, 120)
    cdf = np.array([ball(lambda r: 1.0, end) for end in grid]) / near
    assert kstest(inside, lambda r: np.interp(r, grid, cdf)).pvalue > 1e-3
    assert kstest(1.02 * inside, lambda r: np.interp(r, grid, cdf)).pvalue < 1e-3
    energy = ball(u) / total / 2
    virial = ball(lambda r: 48 * r**-12 - 24 * r**-6) / total
    pressure = (2 * T + virial / 3) / side**3
    for name, exact in (("z_energy", energy), ("z_pressure", pressure)):
        assert abs(fields[name].mean() - exact) < 4 * fields[name].std() / n**0.5


def test_configurations_are_in_equilibrium(fluid):
    """<div V> = <V . grad U> / T for V = the sum over pairs of phi(r) along their distance.

    phi = r^-a (1 - (r / r_c)^2)^2 vanishes at the cutoff, where the force has a step.
    """
    simulator, fields = fluid
    (T, _), x, side = STATE, fields["x"], side_of(simulator)
    d = x[:, :, None] - x[:, None]
    d -= side * np.rint(d / side)
    r = np.sqrt((d**2).sum(-1) + 1e9 * np.eye(64))
    near = r < CUTOFF
    window = np.where(near, 1 - (r / CUTOFF) ** 2, 0.0)
    forces = Fluid(64, np.full(len(x), side), CUTOFF)(x).forces
    for a in (0, 3, 6):
        phi = r**-a * window**2
        slope = -a / r * phi - r**-a * window * 4 * r / CUTOFF**2
        V = np.einsum("nij,nijc->nic", phi / r, d)
        divergence = (slope + 2 * phi / r).sum((1, 2))
        against = -(V * forces).sum((1, 2)) / T
        rest = divergence - against
        error = rest.std() / len(x) ** 0.5
        assert abs(rest.mean()) < 4 * error
        assert error < 0.05 * np.abs(divergence).mean()


def test_the_start_is_forgotten(fluid):
    """Twice the steps leave the energy and pressure as they are; acceptance is near its aim."""
    _, fields = fluid
    longer = LennardJones(fixed=STATE, steps=100)
    again = longer.simulate(np.empty((80, 0)), np.random.default_rng(6))
    for name in ("z_energy", "z_pressure"):
        a, b = fields[name], again[name]
        error = (a.var() / len(a) + b.var() / len(b)) ** 0.5
        assert abs(a.mean() - b.mean()) < 4 * error
        assert error < 0.05 * abs(a.mean())
    assert abs(fields["z_acceptance"].mean() - lennard_jones.TARGET) < 0.05


def test_openmm_agrees(fluid):
    """Energies and forces of the same configurations, and the mean energy of its dynamics."""
    openmm = pytest.importorskip("openmm")
    simulator, fields = fluid
    (T, _), side = STATE, side_of(simulator)
    system = openmm.System()
    system.setDefaultPeriodicBoxVectors(*(side * np.eye(3)))
    shift = CUTOFF**-12 - CUTOFF**-6
    force = openmm.CustomNonbondedForce(f"4 * (r^-12 - r^-6 - ({shift}))")
    force.setNonbondedMethod(force.CutoffPeriodic)
    force.setCutoffDistance(CUTOFF)
    for _ in range(64):
        system.addParticle(1.0)
        force.addParticle([])
    system.addForce(force)
    kelvin = T / 0.00831446261815324
    integrator = openmm.LangevinMiddleIntegrator(kelvin, 1.0, 0.004)
    integrator.setRandomNumberSeed(1)
    context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
    ours = Fluid(64, np.full(len(fields["x"]), side), CUTOFF)(fields["x"])
    for row in range(5):
        context.setPositions(fields["x"][row])
        state = context.getState(getEnergy=True, getForces=True)
        np.testing.assert_allclose(state.getPotentialEnergy()._value, ours.energy[row], rtol=1e-9)
        forces = np.array(state.getForces(asNumpy=True)._value)
        np.testing.assert_allclose(forces, ours.forces[row], rtol=1e-7, atol=1e-7)
    context.setVelocitiesToTemperature(kelvin, 1)
    energies = []
    for _ in range(100):
        integrator.step(150)
        energies.append(context.getState(getEnergy=True).getPotentialEnergy()._value / 64)
    theirs = np.array(energies[10:])
    blocks = theirs.reshape(10, 9).mean(1)
    a = fields["z_energy"]
    error = (a.var() / len(a) + blocks.var(ddof=1) / 10) ** 0.5
    assert abs(a.mean() - theirs.mean()) < 4 * error
    assert error < 0.02 * abs(a.mean())


def test_a_row_knows_nothing_of_its_batch():
    """Each row adapts its step to itself: another row's theta leaves it as it is."""
    simulator = LennardJones(8, cutoff=1.25, steps=12)
    theta = simulator.prior.sample((6,), seed=0).double().numpy()
    first = simulator.simulate(theta, np.random.default_rng(7))
    theta[:2] = theta[2:4]
    second = simulator.simulate(theta, np.random.default_rng(7))
    for name in first:
        assert (first[name][2:] == second[name][2:]).all()
        assert (first[name][:2] != second[name][:2]).any()


def test_chains_are_long_enough_in_chunks(monkeypatch):
    """Rows beyond what is worked on at once are there, and inside their own boxes."""
    monkeypatch.setattr(lennard_jones, "CHUNK", 2**8)
    simulator = LennardJones(8, cutoff=1.25, steps=12)
    theta = simulator.prior.sample((11,), seed=0).double().numpy()
    fields = simulator.simulate(theta, np.random.default_rng(8))
    x, side = fields["x"], np.cbrt(8 / theta[:, 1])[:, None, None]
    assert x.shape == (11, 8, 3)
    assert ((x >= 0) & (x < side)).all() and (x > 0.8 * side).any()


def test_it_keeps_the_rules(capsys):
    found = diagnose(LennardJones(8, cutoff=1.25, steps=12), rows=500)
    assert found.passed, [f for f in found.findings if f.passed is False]
    one = diagnose(LennardJones(), rows=8)
    with capsys.disabled():
        print(f"\n64 particles: {1 / one.seconds:.0f} rows per CPU-second")


def test_unconditional(tmp_path):
    simulator = LennardJones(2, fixed=(1.5, 0.1), cutoff=1.25, steps=12, leaps=2)
    assert simulator.prior is None and simulator.names == ()
    dataset = simgen.simulate(simulator, 300, tmp_path / "pairs", seed=0, progress=False)
    assert "theta" not in dataset.fields and dataset["x"].shape == (300, 2, 3)
    learned = simgen.fit("x", dataset, simgen.Flow(transforms=1), max_epochs=2, progress=False)
    assert learned().sample((5,), seed=0).shape == (5, 6)


def test_fields_and_settings():
    simulator = LennardJones(particles=70, steps=20)
    assert simulator.settings == {
        "particles": 70,
        "fixed": None,
        "cutoff": 2.5,
        "steps": 20,
        "leaps": 10,
    }
    assert simulator.prior.names == simulator.names == ("T", "rho")
    np.testing.assert_allclose(simulator.prior.low, [1.5, 0.1])
    theta = [[1.5, 0.3], [2.0, 0.2], [2.5, 0.4]]
    fields, again, other = (simulator(theta, seed=seed) for seed in (1, 1, 2))
    assert set(fields) == set(simulator.fields)
    for name, field in simulator.fields.items():
        assert fields[name].shape[1:] == field.shape and fields[name].dtype == np.float32
        assert (fields[name] == again[name]).all() and (fields[name] != other[name]).any()


def test_workers_need_no_torch():
    simulator = LennardJones(8, cutoff=1.25, steps=12)
    assert len(simulator.prior.names) == 2
    theta = np.array([[1.5, 0.3]] * 3)
    code = (
        "import pickle, sys, numpy as np\n"
        "simulator, theta = pickle.load(sys.stdin.buffer)\n"
        "x = simulator.run(theta, np.random.default_rng(1))['x']\n"
        "assert 'torch' not in sys.modules\n"
        "sys.stdout.buffer.write(x.tobytes())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps((simulator, theta)),
        capture_output=True,
        check=True,
    )
    assert done.stdout == simulator.run(theta, np.random.default_rng(1))["x"].tobytes()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"particles": 1}, "particles must be a whole number from 2 on; got 1"),
        ({"steps": 5}, "steps must be a whole number from 10 on; got 5"),
        ({"leaps": 0}, "leaps must be a whole number from 1 on; got 0"),
        ({"cutoff": -1.0}, "cutoff must be positive"),
        ({"particles": 32}, "less than twice the cutoff 2.5; take at least 63 particles"),
        ({"fixed": (1.0, 0.9)}, "take at least 113 particles"),
        ({"fixed": (1.0, -0.1)}, "T and rho must be two positive numbers"),
        ({"fixed": (1.0,)}, "T and rho must be two positive numbers"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        LennardJones(**arguments)


def test_bad_parameters():
    with pytest.raises(ValueError, match="take at least 94 particles"):
        LennardJones()([[1.5, 0.75]])
