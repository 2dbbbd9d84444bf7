"""Conditional: a trained p(target | given), called with what is given, in physical units.

Saved as one safetensors file whose JSON header says what it is: expression, family, fields,
preprocessing, history, provenance and verdict. Nothing is pickled or imported by name.
"""

from __future__ import annotations

__all__ = ["Conditional", "ConditionalDistribution", "load"]

import copy
import logging
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from .conditioning import condition
from .distribution import CHUNK, ConditionalDistribution
from .exports import optional
from .field import Field
from .fitting.pipeline import Pipeline
from .fitting.tensors import read_header, read_tensors, write_tensors
from .models import FAMILIES
from .models.base import Given
from .models.settings import describe_family, rebuild_family
from .networks import build
from .null import Typicality
from .prior import Prior
from .reference import Reference
from .rounds.truncation import TruncatedPrior
from .typicality import doubt

if TYPE_CHECKING:
    from .log_density import LogDensity

log = logging.getLogger("simgen")

SCHEMA = 1


class Conditional:
    """A trained conditional distribution; made by `simgen.fit` or `simgen.load`.

    Attributes:
        expression: What it is, "theta | x".
        target: Names of the modelled fields.
        given: Names of the given fields.
        fields: The fields by name, as the dataset had them.
        prior: The prior over the parameters, where there is one.
        history: Training history: lists by name.
        provenance: Dataset, seeds, versions, time.
        verdict: What calibration said, as a plain dict, or None.
        typicality: The null of what is given, for `check_observation`, or None.
        reference: Simulations by which observations with gaps are judged, or None.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        family: Any,
        prior: Prior | None = None,
        history: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
        verdict: Mapping[str, Any] | None = None,
    ) -> None:
        self.pipeline = pipeline.eval().requires_grad_(False)
        self.family = family
        self._joint: Conditional | None = None  # of which this is a conditional
        self.prior = prior
        self.history = dict(history or {})
        self.provenance = dict(provenance or {})
        self.verdict = None if verdict is None else dict(verdict)
        self.typicality: Typicality | None = None
        self.reference: Reference | None = None

    @property
    def expression(self) -> str:
        """The expression, as text."""
        return str(self.pipeline.expression)

    @property
    def target(self) -> tuple[str, ...]:
        """Names of the modelled fields."""
        return self.pipeline.expression.target

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the given fields."""
        return self.pipeline.expression.given

    @property
    def fields(self) -> dict[str, Field]:
        """The fields by name."""
        return self.pipeline.fields

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the target's columns."""
        return self._columns("names")

    @property
    def labels(self) -> tuple[str, ...]:
        """LaTeX labels of the target's columns."""
        return self._columns("labels")

    @property
    def units(self) -> tuple[str, ...]:
        """Units of the target's columns."""
        return self._columns("units")

    def _columns(self, what: str) -> tuple[str, ...]:
        out: list[str] = []
        for name in self.target:
            field = self.fields[name]
            size = field.columns if field.iid or field.layout == "image" else field.size
            plain = [name] if size == 1 else [f"{name}_{i}" for i in range(size)]
            default = {"names": plain, "labels": field.names or plain, "units": [""] * size}[what]
            out += getattr(field, what) or default
        return tuple(out)

    def to(self, device: str | torch.device) -> Conditional:
        """Moves the network to a device, in place."""
        self.pipeline.to(device)
        return self

    def __call__(self, *values: Any, **named: Any) -> ConditionalDistribution:
        """The distribution of the target given values of the given fields.

        A single observation that is unlike the simulations is logged as a warning, see
        `check_observation`; of well-specified ones a share of `typicality.SUSPECT` is.

        Arguments:
            *values: The given field's value where there is one field, (*batch, *event).
            **named: The given fields by name; a variable-length field's `<name>_length` may go
                along.

        Raises:
            ValueError: If a field is missing, unknown, not finite, or has another shape than in
                training.
        """
        rows, masks, batch, device = self._inputs(values, named)
        grad = any(v.requires_grad for v in rows.values())
        with torch.set_grad_enabled(grad and torch.is_grad_enabled()):
            context = self._context(rows, masks)
        if batch.numel() == 1 and not grad:
            found = doubt(self, rows, masks, context[0][0])
            if found is not None and found.suspect:
                log.warning("%s of %s", self.expression, found.warning)
        columns = {k: self._columns(k) for k in ("names", "labels", "units")}
        q = ConditionalDistribution(
            self.pipeline, context, batch, columns, device or torch.device("cpu")
        )
        q.conditional, q.observed = self, {**dict(zip(self.given, values)), **named}
        return q

    def _inputs(
        self, values: Sequence[Any], named: Mapping[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], torch.Size, torch.device | None]:
        """Given fields as rows, their masks, the batch shape, and the device that they were on."""
        given = self.given
        if len(values) > len(given):
            raise ValueError(
                f"{self.expression!r} takes {len(given)} given fields; got {len(values)}"
            )
        if len(values) > 1:
            raise ValueError(f"name the given fields: {', '.join(f'{k}=...' for k in given)}")
        inputs = {**dict(zip(given, values)), **named}
        lengths = {k: inputs.pop(f"{k}_length") for k in given if f"{k}_length" in inputs}
        if missing := [k for k in given if k not in inputs]:
            raise ValueError(f"{self.expression!r} needs the field {missing[0]!r}")
        if unknown := [k for k in inputs if k not in given]:
            raise ValueError(
                f"{unknown[0]!r} is not given in {self.expression!r}; "
                f"given are: {', '.join(given) or 'nothing'}"
            )
        device = next((v.device for v in inputs.values() if isinstance(v, Tensor)), None)
        return *self._rows(inputs, lengths), device

    def _context(self, rows: dict[str, Tensor], masks: dict[str, Tensor]) -> list[Given]:
        """What each head's model is given, a chunk of rows after the other."""
        if not rows:
            return [(None, None) for _ in self.pipeline.heads]
        n = len(next(iter(rows.values())))
        if n == 0:  # a row of zeros says the shapes
            blank = {k: v.new_zeros(1, *v.shape[1:]) for k, v in rows.items()}
            given = self._context(blank, {k: torch.ones_like(v) for k, v in masks.items()})
            return [tuple(None if g is None else g[:0] for g in pair) for pair in given]  # type: ignore[misc]
        size = max(sum(v[0].numel() for v in rows.values()), 1)
        step = max(1, min(CHUNK, 16_000_000 // size))
        parts = []
        for start in range(0, n, step):
            part = {k: v[start : start + step] for k, v in rows.items()}
            mask = {k: v[start : start + step] for k, v in masks.items()}
            parts.append(self.pipeline.context(self.pipeline.standardise(part, mask), mask))
        return [_joined(chunks) for chunks in zip(*parts)]

    def _rows(
        self, inputs: Mapping[str, Any], lengths: Mapping[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], torch.Size]:
        """Given fields as rows (n, *event), masks of variable-length ones, and the batch shape."""
        device = self.pipeline.device
        values: dict[str, Tensor] = {}
        masks: dict[str, Tensor] = {}
        batches = []
        for name in self.given:
            field = self.fields[name]
            value = _tensor(inputs[name], name).to(device)
            event, short = field.shape, field.layout in ("set", "series")
            if value.dim() == 0 and field.size == 1:
                value = value.reshape(event)
            axes = value.dim() - len(event)
            found = tuple(value.shape[max(axes, 0) :])
            fits = (
                found[1:] == event[1:] and found[0] <= event[0]
                if short and axes >= 0
                else found == event
            )
            if axes < 0 or not fits:
                wanted = ", ".join(map(str, ("...", *event)))
                raise ValueError(
                    f"field {name!r} must have shape ({wanted}) as in training; "
                    f"got {tuple(value.shape)}"
                )
            gaps = bool(value.isnan().any())
            if value.isinf().any() or (gaps and not self.pipeline.given_field(name).partial):
                advice = ": a model fitted with mask= takes NaN as not observed" if gaps else ""
                raise ValueError(f"field {name!r} holds NaN or infinite values{advice}")
            batches.append(value.shape[:axes])
            if short and (name in lengths or found != event or self._variable(name)):
                length = torch.as_tensor(lengths.get(name, found[0]), device=device)
                mask = torch.arange(event[0], device=device) < length[..., None]
                masks[name] = mask.expand(*value.shape[:axes], event[0])
                value = nn.functional.pad(value, (0, 0, 0, event[0] - found[0]))
            values[name] = value
        batch = torch.broadcast_shapes(*batches) if batches else torch.Size()
        rows, flat_masks = {}, {}
        for name, value in values.items():
            event = self.fields[name].shape
            rows[name] = value.expand(torch.Size((*batch, *event))).reshape(-1, *event)
            if name in masks:
                flat_masks[name] = masks[name].expand(*batch, event[0]).reshape(-1, event[0])
        return rows, flat_masks, batch

    def _variable(self, name: str) -> bool:
        return f"{name}_length" in self.provenance.get("variable", ())

    def condition(self, expression: str) -> Conditional:
        """Any conditional of a joint model, without training; it shares the weights.

        Arguments:
            expression: "theta | x", "x | theta", "Omega_m | x, sigma_8"; columns that it does not
                name are marginalised. Given values may be NaN where nothing was observed.

        Raises:
            ValueError: If the model is no joint one, or a name is no field of it.
        """
        part = Conditional(
            condition(self.pipeline, expression),
            self.family,
            self.prior,
            self.history,
            self.provenance,
        )
        part._joint = self
        if self.reference is not None and part.given:
            part.reference = self.reference.of(part.given, self.fields)
        return part

    def save(self, path: str | os.PathLike[str], verdict: Any = None) -> None:
        """Writes one safetensors file: weights, and a JSON header that says everything else."""
        if verdict is not None:
            self.verdict = verdict.to_dict() if hasattr(verdict, "to_dict") else dict(verdict)
        pipeline = self.pipeline if self._joint is None else self._joint.pipeline
        reference = self.reference if self._joint is None else self._joint.reference
        null, tensors = (None, {}) if self.typicality is None else self.typicality.save()
        kept, rows = (None, {}) if reference is None else reference.save()
        header = {
            "schema": SCHEMA,
            "condition": None if self._joint is None else self.expression,
            **pipeline.config,
            "family": describe_family(self.family),
            "prior": None if self.prior is None else self.prior.to_dict(),
            "history": self.history,
            "provenance": self.provenance,
            "verdict": self.verdict,
            "typicality": null,
            "reference": kept,
        }
        write_tensors(path, {**pipeline.state_dict(), **tensors, **rows}, header)

    def log_likelihood(
        self,
        x: Any,
        *,
        iid: bool = False,
        bounds: Mapping[str, tuple[float, float]] | None = None,
        **fixed: Any,
    ) -> LogDensity:
        """log p(x | theta) of a fitted "x | theta" as a function of theta, with its gradient, by
        NumPy: for emcee, Cobaya, NumPyro, SciPy; `.with_prior()` adds log p(theta).

        Arguments:
            x: What was observed, (*event), or (events, *event) with `iid`.
            iid: Whether x is a set of independent events.
            bounds: Where to trust the surrogate, by the name of a parameter: -inf outside; unless
                said, the support of the prior that it was trained with.
            **fixed: Values of given fields that are no parameters here.

        Raises:
            ValueError: If x has another shape than in training or is not finite, a given field is
                no vector, or it is not known where the surrogate was trained.
            NotImplementedError: If the family has no density.
        """
        from .log_density import surrogate_density

        return surrogate_density(self, x, iid=iid, bounds=bounds, fixed=fixed)

    def to_sbi(self, prior: Any = None) -> Any:
        """The model as sbi has them: a posterior of "theta | x", a ConditionalDensityEstimator of
        "x | theta"; the network is shared, not copied.

        Arguments:
            prior: Of the posterior's parameters, where the model does not know it: some of sbi's
                tools ask for one.

        Raises:
            ImportError: If sbi is not installed.
            ValueError: If nothing is given, or what is given is no vector or single array.
        """
        optional("sbi", "to_sbi")
        from .sbi_models import to_sbi

        return to_sbi(self, prior)

    def __repr__(self) -> str:
        return f"Conditional({self.expression!r}, {self.family})"


def read_model_header(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON header of a model file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no model of simgen's, truncated, or of a newer schema.
    """
    header = read_header(path)
    if header.get("schema", 0) > SCHEMA:
        raise ValueError(
            f"{os.fspath(path)!r} has schema {header['schema']}; this simgen reads up to "
            f"{SCHEMA}: upgrade simgen"
        )
    if "expression" not in header:
        raise ValueError(f"{os.fspath(path)!r} is no model of simgen's")
    return header


def load(
    path: str | os.PathLike[str],
    modules: Mapping[str, nn.Module] | None = None,
    families: Sequence[type] = (),
    prior: Prior | None = None,
) -> Conditional:
    """Reads a model that `Conditional.save` wrote. Nothing in the file is executed or imported
    by name.

    Arguments:
        path: The file.
        modules: A user's own networks by the place they had, {"embedding.x": MyNet(16)}; weights
            are filled in.
        families: A user's own families.
        prior: The prior, where it was none of torch's plain factors.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, of a newer schema, needs a module that was not handed
            in, or its weights do not fit.
    """
    header = read_model_header(path)
    modules = dict(modules or {})
    known = {**FAMILIES, **{f.__name__: f for f in families}}
    family = rebuild_family(header["family"], known, modules)
    embedding = [_embeddings(config, modules) for config in header["embedding"]]
    stored = read_tensors(path)
    aside = ("typicality:", "reference:")
    tensors = {k: v for k, v in stored.items() if not k.startswith(aside)}
    pipeline = Pipeline.from_config(header, embedding, tensors["target.constant"]).attach(family)
    fill(pipeline, tensors, os.fspath(path))
    known_prior = header["prior"] or {}
    if prior is None and "factors" in known_prior:
        prior = Prior.from_dict(known_prior)
    elif prior is not None and known_prior.get("truncation") is not None:
        prior = TruncatedPrior.of_rounds(prior, known_prior["truncation"])
    conditional = Conditional(pipeline, family, prior, header["history"], header["provenance"])
    if header.get("reference") is not None:
        conditional.reference = Reference.load(header["reference"], stored)
    if header.get("condition") is not None:
        conditional = conditional.condition(header["condition"])
    conditional.verdict = header["verdict"]
    if header.get("typicality") is not None:
        conditional.typicality = Typicality.load(header["typicality"], stored)
    return conditional


def _embeddings(
    config: Mapping[str, Any], modules: Mapping[str, nn.Module]
) -> dict[str, nn.Module]:
    """The embeddings of one head, a user's own from what was handed in."""
    out: dict[str, nn.Module] = {}
    for key, value in config.items():
        if "class" in value:
            out[key] = build(value)
            continue
        place = f"embedding.{key}"
        if place not in modules:
            raise ValueError(
                f"the embedding of {key!r} is your own {value['module']}: "
                f'hand one in with load(path, modules={{"{place}": ...}})'
            )
        out[key] = copy.deepcopy(modules[place])
    return out


def _joined(chunks: Sequence[Given]) -> Given:
    """Rows of what is given, one after the other."""
    first = chunks[0]
    context, grid = (
        None if first[i] is None else torch.cat([c[i] for c in chunks])  # type: ignore[misc]
        for i in (0, 1)
    )
    return context, grid


def fill(pipeline: nn.Module, tensors: dict[str, Tensor], path: str) -> None:
    """Loads weights after saying what differs."""
    state = pipeline.state_dict()
    problems = [f"{k} is missing" for k in state if k not in tensors]
    problems += [f"{k} is unknown" for k in tensors if k not in state]
    problems += [
        f"{k} has shape {tuple(tensors[k].shape)}, wanted {tuple(v.shape)}"
        for k, v in state.items()
        if k in tensors and tensors[k].shape != v.shape
    ]
    if problems:
        raise ValueError(
            f"the weights in {path!r} do not fit the model: {'; '.join(problems[:5])}"
        )
    pipeline.load_state_dict(tensors)


def _tensor(value: Any, name: str) -> Tensor:
    if not isinstance(value, Tensor):
        try:
            value = torch.as_tensor(np.asarray(value))
        except (TypeError, ValueError) as error:
            raise TypeError(f"field {name!r} must be an array of numbers: {error}") from None
    return value
