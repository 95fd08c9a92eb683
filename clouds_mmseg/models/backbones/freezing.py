"""Freezing of a backbone: no gradients, eval mode, fixed statistics."""

from contextlib import AbstractContextManager

import torch


class FreezableMixin:
    """Add ``frozen`` to a backbone; a base class before the module's.

    The weights of a frozen backbone never change: its parameters require no
    gradient, it stays in eval mode through every ``train()`` (so that batch
    norm statistics are not updated and dropout is off), and its forward
    records nothing for autograd.

    The class that uses it calls :meth:`set_frozen` last in its constructor
    and runs its forward inside :meth:`autograd_scope`.

    Attributes:
        frozen: Whether the backbone is frozen.
        weights_loaded: Whether the constructor loaded weights, or
            left that to a checkpoint: the framework must not initialise.
    """

    frozen: bool = False
    weights_loaded: bool = False

    def set_frozen(self, frozen: bool) -> None:
        """Freeze or release every parameter and every buffer."""
        self.frozen = frozen
        self.requires_grad_(not frozen)  # type: ignore[attr-defined]
        self.train(not frozen)

    def train(self, mode: bool = True) -> 'FreezableMixin':
        """Set the mode, except that a frozen backbone stays in eval."""
        return super().train(mode and not self.frozen)

    def autograd_scope(self) -> AbstractContextManager:
        """Return a context without gradients if frozen.

        It is ``no_grad`` and not ``inference_mode``: heads save the maps for
        their own backward pass, which inference tensors forbid.
        """
        return torch.set_grad_enabled(
            torch.is_grad_enabled() and not self.frozen
        )

    def init_weights(self) -> None:
        """Initialise as the framework does, unless weights were loaded."""
        if not self.weights_loaded:
            super().init_weights()
