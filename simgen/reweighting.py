r"""Another prior without training again.

.. math::
    p_\mathrm{new}(\vartheta \mid x) \propto q(\vartheta \mid x)\,
        \frac{p_\mathrm{new}(\vartheta)}{p_\mathrm{old}(\vartheta)}, \qquad
    \mathrm{ESS} = \frac{(\sum_i w_i)^2}{\sum_i w_i^2}, \quad
    w_i = \frac{p_\mathrm{new}(\vartheta_i)}{p_\mathrm{old}(\vartheta_i)}

q divided by the prior of its training is the likelihood, up to a factor of x. The "evidence" that
comes along is p_new(x) / p_old(x): the Bayes factor of the two priors. A new prior within the old
one is all that can be asked for: beyond it nothing was simulated.
"""

from __future__ import annotations

__all__ = ["with_prior"]

import warnings
from typing import Any

import torch
from torch import Tensor

from .answers.posterior import Posterior
from .domain import check_domain
from .randomness import seeded

_DRAWS = 4096


def with_prior(
    posterior: Any,
    prior: Any,
    x: Any,
    *,
    trained: Any = None,
    method: str = "importance",
    particles: int | None = None,
    seed: int = 0,
) -> Posterior:
    """The posterior under another prior than that of the simulations.

    Arguments:
        posterior: A fitted "theta | x", or a callable of x to a distribution over theta.
        prior: The new prior, of the same parameters in the same order.
        x: What was observed, without a batch axis.
        trained: The prior of the simulations; the posterior's unless said.
        method: "importance": draws of the posterior, weighted; or any method of `infer`, such as
            "smc" where the two priors prefer different places.
        particles: How many draws.
        seed: Of them.

    Returns:
        A distribution with `.sample(n)`, `.sample(n, weighted=True)`, `.log_prob`, `.ess` and
        `.notes`, whose `.log_evidence()` is log p_new(x) / p_old(x).

    Raises:
        ValueError: If the parameters are others, or the new prior reaches beyond the old one.

    Examples:
        >>> from torch.distributions import Independent, Normal
        >>> wide, narrow = (Independent(Normal(torch.zeros(1), s), 1) for s in (1.0, 0.5))
        >>> q = lambda x: Independent(Normal(x / 2, 0.5**0.5), 1)
        >>> found = with_prior(q, narrow, torch.tensor([1.0]), trained=wide)
        >>> bool(abs(found.sample(10_000).mean() - 0.2) < 0.02)
        True
    """
    from .inference import infer

    known = getattr(posterior, "prior", None) if trained is None else trained
    if known is None:
        raise ValueError("the posterior does not know the prior of its simulations: give trained=")
    new, old = (tuple(getattr(p, "names", ())) for p in (prior, known))
    if tuple(prior.event_shape) != tuple(known.event_shape) or (new and old and new != old):
        raise ValueError(
            f"the new prior is over {', '.join(new) or tuple(prior.event_shape)}, the posterior "
            f"over {', '.join(old) or tuple(known.event_shape)}: give the same, in the same order"
        )
    check_domain(prior, known, "the prior of the simulations", seed)
    _warn_rare(prior, known, seed)
    q = posterior(torch.as_tensor(x))

    def likelihood(theta: Tensor) -> Tensor:
        log_q = q.log_prob(theta.view(len(theta), *q.batch_shape, *q.event_shape))
        log_p = known.log_prob(theta.view(len(theta), *known.event_shape))
        return log_q.reshape(len(theta)).double() - log_p.reshape(len(theta)).double()

    options: dict[str, Any] = {"method": method, "particles": particles, "seed": seed}
    if method == "importance":
        options["proposal"] = q
    return infer(prior, likelihood, x, **options)


def _warn_rare(prior: Any, known: Any, seed: int) -> None:
    """Warns where the new prior draws what the old one hardly ever did."""
    with torch.no_grad(), seeded(seed):
        least = known.log_prob(known.sample((_DRAWS,))).min()
        rare = float((known.log_prob(prior.sample((_DRAWS,))) < least).double().mean())
    if rare > 0.01:
        warnings.warn(
            f"{rare:.1%} of the new prior's draws are farther out than any of {_DRAWS:,} draws of "
            "the prior of the simulations: there the posterior extrapolates",
            stacklevel=3,
        )
