"""The stirred flow against exact solutions, its invariants, its budget and its order."""

import pickle
import time
from itertools import pairwise

import numpy as np
import pytest
import torch

from simulators.kolmogorov import KolmogorovFlow

INVISCID = torch.tensor([float("inf"), 0.0], dtype=torch.float64)


def grid(simulator):
    """Coordinates x and y (N, N); x along the last axis."""
    points = torch.arange(simulator.pixels, dtype=torch.float64) * 2 * np.pi / simulator.pixels
    y, x = torch.meshgrid(points, points, indexing="ij")
    return x, y


def random_flow(simulator, n=1, seed=0):
    """Every mode that is kept, with the same power: where aliases would show."""
    rng = torch.Generator().manual_seed(seed)
    w = torch.randn(n, *[simulator.pixels] * 2, generator=rng, dtype=torch.float64)
    modes = torch.fft.rfft2(w) * simulator.kept
    return torch.fft.irfft2(modes, s=w.shape[-2:])


def mean(field):
    return field.mean((-2, -1))


def energy(simulator, w):
    return mean(simulator.velocity(w).square().sum(-3)) / 2


@pytest.mark.parametrize("k", [1, 2, 3])
def test_taylor_green_vortices_decay_exactly(k):
    """w = -2 k cos kx cos ky stays what it is and decays as exp(-(2 k^2 / Re + mu) t)."""
    simulator = KolmogorovFlow(pixels=16, dt=0.05)
    x, y = grid(simulator)
    w = -2 * k * torch.cos(k * x) * torch.cos(k * y)
    u, v = simulator.velocity(w)
    assert torch.allclose(u, torch.cos(k * x) * torch.sin(k * y), atol=1e-13)
    assert torch.allclose(v, -torch.sin(k * x) * torch.cos(k * y), atol=1e-13)
    theta = torch.tensor([30.0, 0.0], dtype=torch.float64)
    later = simulator.step(w, theta, steps=40)
    expected = w * np.exp(-(2 * k**2 / 30 + 0.1) * 40 * 0.05)
    assert torch.allclose(later, expected, rtol=0, atol=1e-12)


def test_the_laminar_flow_is_stationary():
    """w = -k_f A cos(k_f y) / (k_f^2 / Re + mu) balances force, viscosity and drag."""
    simulator = KolmogorovFlow(pixels=24, dt=0.01, wavenumber=3)
    theta = torch.tensor([10.0, 1.3], dtype=torch.float64)
    _, y = grid(simulator)
    w = -3 * 1.3 / (9 / 10 + 0.1) * torch.cos(3 * y)
    assert simulator.tendency(w, theta).abs().max() < 1e-12
    assert torch.allclose(simulator.step(w, theta, steps=50), w, atol=1e-8)


def test_advection_of_smooth_vorticity():
    """-u . grad w with the derivatives written out, of waves whose products are all kept."""
    simulator = KolmogorovFlow(pixels=32, drag=0.0)
    x, y = grid(simulator)
    w = torch.cos(2 * x + y) + 0.5 * torch.sin(3 * y - x) + 0.3 * torch.cos(4 * x)
    w_x = -2 * torch.sin(2 * x + y) - 0.5 * torch.cos(3 * y - x) - 1.2 * torch.sin(4 * x)
    w_y = -torch.sin(2 * x + y) + 1.5 * torch.cos(3 * y - x)
    u = -torch.sin(2 * x + y) / 5 + 0.15 * torch.cos(3 * y - x)
    v = 2 * torch.sin(2 * x + y) / 5 + 0.05 * torch.cos(3 * y - x) + 0.075 * torch.sin(4 * x)
    velocity = simulator.velocity(w)
    assert torch.allclose(velocity, torch.stack((u, v)), atol=1e-13)
    assert torch.allclose(simulator.tendency(w, INVISCID), -u * w_x - v * w_y, atol=1e-12)


@pytest.mark.parametrize("pixels", [18, 32])
def test_without_viscosity_energy_and_enstrophy_are_conserved(pixels):
    """Of any flow, up to the highest mode: exact in space, fifth order a step in time."""
    simulator = KolmogorovFlow(pixels=pixels, drag=0.0)
    w = random_flow(simulator, 3)
    slope = simulator.tendency(w, INVISCID)
    scale = mean(slope.square()).sqrt()
    assert (mean(w * slope).abs() < 1e-13 * scale).all()
    power = (simulator.velocity(w) * simulator.velocity(slope)).sum(-3)
    assert (mean(power).abs() < 1e-13 * scale).all()
    drift = []
    for dt in (0.04, 0.02):
        later = KolmogorovFlow(pixels=pixels, drag=0.0, dt=dt).step(w, INVISCID, round(0.4 / dt))
        drift.append((mean(later**2) / mean(w**2) - 1).abs().max())
    assert drift[1] < 1e-4 and drift[0] > 12 * drift[1]


