"""Parts of a network that do not learn."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from vodet.errors import ConfigError


def find_modules(root: nn.Module, names: Sequence[str], owner: str) -> list[nn.Module]:
    """Return modules by their dotted names.

    Args:
        root: Where the names start.
        names: The names, as of ``named_modules``.
        owner: What ``root`` is, for the text of errors.

    Raises:
        ConfigError: If there is none of a name.
    """
    modules = dict(root.named_modules())
    if unknown := [name for name in names if name not in modules]:
        children = ", ".join(name for name, _ in root.named_children())
        msg = f"{owner} has no module {unknown} to freeze. The outermost are: {children}."
        raise ConfigError(msg)
    return [modules[name] for name in names]


def freeze(modules: Sequence[nn.Module]) -> None:
    """Keep modules from learning: no gradient for their weights, evaluation mode.

    Autograd keeps no graph of what only such modules have computed.
    """
    for module in modules:
        module.requires_grad_(False)
        module.eval()
