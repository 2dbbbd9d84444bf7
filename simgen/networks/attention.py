r"""Self-attention: every element of a sequence takes what it needs from all others.

.. math::
    h_i \leftarrow W \sum_j \mathrm{softmax}_j\bigl( q_i \cdot k_j / \sqrt{d} \bigr) \, v_j

in several heads side by side. Without positions it knows no order: an element's place, where it
matters, must be in the element.
"""

from __future__ import annotations

__all__ = ["SelfAttention"]

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class SelfAttention(nn.Module):
    """Multi-head self-attention: (n, L, width) → (n, L, width); its output starts at zero.

    Arguments:
        width: Features of an element.
        heads: Number of heads; divides the width.

    Raises:
        ValueError: If the heads don't divide the width.

    References:
        | Attention Is All You Need (Vaswani et al., 2017), eq. 1
        | https://arxiv.org/abs/1706.03762
    """

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads must divide the width {width}; got {heads}")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, h: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attends within h (n, L, width); mask (n, L, L) is true where row i may see column j."""
        n, length, width = h.shape
        qkv = self.qkv(h).view(n, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if mask is not None:
            mask = mask[:, None]
        h = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out(h.transpose(1, 2).reshape(n, length, width))
