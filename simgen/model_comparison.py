r"""Which simulator? Probabilities of models, from their evidences.

.. math::
    p(M_k \mid x) = \frac{p(x \mid M_k)\, \pi_k}{\sum_j p(x \mid M_j)\, \pi_j}, \qquad
    \log B_{ab} = \log p(x \mid M_a) - \log p(x \mid M_b)

Errors of the log-evidences propagate to first order,

.. math::
    \sigma(p_k)^2 = p_k^2 \Bigl[ (1 - p_k)^2 \sigma_k^2 + \sum_{j \ne k} p_j^2 \sigma_j^2 \Bigr] .

An evidence judges a model together with its prior: a prior twice as wide as it need be costs
log 2, however well the model fits.

References:
    | Bayes Factors (Kass & Raftery, 1995), section 3.2: the words
    | https://doi.org/10.1080/01621459.1995.10476572
"""

from __future__ import annotations

__all__ = ["Comparison", "compare"]

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .answers.posterior import Evidence

_WORDS = ((1.0, "not worth more than a mention"), (3.0, "positive"), (5.0, "strong"))


@dataclass(frozen=True)
class Comparison:
    """Models and how probable they are.

    Arguments:
        names: Of the models.
        log_evidence: log p(x | M) (*batch, K); between them they may share an unknown constant.
        log_errors: Their standard errors (K,).
        prior: Probabilities before x, summing to one.
    """

    names: tuple[str, ...]
    log_evidence: Tensor
    log_errors: Tensor
    prior: tuple[float, ...]

    @property
    def probabilities(self) -> Tensor:
        """p(M | x), (*batch, K)."""
        return (self.log_evidence + torch.tensor(self.prior, dtype=torch.float64).log()).softmax(
            -1
        )

    @property
    def errors(self) -> Tensor:
        """Standard errors of the probabilities, (*batch, K)."""
        p, square = self.probabilities, self.log_errors.square()
        others = (p.square() * square).sum(-1, keepdim=True) - p.square() * square
        return p * ((1 - p).square() * square + others).sqrt()

    def __getitem__(self, name: str) -> Any:
        """The probability of a model: a number, of a batch a tensor (*batch,)."""
        found = self.probabilities[..., self._index(name)]
        return float(found) if found.dim() == 0 else found

    def log_bayes_factor(self, first: str, second: str) -> Any:
        """log p(x | first) - log p(x | second): an `Evidence` with its error, of a batch a tensor
        (*batch,). The prior does not enter.
        """
        i, j = self._index(first), self._index(second)
        found = self.log_evidence[..., i] - self.log_evidence[..., j]
        error = math.hypot(float(self.log_errors[i]), float(self.log_errors[j]))
        return Evidence(float(found), error) if found.dim() == 0 else found

    @property
    def best(self) -> Any:
        """The name of the most probable model, of a batch a list of them."""
        found = self.probabilities.argmax(-1)
        if found.dim() == 0:
            return self.names[int(found)]
        return [self.names[i] for i in found.flatten().tolist()]

    @property
    def verdict(self) -> str:
        """What the data say, in a sentence.

        Raises:
            ValueError: Of a batch.
        """
        if self.log_evidence.dim() > 1:
            raise ValueError("a verdict is of one observation; this is a batch")
        order = self.log_evidence.argsort(descending=True).tolist()
        first, second = (self.names[i] for i in order[:2])
        factor = self.log_bayes_factor(first, second)
        word = next((w for top, w in _WORDS if factor < top), "very strong")
        said = ", ".join(
            f"{k} {p:.3g} ± {e:.1g}" if e > 0 else f"{k} {p:.3g}"
            for k, p, e in zip(self.names, self.probabilities.tolist(), self.errors.tolist())
        )
        error = f" ± {factor.error:.2g}" if factor.error else ""
        text = (
            f"evidence for {first} over {second} is {word}: ln B = {float(factor):.2f}{error}; "
            f"{said}"
        )
        if float(factor) < 2 * factor.error:
            text += "; the Monte-Carlo errors do not say which is ahead: take more draws"
        return text

    def _index(self, name: str) -> int:
        if name not in self.names:
            raise KeyError(f"no model {name!r}; there are {', '.join(self.names)}")
        return self.names.index(name)

    def __repr__(self) -> str:
        if self.log_evidence.dim() > 1:
            shape = tuple(self.log_evidence.shape[:-1])
            return f"Comparison of {', '.join(self.names)}; batch {shape}"
        return f"Comparison({self.verdict})"


def compare(models: Mapping[str, Any], prior: Mapping[str, float] | None = None) -> Comparison:
    """Probabilities of models by their evidences, of the same observation.

    Arguments:
        models: By name what `infer` returned, or a log-evidence: an `Evidence`, (value, error), or
            a number.
        prior: Odds before x, by name; the same for all unless said.

    Raises:
        ValueError: If there are fewer than two models, an evidence is not finite, or the odds are
            not positive numbers for each of them.
        NotImplementedError: If a posterior's method knows no evidence.

    Examples:
        >>> found = compare({"LCDM": (-20.0, 0.1), "wCDM": (-21.1, 0.1)})
        >>> round(found["LCDM"], 3), found.log_bayes_factor("LCDM", "wCDM")
        (0.75, 1.1000 ± 0.14)
    """
    names = tuple(models)
    if len(names) < 2:
        raise ValueError(f"name two models or more; got {', '.join(names) or 'none'}")
    values, errors = zip(*(_evidence(k, v) for k, v in models.items()))
    return Comparison(
        names,
        torch.tensor(values, dtype=torch.float64),
        torch.tensor(errors, dtype=torch.float64),
        shares(names, prior),
    )


def shares(names: Sequence[str], odds: Mapping[str, float] | None) -> tuple[float, ...]:
    """Odds as probabilities, in the order of the names.

    Raises:
        ValueError: If one is missing, unknown, or not positive.
    """
    if odds is None:
        return (1 / len(names),) * len(names)
    if set(odds) != set(names):
        raise ValueError(f"prior= gives odds of {', '.join(names)}; got {', '.join(odds)}")
    values = [float(odds[k]) for k in names]
    if not all(math.isfinite(v) and v > 0 for v in values):
        raise ValueError(f"odds are positive numbers; got {dict(odds)}")
    return tuple(v / sum(values) for v in values)


def _evidence(name: str, value: Any) -> tuple[float, float]:
    """A log-evidence and its standard error."""
    if hasattr(value, "log_evidence"):
        value = value.log_evidence()
    if isinstance(value, Evidence) or isinstance(value, (tuple, list)):
        found, error = value
    else:
        found, error = value, 0.0
    found, error = float(found), float(error)
    if not math.isfinite(found) or not (math.isfinite(error) and error >= 0):
        raise ValueError(f"the evidence of {name!r} must be finite; got {found} ± {error}")
    return found, error
