"""A residual network told what is given: what it must not see, and what it shares."""

import torch

from simgen.networks import MaskedMLP, build


def make():
    torch.manual_seed(0)
    net = MaskedMLP(4, width=16, blocks=2, encoding=5)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x, clean = torch.randn(2, 3, 6, 4)
    return net, x, torch.rand(3, 6), clean, torch.rand(3, 6, 4) < 0.5


def test_it_sees_values_where_they_belong_and_nowhere_else():
    net, x, time, clean, given = make()
    out = net(x, time, clean, given)
    assert (out[given] == 0).all() and (out[~given] != 0).all()
    other = torch.where(given, torch.randn_like(x), x), torch.where(given, clean, torch.nan)
    torch.testing.assert_close(net(other[0], time, other[1], given), out)
    moved = net(x, time, clean + 1.0, given)
    partly = given.any(-1) & ~given.all(-1)
    assert ((moved - out).abs().amax(-1)[partly] > 1e-4).all()


def test_what_is_given_is_shared_by_draws():
    net, x, time, clean, given = make()
    shared = net(x, time, clean[0], given[0])
    for i in range(3):
        torch.testing.assert_close(shared[i], net(x[i], time[i], clean[0], given[0]))


def test_it_starts_at_zero_and_knows_how_it_was_made():
    net = MaskedMLP(4, width=16)
    x, time, clean, given = make()[1:]
    assert (net(x, time, clean, given) == 0).all()
    made = make()[0]
    again = build(made.config)
    again.load_state_dict(made.state_dict())
    assert torch.equal(again(x, time, clean, given), made(x, time, clean, given))