def test_budgets_of_energy_and_enstrophy():
    """dE/dt = -<w^2>/Re - 2 mu E + <u A sin(k_f y)>; likewise <w^2>/2."""
    simulator = KolmogorovFlow(pixels=32, drag=0.2, wavenumber=3)
    theta = torch.tensor([[40.0, 0.7], [15.0, 1.5]], dtype=torch.float64)
    w = random_flow(simulator, 2)
    slope, (_, y) = simulator.tendency(w, theta), grid(simulator)
    reynolds, amplitude = theta.T
    velocity = simulator.velocity(w)
    by_force = amplitude * mean(velocity[:, 0] * torch.sin(3 * y))
    change = mean((velocity * simulator.velocity(slope)).sum(-3))
    expected = -mean(w**2) / reynolds - 0.4 * energy(simulator, w) + by_force
    assert torch.allclose(change, expected, atol=1e-12)
    modes = torch.fft.fft2(w)
    k = torch.fft.fftfreq(32, 1 / 32, dtype=torch.float64)
    palinstrophy = mean(torch.fft.ifft2(1j * k * modes).real ** 2)
    palinstrophy = palinstrophy + mean(torch.fft.ifft2(1j * k[:, None] * modes).real ** 2)
    by_force = -3 * amplitude * mean(w * torch.cos(3 * y))
    expected = -palinstrophy / reynolds - 0.2 * mean(w**2) + by_force
    assert torch.allclose(mean(w * slope), expected, atol=1e-12)


def test_steps_converge_at_fourth_order_to_the_flow_of_the_tendency():
    theta = torch.tensor([20.0, 1.0], dtype=torch.float64)
    w = random_flow(KolmogorovFlow(pixels=16), seed=1)
    ends = [
        KolmogorovFlow(pixels=16, dt=0.4 / n).step(w, theta, steps=n) for n in (16, 32, 64, 512)
    ]
    errors = [float((end - ends[-1]).abs().max()) for end in ends[:3]]
    assert errors[2] < 1e-6
    for coarse, fine in pairwise(errors):
        assert abs(np.log2(coarse / fine) - 4) < 0.3
    short = KolmogorovFlow(pixels=16, dt=1e-4)
    up, down = short.step(w, theta, 2), w
    slope = short.tendency(short.step(w, theta), theta)
    assert torch.allclose((up - down) / 2e-4, slope, atol=1e-5 * float(slope.abs().max()))


