r"""Operators one after another, as light passes through an instrument.

.. math:: y = A_k(\cdots A_2(A_1(x)))
"""

from __future__ import annotations

__all__ = ["Compose"]

import inspect
from collections.abc import Callable
from inspect import Parameter, Signature
from typing import Any

from torch import Tensor, nn

Operator = Callable[..., Tensor]
_ANY = "**"


class Compose:
    """The operators in the order given: the first is applied first, to x.

    Each is given by keyword those parameters that it names, so that unknown ones of the
    instrument reach the operator that has them; `inspect.signature` shows them all. One that
    takes any (``**given``) is given all.

    Arguments:
        operators: Callables; of each, the first parameter is what it is applied to.

    Raises:
        TypeError: When called with a parameter that no operator names, or without one that an
            operator needs.

    Examples:
        >>> import torch
        >>> from simgen.operators import Downsample, GaussianBlur
        >>> telescope = Compose(GaussianBlur(), Downsample(2))
        >>> telescope(torch.ones(5, 8, 8), width=1.5).shape
        torch.Size([5, 4, 4])
    """

    def __init__(self, *operators: Operator) -> None:
        if not operators:
            raise ValueError("Compose needs at least one operator")
        self.operators = operators
        self._named = [_parameters(operator) for operator in operators]
        named = {name: p for part in self._named for name, p in part.items()}
        x = Parameter("x", Parameter.POSITIONAL_ONLY, annotation=Tensor)
        # a signature has the variadic parameter last
        rest = sorted(named.values(), key=lambda p: p.kind)
        self.__signature__ = Signature([x, *rest], return_annotation=Tensor)

    def __call__(self, x: Tensor, /, **given: Any) -> Tensor:
        """What the last operator returns, (n, *observed), of x (n, *event)."""
        self.__signature__.bind(x, **given)
        for operator, named in zip(self.operators, self._named):
            known = given if _ANY in named else {k: v for k, v in given.items() if k in named}
            x = operator(x, **known)
        return x

    def __repr__(self) -> str:
        return f"Compose({', '.join(map(repr, self.operators))})"


def _parameters(operator: Operator) -> dict[str, Parameter]:
    """The parameters of an operator by name, as keywords, without the first: x."""
    try:
        function = operator.forward if isinstance(operator, nn.Module) else operator
        parameters = list(inspect.signature(function).parameters.values())[1:]
    except ValueError:  # built in, without a signature
        return {}
    found = {
        p.name: p.replace(kind=Parameter.KEYWORD_ONLY)
        for p in parameters
        if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    }
    if any(p.kind is Parameter.VAR_KEYWORD for p in parameters):
        found[_ANY] = Parameter("given", Parameter.VAR_KEYWORD)
    return found
