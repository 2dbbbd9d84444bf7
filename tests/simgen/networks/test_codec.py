"""Convolutional codec: any size, any number of axes, context, periodic edges."""

import pytest
import torch

from simgen.networks.codec import GridDecoder, GridEncoder, coarse_size, default_depth

SIZES = [(8, 8), (7, 9), (13,), (6, 7, 5), (1, 3)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("context", [0, 3])
def test_there_and_back(size, context):
    torch.manual_seed(0)
    depth, axes = default_depth(size), len(size)
    encoder = GridEncoder(2, 4, 8, depth, axes=axes, context=context)
    decoder = GridDecoder(4, 2, size, 8, depth, context=context, skip=True)
    x = torch.randn(3, 2, *size)
    c = torch.randn(3, context) if context else None
    code, levels = encoder(x, c), encoder.levels(x, c)
    back = decoder(code, c, levels)
    assert code.shape == (3, 4, *coarse_size(size, depth)) and back.shape == x.shape
    assert max(code.shape[2:]) <= 4 and [h.shape[1] for h in levels] == encoder.widths
    (code.square().mean() + back.square().mean()).backward()
    for module in (encoder, decoder):
        for name, parameter in module.named_parameters():
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    with torch.no_grad():  # a row does not see its batch
        alone = decoder(code[:1], None if c is None else c[:1], [h[:1] for h in levels])
    torch.testing.assert_close(alone, back[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 16), (16,)])
def test_periodic_grids_have_no_edge(size):
    torch.manual_seed(0)
    encoder = GridEncoder(1, 3, 8, depth=2, axes=len(size), periodic=True)
    decoder = GridDecoder(3, 1, size, 8, depth=2, periodic=True)
    x = torch.randn(2, 1, *size)
    with torch.no_grad():
        code, shifted = encoder(x), encoder(x.roll(4, -1))
        torch.testing.assert_close(shifted, code.roll(1, -1), rtol=1e-4, atol=1e-5)
        back = decoder(code)
        torch.testing.assert_close(
            decoder(code.roll(1, -1)), back.roll(4, -1), rtol=1e-4, atol=1e-5
        )
        edged = GridEncoder(1, 3, 8, depth=2, axes=len(size))
        assert not torch.allclose(edged(x.roll(4, -1)), edged(x).roll(1, -1), atol=1e-3)


def test_an_image_has_up_to_three_axes():
    with pytest.raises(ValueError, match="1, 2 or 3"):
        GridEncoder(1, 1, axes=4)
