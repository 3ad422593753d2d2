"""Optimizers with separate learning rates, or other options, for parts of a detector."""

from __future__ import annotations

import difflib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from vodet.errors import ConfigError

REST = "rest"  # the group of parameters that have no separate options
_NO_DECAY = "/no_decay"  # suffix for the part of a group that has no weight decay


class GroupedOptimizer:
    """Builds an optimizer in which parts of a detector have options of their own, such as ``lr``.

    Each trainable parameter belongs to one parameter group: the group of the most specific part
    that contains it, or the group ``rest``. The learning rate of each group is logged, such as
    ``lr/backbone``. A schedule multiplies all learning rates by the same factor.

    Example:
        ``GroupedOptimizer(torch.optim.AdamW, lr=1e-4, groups={"backbone": {"lr": 1e-5}})``

    Args:
        optimizer: A class of ``torch.optim``, or any callable that builds an optimizer from groups.
        groups: Options by part. A part is the dotted name of a module or parameter of the detector:
            ``{"head.rpn": {"lr": 1e-5}}``, or equally ``{"head": {"rpn": {"lr": 1e-5}}}``.
        decay_norms_and_biases: Whether weight decay also applies to norms and biases.
        options: Options for all parameters, such as ``lr`` and ``weight_decay``. Options in
            ``groups`` take precedence.
    """

    def __init__(
        self,
        optimizer: Callable[..., Optimizer],
        *,
        groups: Mapping[str, Any] | None = None,
        decay_norms_and_biases: bool = True,
        **options: Any,
    ) -> None:
        self.optimizer = optimizer
        self.groups = dict(_by_part(groups or {}))
        self.decay_norms_and_biases = decay_norms_and_biases
        self.options = options

    def __call__(self, named_parameters: Iterable[tuple[str, nn.Parameter]]) -> Optimizer:
        """Build the optimizer for the parameters of a detector.

        Args:
            named_parameters: All parameters of the detector. Frozen parameters are left out.

        Raises:
            ConfigError: If the detector lacks a part that ``groups`` names, or an option of a part
                is invalid.
            TypeError: If the optimizer does not have an option in ``options``.
            ValueError: If a value in ``options`` is out of range, or no parameter is trainable.
        """
        parameters = dict(named_parameters)
        for part, own in self.groups.items():
            _check_part(part, list(parameters))
            self._check_options(part, own)
        members: dict[tuple[str, bool], list[nn.Parameter]] = defaultdict(list)
        for name, parameter in parameters.items():
            if parameter.requires_grad:
                is_decayed = self.decay_norms_and_biases or parameter.ndim > 1
                members[self._part_of(name), is_decayed].append(parameter)
        return self.optimizer([self._group(*key, members[key]) for key in members], **self.options)

    def _part_of(self, name: str) -> str:
        return max((part for part in self.groups if _contains(part, name)), key=len, default=REST)

    def _group(self, part: str, is_decayed: bool, parameters: list[nn.Parameter]) -> dict[str, Any]:
        group = {"params": parameters, "name": part, **self.groups.get(part, {})}
        return group if is_decayed else group | {"name": f"{part}{_NO_DECAY}", "weight_decay": 0.0}

    def _check_options(self, part: str, own: dict[str, Any]) -> None:
        """Check the options of a part; torch checks only the options for all parameters.

        Raises:
            ConfigError: If the optimizer has no such option, or a value is out of range.
        """
        try:
            self.optimizer([nn.Parameter()], **(self.options | own))
        except (TypeError, ValueError) as error:
            msg = f"optimizer.groups.{part}: {error}"
            raise ConfigError(msg) from error


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """Return the learning rate of each parameter group, by key: ``lr/NAME`` or ``lr/NUMBER``."""
    return {
        f"lr/{str(group.get('name', number)).removesuffix(_NO_DECAY)}": group["lr"]
        for number, group in enumerate(optimizer.param_groups)
    }


def _by_part(tree: Mapping[str, Any], part: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the dotted name of each part that has options, and its options.

    Args:
        tree: Options by part, which may be nested, as in `GroupedOptimizer`.
        part: The dotted name of the part that ``tree`` belongs to; empty for the whole detector.

    Raises:
        ConfigError: If an option is not inside a part.
    """
    own = {key: value for key, value in tree.items() if not isinstance(value, Mapping)}
    if own and not part:
        msg = (
            "optimizer.groups: expected options by part of the detector, such as "
            f"{{backbone: {{lr: 1e-5}}}}, found {own} without a part."
        )
        raise ConfigError(msg)
    if own:
        yield part, own
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _by_part(value, f"{part}.{key}" if part else key)


def _contains(part: str, name: str) -> bool:
    return f"{name}.".startswith(f"{part}.")


def _check_part(part: str, names: Sequence[str]) -> None:
    """Check that a part of the detector exists and has parameters.

    Args:
        part: Dotted name of the part.
        names: Dotted names of all parameters of the detector.

    Raises:
        ConfigError: If the part contains no parameter; the message lists the existing parts.
    """
    if any(_contains(part, name) for name in names):
        return
    place = part
    while place and not any(_contains(place, name) for name in names):
        place = place.rpartition(".")[0]
    depth = place.count(".") + 1 if place else 0
    inside = [name for name in names if not place or _contains(place, name)]
    known = list(dict.fromkeys(".".join(name.split(".")[: depth + 1]) for name in inside))
    near = difflib.get_close_matches(part, known, n=1, cutoff=0.5)
    msg = (
        f"optimizer.groups: the detector has no part {part!r} with parameters."
        f"{f' Did you mean {near[0]}?' if near else ''} Existing parts: {', '.join(known)}."
    )
    raise ConfigError(msg)
