"""The family: every network, process, prediction and solver; exact where the data are Gaussian."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from simgen.field import Field
from simgen.gaussian import GaussianPrior
from simgen.models.denoiser import PREDICTIONS, coefficients, preconditioning
from simgen.models.diffusion import Diffusion
from simgen.models.noise_levels import NOISES, stratified
from simgen.models.process import PROCESSES
from simgen.models.solvers import SOLVERS

SHIFT = torch.tensor([[1.0, 0.5, 0.0], [0.0, -1.0, 2.0]])
COVARIANCE = torch.tensor([[0.5, 0.2, 0.0], [0.2, 0.3, 0.0], [0.0, 0.0, 0.01]])
IMAGE = Field((1, 8, 8), layout="image")


def linear_gaussian(n=20_000):
    torch.manual_seed(0)
    c = torch.randn(n, 2)
    z = c @ SHIFT + 0.3 + MultivariateNormal(torch.zeros(3), COVARIANCE).sample((n,))
    return z, (c, None)


def build(k=3, context=2, **settings):
    torch.manual_seed(0)
    small = {"hidden": 16, "blocks": 2, "steps": 8} | settings
    given = {"context": Field((context,))} if context else {}
    return Diffusion(**small).build(Field((k,)), given)


def stirred(module):
    """Away from the start, where the network is zero."""
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return module


def images(channels=1, **settings):
    torch.manual_seed(0)
    given = {"context": Field((2,)), "map": Field((channels, 8, 8), layout="image")}
    return Diffusion(**{"hidden": 8, "steps": 4} | settings).build(IMAGE, given)


@pytest.mark.parametrize("process", list(PROCESSES))
@pytest.mark.parametrize("solver", ["adams", "dopri5"])
def test_a_linear_gaussian_problem_is_exact_at_the_start(process, solver):
    """Denoiser, draws and density, before any training."""
    z, given = linear_gaussian()
    module = build(process=process, solver=solver, steps=8)
    module.initialise(z, given)
    c = torch.tensor([[0.5, -1.0]])
    frame = module.network.frame
    mean = frame.mean(c)[0].detach()
    exact = GaussianPrior(mean, frame.axes @ torch.diag(frame.variance) @ frame.axes.T)
    assert (mean - (c @ SHIFT + 0.3)).abs().max() < 0.03
    with torch.no_grad():
        alpha, sigma = torch.tensor(0.6), torch.tensor(0.5)
        x_t = torch.randn(9, 3)
        found = module.denoise(x_t, alpha, sigma, (c.expand(9, 2), None))
        torch.testing.assert_close(found, exact.denoise(x_t, alpha, sigma), rtol=1e-3, atol=1e-4)
        x = exact.sample((9,))
        log_p = module.log_prob(x, (c.expand(9, 2), None))
        assert float((log_p - exact.log_prob(x)).abs().max()) < 1e-3
        noise = torch.cat([torch.eye(3), torch.zeros(1, 3)])
        draws = module.transport(noise[:, None], (c, None))[:, 0]
    response = draws[:3] - draws[3]
    torch.testing.assert_close(draws[3], mean, rtol=0, atol=1e-3)
    torch.testing.assert_close(response.T @ response, exact.covariance.float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("noise", [None, *NOISES])
@pytest.mark.parametrize("process", list(PROCESSES))
def test_likelihood_loss_is_in_nats(noise, process):
    """With the exact denoiser the bound is the negative log-density, on average over the data."""
    torch.manual_seed(0)
    z = 0.3 + 0.7 * torch.randn(20_000, 1)
    module = build(
        1, 0, process=process, weighting="likelihood", noise=noise, noise_spread=2.0, levels=8,
        sigma_min=0.02, sigma_max=20.0,
    )  # fmt: skip
    module.initialise(z, (None, None))
    with torch.no_grad():
        loss = module.loss(z, (None, None))
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.49)
    error = float(loss.std()) / len(z) ** 0.5
    assert error < 0.05 and abs(float(loss.mean()) - entropy) < 4 * error + 2e-3


class Exact(nn.Module):
    """What a perfect network predicts for x_0 ~ N(0, s^2)."""

    def __init__(self, kind, s2=1.0):
        super().__init__()
        self.kind, self.s2 = kind, s2
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x, time, context, grid):
        sigma, alpha = (4 * time).exp()[:, None], torch.ones_like(time)[:, None]
        x_t = x / preconditioning(alpha, sigma)[0]
        x_0 = self.s2 * x_t / (self.s2 + sigma**2)
        a, b = coefficients(self.kind, alpha, sigma)
        out = a * x_t + b * x_0
        return self.scale * (out * sigma if self.kind == "score" else out)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_every_prediction_is_the_same_denoiser(kind):
    module = Diffusion(
        process="edm", parameterisation=kind, network=Exact(kind, 0.3), linear=False
    ).build(Field((2,)), {})
    x_t = torch.randn(6, 2)
    sigma = torch.tensor([0.01, 0.1, 0.5, 1.0, 3.0, 30.0])
    found = module.denoise(x_t, torch.ones(6), sigma, (None, None))
    wanted = 0.3 * x_t / (0.3 + sigma**2)[:, None]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("weighting", PREDICTIONS)
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_weighting_is_whose_error_is_squared(kind, weighting):
    """The mean squared error of one prediction, made by way of another."""
    module = Diffusion(
        process="edm", parameterisation=kind, weighting=weighting, network=Exact(kind, 0.3),
        linear=False, sigma_min=0.1, levels=2,
    ).build(Field((2,)), {})  # fmt: skip
    x_0 = torch.randn(5, 2)
    torch.manual_seed(3)
    loss = module.loss(x_0, (None, None))
    torch.manual_seed(3)
    ell = module.noise.quantile(stratified(5, 2, torch.device("cpu")))
    _, sigma, _, x_t = module.noisy(x_0, (None, None), ell)
    _, b = coefficients(weighting, torch.ones_like(sigma), sigma)
    error = b * (0.3 * x_t / (0.3 + sigma**2) - x_0)
    torch.testing.assert_close(loss, error.square().mean(2).mean(0), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("network", ["mlp", "tokens"])
@pytest.mark.parametrize("context", [0, 2])
@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_gradients_reach_every_parameter(network, context, drop):
    module = stirred(build(5, context, network=network, hidden=16, drop=drop))
    given = torch.randn(64, context) if context else None
    module.loss(torch.randn(64, 5), (given, None)).mean().backward()
    for name, p in module.named_parameters():
        if not name.endswith("known"):  # what a joint model says of tokens that are given
            assert p.grad is not None and p.grad.abs().sum() > 0, name


@pytest.mark.parametrize("periodic", [False, True])
def test_images(periodic):
    module = stirred(images(2, periodic=periodic, drop=0.5))
    target = torch.randn(16, 1, 8, 8)
    given = torch.randn(16, 2), torch.randn(16, 2, 8, 8)
    module.loss(target, given).mean().backward()
    for name, p in module.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name
    given = given[0][:2], given[1][:2]
    with torch.no_grad():
        noise = torch.randn(3, 2, 1, 8, 8)
        draws = module.transport(noise, given)
        assert draws.shape == (3, 2, 1, 8, 8) and draws.isfinite().all()
        for other in ((given[0].flip(0), given[1]), (given[0], given[1].flip(0))):
            assert not torch.allclose(draws, module.transport(noise, other))
        log_p = module.log_prob(target[:2], given)
        alone = module.log_prob(target[:1], (given[0][:1], given[1][:1]))  # fixed probes
        torch.testing.assert_close(log_p[:1], alone, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("shape", [(2, 5, 7), (1, 4, 3, 6)])
def test_grids_of_any_size_in_two_and_three_dimensions(shape):
    torch.manual_seed(0)
    module = stirred(Diffusion(hidden=8, steps=4).build(Field(shape, layout="image"), {}))
    module.initialise(torch.randn(20, *shape), (None, None))
    loss = module.loss(torch.randn(4, *shape), (None, None))
    draws = module.distribution((None, None)).sample((3,))
    assert loss.shape == (4,) and draws.shape == (3, *shape) and draws.isfinite().all()


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_transport_is_a_function_of_its_noise_row_by_row(solver):
    module = stirred(build(solver=solver)).eval()
    given = torch.randn(4, 2), None
    noise = torch.randn(3, 4, *module.noise_shape)
    with torch.no_grad():
        draws = module.transport(noise, given)
        assert draws.shape == (3, 4, 3) and torch.equal(draws, module.transport(noise, given))
        alone = module.transport(noise[1:2, 2:3], (given[0][2:3], None))
        torch.testing.assert_close(alone[0, 0], draws[1, 2], rtol=1e-4, atol=1e-4)
        q = module.distribution(given)
        assert q.sample((5,)).shape == (5, 4, 3) and q.density == "ode"
        torch.testing.assert_close(q.transport(noise), draws)


@pytest.mark.parametrize("network", ["mlp", "tokens"])
def test_log_prob_is_the_density_of_transport(network):
    """The Jacobian of the map from noise, by automatic differentiation."""
    module = stirred(build(2, 2, network=network, solver="dopri5", steps=60)).double().eval()
    module.initialise(torch.randn(200, 2).double(), (torch.randn(200, 2).double(), None))
    given = torch.randn(3, 2).double(), None
    noise = torch.randn(1, 3, 2).double()
    with torch.no_grad():
        z = module.transport(noise, given)
        log_q = module.log_prob(z[0], given)
    jacobian = torch.autograd.functional.jacobian(
        lambda e: module.transport(e, given)[0].sum(0), noise
    )
    ladj = jacobian[:, 0].movedim(1, 0).slogdet()[1]
    base = -0.5 * noise[0].square().sum(-1) - math.log(2 * math.pi)
    torch.testing.assert_close(log_q, base - ladj, rtol=0, atol=0.01)


def test_log_prob_can_be_differentiated():
    module = stirred(build()).double()
    z = torch.randn(4, 3).double().requires_grad_()
    given = torch.randn(4, 2).double(), None
    (slope,) = torch.autograd.grad(module.log_prob(z, given).sum(), z)
    step = 1e-4 * torch.eye(3).double()[0]
    with torch.no_grad():
        up, down = (module.log_prob(z + s, given) for s in (step, -step))
    torch.testing.assert_close(slope[:, 0], (up - down) / 2e-4, rtol=1e-4, atol=1e-4)


def test_guidance_moves_along_what_the_context_says():
    module = stirred(build(drop=0.3))
    given, x_t = (torch.randn(4, 2), None), torch.randn(4, 3)
    level = torch.tensor(0.8), torch.tensor(0.6)
    nothing = module.network.without(given, torch.ones(4, dtype=torch.bool))
    known, blind = (module.denoise(x_t, *level, g).detach() for g in (given, nothing))
    assert not torch.allclose(known, blind)
    guided = stirred(build(drop=0.3, guidance=2.5))
    guided.load_state_dict(module.state_dict())
    found = guided.denoise(x_t, *level, given).detach()
    torch.testing.assert_close(found, blind + 2.5 * (known - blind), rtol=1e-4, atol=1e-5)
    # in training alone, what is given is withheld from a share of the rows
    torch.manual_seed(1)
    where = torch.rand(1000, 1).expand(-1, 2)
    shown = []
    module.network.network.register_forward_hook(lambda m, a, o: shown.append(a[2]))
    module.train().loss(torch.randn(1000, 3), (where, None))
    module.eval().loss(torch.randn(1000, 3), (where, None))
    share = [float((s == module.network.null["context"]).all(-1).float().mean()) for s in shown]
    assert abs(share[0] - 0.3) < 0.06 and share[1] == 0


def test_noise_levels_follow_the_data():
    small = build(2, 0)
    small.initialise(torch.randn(1000, 2) * torch.tensor([0.1, 0.01]), (None, None))
    low, high = small.process.sigma_min, small.process.sigma_max
    assert low < 2e-5 and 5 < high < 10 and 0.02 < small.process.scale < 0.05
    # a map whose cells all move together: the largest mode is many times a cell's spread
    module = Diffusion(hidden=8).build(Field((1, 32, 32), layout="image"), {})
    module.initialise(torch.randn(300, 1, 1, 1).expand(300, 1, 32, 32), (None, None))
    assert module.process.sigma_max > 15 * 32
    module.initialise(torch.randn(300, 1, 32, 32), (None, None))
    assert module.process.sigma_max < 100
    said = build(2, 0, sigma_min=0.03, sigma_max=3.0)
    said.initialise(torch.randn(100, 2), (None, None))
    assert (said.process.sigma_min, said.process.sigma_max) == (0.03, 3.0)


def test_state_holds_everything():
    z, given = linear_gaussian(500)
    module = stirred(build(drop=0.2))
    module.initialise(z, given)
    again = build(drop=0.2)
    again.load_state_dict(module.state_dict())
    noise = torch.randn(2, 500, 3)
    assert torch.equal(module.transport(noise, given), again.transport(noise, given))
    assert again.process == module.process


def test_own_network_is_copied():
    own = Exact("edm")
    module = Diffusion(network=own).build(Field((2,)), {})
    assert module.network.network is not own
    assert module.transport(torch.randn(1, 3, 2), (None, None)).shape == (1, 3, 2)


@pytest.mark.parametrize("process", ["vp-cosine", "straight"])
def test_two_modes_are_learned(process):
    """The start is one Gaussian; the density of the trained model is that of two."""
    torch.manual_seed(0)
    module = build(1, 1, hidden=32, process=process, steps=16)
    c = torch.rand(4096, 1)
    side = torch.where(torch.rand(4096, 1) < c, 1.0, -1.0)
    z, given = side + 0.2 * torch.randn(4096, 1), (2 * c - 1, None)
    module.initialise(z, given)
    optimizer = torch.optim.AdamW(module.parameters(), lr=5e-3)
    for i in range(400):
        optimizer.param_groups[0]["lr"] = 5e-3 * (1 - i / 400)
        rows = torch.randint(4096, (256,))
        module.loss(z[rows], (given[0][rows], None)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        draws = module.distribution((torch.tensor([[-0.6], [0.6]]), None)).sample((4000,))
        axis = torch.linspace(-2.5, 2.5, 201)[:, None]
        log_q = module.log_prob(axis, (torch.full((201, 1), 0.6), None))
    share = (draws > 0).float().mean(0)[:, 0]
    assert (share - torch.tensor([0.2, 0.8])).abs().max() < 0.06
    assert abs(float(draws.abs().std(0).mean()) - 0.2) < 0.03
    exact = 0.8 * torch.exp(-0.5 * ((axis - 1) / 0.2) ** 2) + 0.2 * torch.exp(
        -0.5 * ((axis + 1) / 0.2) ** 2
    )
    exact = exact[:, 0] / (0.2 * math.sqrt(2 * math.pi))
    assert abs(float(log_q.exp().sum() * 0.025) - 1) < 0.02
    assert float((log_q.exp() - exact).abs().sum() * 0.025) < 0.2


def test_bad_settings():
    with pytest.raises(ValueError, match="process must be one of"):
        Diffusion(process="vp")
    with pytest.raises(ValueError, match="solver must be one of"):
        Diffusion(solver="euler")
    with pytest.raises(ValueError, match="weighting must be one of"):
        Diffusion(weighting="snr")
    with pytest.raises(ValueError, match="network must be"):
        Diffusion(network="resnet")
    with pytest.raises(ValueError, match="steps must be at least 2"):
        Diffusion(steps=1)
    with pytest.raises(ValueError, match="drop must be in"):
        Diffusion(drop=1.0)
    with pytest.raises(ValueError, match="guidance needs"):
        Diffusion(guidance=2.0)
    with pytest.raises(ValueError, match="sigma_min < sigma_max"):
        Diffusion(sigma_min=100.0)
    with pytest.raises(TypeError):
        Diffusion(hiden=3)
    with pytest.raises(ValueError, match="does not model"):
        Diffusion(network="unet").build(Field((3,)), {})
    with pytest.raises(ValueError, match="does not model"):
        Diffusion(network="tokens").build(IMAGE, {})
    with pytest.raises(ValueError, match="not given a map"):
        Diffusion().build(Field((3,)), {"map": IMAGE})
