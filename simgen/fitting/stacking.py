r"""Stacking: the heads of a pipeline as one module, so that all members train in the same step.

.. math::
    \phi = (\phi_1, \dots, \phi_K), \qquad \nabla_\phi \sum_k L_k(\phi_k)
        = (\nabla L_1, \dots, \nabla L_K)

The parameters of K members stand behind each other in one tensor, and the loss is mapped over
the first axis (`torch.func.vmap`): K small matrix products become one, and the price of
dispatching an operation is paid once. A network that cannot be mapped runs member by member.
"""

from __future__ import annotations

__all__ = ["Members"]

import copy
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from .pipeline import Pipeline

log = logging.getLogger("simgen")


class Members(nn.Module):
    """The trained part of a pipeline: one head as it is, or several with stacked parameters.

    Arguments:
        pipeline: Whose heads are trained; a single head is shared with it, several are copied.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.count, self.iid = len(pipeline.heads), pipeline.iid
        self.mapped = self.count > 1
        heads = list(pipeline.heads)
        if self.count == 1:
            self.head = heads[0]
            return
        self._template = [copy.deepcopy(heads[0])]  # in a list: its parameters are not ours
        parameters, buffers = stack_module_state(heads)
        self._parameter_names, self._buffer_names = list(parameters), list(buffers)
        for i, value in enumerate(parameters.values()):
            self.register_parameter(f"p{i}", nn.Parameter(value.detach(), value.requires_grad))
        for i, value in enumerate(buffers.values()):
            self.register_buffer(f"b{i}", value)

    @property
    def template(self) -> Any:
        """The head whose code runs."""
        return self.head if self.count == 1 else self._template[0]

    def train(self, mode: bool = True) -> Members:
        """Sets the mode of the template as well."""
        super().train(mode)
        if self.count > 1:
            self._template[0].train(mode)
        return self

    def progress(self, share: float) -> None:
        """Tells a model that asks for it which share of the training is done."""
        hook = getattr(self.template.model, "progress", None)
        if hook is not None:
            hook(share)

    def losses(
        self, z: Tensor, given: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> Tensor:
        """The loss of each member and row, (members, n)."""
        if self.count == 1:
            return self.head.loss(z, given, masks, self.iid)[None]
        parameters = {n: getattr(self, f"p{i}") for i, n in enumerate(self._parameter_names)}
        buffers = {n: getattr(self, f"b{i}") for i, n in enumerate(self._buffer_names)}

        def loss(parameters: Any, buffers: Any) -> Tensor:
            arguments = (z, dict(given), dict(masks), self.iid)
            return functional_call(self.template, (parameters, buffers), arguments)

        if self.mapped:
            state = torch.get_rng_state()
            try:
                return vmap(loss, randomness="different")(parameters, buffers)
            except (RuntimeError, NotImplementedError) as error:
                log.info("members are trained one after the other: %s", error)
                torch.set_rng_state(state)
                self.mapped = False
        return torch.stack(
            [
                loss(
                    {n: v[i] for n, v in parameters.items()},
                    {n: v[i] for n, v in buffers.items()},
                )
                for i in range(self.count)
            ]
        )

    def decay_groups(self, decay: float) -> list[dict[str, Any]]:
        """Parameters for an optimiser: matrices decay, offsets and scales do not."""
        axes = 1 if self.count > 1 else 0
        trained = [p for p in self.parameters() if p.requires_grad]
        matrices = [p for p in trained if p.dim() - axes > 1]
        rest = [p for p in trained if p.dim() - axes <= 1]
        groups = ((matrices, decay), (rest, 0.0))
        return [{"params": p, "weight_decay": w} for p, w in groups if p]

    def clip_(self, largest: float) -> Tensor:
        """Scales each member's gradient to a norm of at most `largest`; returns the norms
        (members,). A gradient that is not finite becomes zero.
        """
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        if self.count == 1:
            norms = torch.stack(torch._foreach_norm(gradients)).norm()[None]
        else:
            squares = [g.reshape(self.count, -1).square().sum(1) for g in gradients]
            norms = torch.stack(squares).sum(0).sqrt()
        factor = (largest / (norms + 1e-6)).clamp(max=1.0)
        good = norms.isfinite()
        for g in gradients:
            shape = (-1, *[1] * (g.dim() - 1)) if self.count > 1 else ()
            g.mul_(factor.view(shape))
            if not bool(good.all()):
                g.copy_(torch.where(good.view(shape), g, torch.zeros_like(g)))
        return norms

    def keep_best(self, best: dict[str, Tensor], better: list[bool]) -> None:
        """Copies the state of the members that are better into `best`."""
        chosen = torch.tensor(better)
        for key, value in self.state_dict().items():
            if self.count == 1:
                best[key].copy_(value)
            else:
                best[key][chosen.to(value.device)] = value[chosen.to(value.device)]

    def restore(self, state: Mapping[str, Tensor], pipeline: Pipeline) -> None:
        """Writes a state of this module into the pipeline's heads."""
        self.load_state_dict(state)
        if self.count == 1:
            pipeline.heads[0].load_state_dict(self.head.state_dict())
            return
        for i, head in enumerate(pipeline.heads):
            values = {n: getattr(self, f"p{j}")[i] for j, n in enumerate(self._parameter_names)}
            values |= {n: getattr(self, f"b{j}")[i] for j, n in enumerate(self._buffer_names)}
            head.load_state_dict(values)
