"""Parts of a tower that the maps do not depend on, and their removal."""

from torch import nn


def remove_modules(module: nn.Module, names: list[str]) -> None:
    """Replace submodules by ``nn.Identity`` and parameters by None."""
    for name in names:
        parent, _, leaf = name.rpartition('.')
        parent = module.get_submodule(parent)
        is_module = isinstance(getattr(parent, leaf), nn.Module)
        setattr(parent, leaf, nn.Identity() if is_module else None)


def find_unused(module: nn.Module, prefix: str = '') -> list[str]:
    """Find the outermost parts of a module whose parameters have no gradient.

    Args:
        module: A module after a backward pass.
        prefix: Prefix of the names.

    Returns:
        Dotted names of submodules and of single parameters.
    """
    names = [
        prefix + name
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.grad is None
    ]
    for name, child in module.named_children():
        parameters = list(child.parameters())
        if parameters and all(p.grad is None for p in parameters):
            names.append(prefix + name)
        else:
            names += find_unused(child, f'{prefix}{name}.')
    return names