def test_errors_fall_spectrally_with_the_number_of_pixels():
    theta = torch.tensor([20.0, 1.0], dtype=torch.float64)
    ends = []
    for pixels in (16, 32, 64, 96):
        simulator = KolmogorovFlow(pixels=pixels, wavenumber=2)
        x, y = grid(simulator)
        w = simulator.step(torch.cos(x + 2 * y) + torch.sin(2 * x - y), theta, steps=20)
        ends.append(w[:: pixels // 16, :: pixels // 16])
    errors = [float((end - ends[-1]).abs().max()) for end in ends[:-1]]
    assert errors[0] > 100 * errors[1] > 1e5 * errors[2]


def test_a_step_differentiates():
    simulator = KolmogorovFlow(pixels=8, dt=0.1, wavenumber=1)
    w = random_flow(simulator, 2).requires_grad_()
    theta = torch.tensor([[20.0, 1.0], [50.0, 0.5]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w, t: simulator.step(w, t, 2), (w, theta))


def test_shifted_flows_stay_shifted():
    """Along x by any number of pixels, along y by a period of the force."""
    simulator = KolmogorovFlow(pixels=32)
    theta = torch.tensor([80.0, 1.0], dtype=torch.float64)
    w = random_flow(simulator)
    later = simulator.step(w, theta, steps=3)
    for shift in ((0, 5), (8, 0)):
        moved = simulator.step(w.roll(shift, (-2, -1)), theta, steps=3)
        assert torch.allclose(moved, later.roll(shift, (-2, -1)), atol=1e-11)
    moved = simulator.step(w.roll((3, 0), (-2, -1)), theta, steps=3)
    assert not torch.allclose(moved, later.roll((3, 0), (-2, -1)), atol=1e-3)


def test_simulations_start_from_the_field_and_end_after_the_steps():
    simulator = KolmogorovFlow(pixels=32, steps=20)
    theta = simulator.prior.sample((19,), seed=0).double()
    fields = simulator.simulate(theta.numpy(), np.random.default_rng(0))
    assert set(fields) == set(simulator.fields) == {"x", "z_initial"}
    start = torch.from_numpy(fields["z_initial"][:, 0])
    x = simulator.step(start, theta, steps=20)
    np.testing.assert_allclose(fields["x"][:, 0], x.numpy(), atol=1e-12)
    other = simulator.simulate(theta.numpy()[::-1], np.random.default_rng(0))
    np.testing.assert_allclose(other["x"][9], fields["x"][9], atol=1e-12)
    assert (other["x"][8] != fields["x"][8]).all()


def test_the_field_at_the_start():
    """Variance 4, no mean, and the power that is written."""
    n, simulator = 200, KolmogorovFlow(pixels=32, steps=1)
    w = simulator.simulate(np.tile([50.0, 1.0], (n, 1)), np.random.default_rng(1))["z_initial"]
    assert np.abs(w.mean((-2, -1))).max() < 1e-12
    variance = (w**2).mean((-3, -2, -1))
    assert abs(variance.mean() - 4) < 4 * variance.std() / n**0.5
    power = np.abs(np.fft.fft2(w[:, 0])) ** 2
    for (a, k), (b, q) in (((power[:, 0, 1], 1), (power[:, 0, 6], 6)),):
        ratio = b.mean() / a.mean()
        assert abs(ratio / ((q / k) ** 2 * np.exp((k**2 - q**2) / 32)) - 1) < 4 * (2 / n) ** 0.5


def test_turbulence_gains_what_it_loses():
    """After 20 units of time the force feeds what viscosity and drag take, within fluctuations."""
    simulator = KolmogorovFlow(pixels=32, fixed=(60.0, 1.0))
    assert simulator.prior is None and simulator.names == ()
    fields = simulator(12, seed=0)
    w = torch.from_numpy(fields["x"][:, 0]).double()
    _, y = grid(simulator)
    gain = mean(simulator.velocity(w)[:, 0] * torch.sin(4 * y))
    loss = mean(w**2) / 60 + 0.2 * energy(simulator, w)
    assert float(gain.mean()) == pytest.approx(float(loss.mean()), rel=0.25)
    laminar = 4 / (16 / 60 + 0.1)
    assert 0.1 < float(w.std()) / laminar < 0.7


def test_repeatable_and_portable():
    simulator = KolmogorovFlow(pixels=16, steps=5)
    theta = simulator.prior.sample((3,), seed=0).numpy()
    worker = pickle.loads(pickle.dumps(simulator))
    assert "prior" not in vars(worker)
    x = simulator(theta, seed=4)["x"]
    np.testing.assert_array_equal(worker(theta, seed=4)["x"], x)
    assert (simulator(theta, seed=5)["x"] != x).all()
    settings = {"pixels": 16, "dt": 0.025, "steps": 5, "drag": 0.1, "wavenumber": 4}
    assert simulator.settings == {**settings, "fixed": None}


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"pixels": 15}, "pixels must be even"),
        ({"dt": 0}, "dt and steps must be positive"),
        ({"drag": -1.0}, "drag not negative"),
        ({"pixels": 16, "wavenumber": 6}, "wavenumber must be 1 or more, below pixels / 3"),
        ({"fixed": (1.0,)}, r"fixed must be \(reynolds, amplitude\)"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        KolmogorovFlow(**arguments)


def test_theta_is_needed_where_it_is_not_fixed():
    with pytest.raises(ValueError, match="not fixed"):
        KolmogorovFlow(pixels=16).step(torch.zeros(16, 16, dtype=torch.float64))


@pytest.mark.parametrize("pixels", [32, 64])
def test_throughput(pixels):
    simulator = KolmogorovFlow(pixels=pixels, steps=20)
    theta = np.tile([100.0, 1.0], (8, 1))
    start = time.process_time()
    fields = simulator.simulate(theta, np.random.default_rng(0))
    steps = 8 * 20 / (time.process_time() - start)
    rate = steps / KolmogorovFlow().steps
    print(f"{pixels}^2: {steps:,.0f} steps, {rate:.1f} default flows a CPU-second")
    assert np.isfinite(fields["x"]).all()
