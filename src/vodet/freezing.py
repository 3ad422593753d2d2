"""Finds and freezes parts of a network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from vodet.errors import ConfigError


def find_modules(root: nn.Module, names: Sequence[str], owner: str) -> list[nn.Module]:
    """Return the modules of a network that have the given names.

    Args:
        root: The module to search.
        names: Dotted names relative to ``root``, as in ``named_modules``.
        owner: Description of ``root`` for error messages, such as "the backbone".

    Raises:
        ConfigError: If ``root`` has no module with one of the names.
    """
    modules = dict(root.named_modules())
    if unknown := [name for name in names if name not in modules]:
        children = ", ".join(name for name, _ in root.named_children())
        msg = f"{owner} has no module {unknown} to freeze. Its top-level modules are: {children}."
        raise ConfigError(msg)
    return [modules[name] for name in names]


def freeze(modules: Sequence[nn.Module]) -> None:
    """Freeze modules: switch off the gradients of their weights, and set evaluation mode.

    Autograd builds no graph for tensors that only frozen modules have computed.
    """
    for module in modules:
        module.requires_grad_(False)
        module.eval()
