"""Freezing of a backbone: no gradients, eval mode, fixed statistics."""

import torch


class FreezableMixin:
    """Adds ``frozen`` to a backbone; put it before the module's class.

    A frozen backbone keeps its bytes whatever the training loop does: its
    parameters ask for no gradient, it stays in eval through every
    ``train()`` (so that the statistics of batch norms do not move and no
    dropout acts), and its forward records nothing for autograd.

    The class that uses it calls :meth:`set_frozen` last in its constructor
    and runs its forward inside :meth:`autograd_scope`.

    Attributes:
        frozen (bool): Whether the backbone is held still.
        weights_loaded (bool): Whether the constructor loaded weights, or
            left that to a checkpoint: the framework's initialisation is not
            wanted.
    """

    frozen: bool = False
    weights_loaded: bool = False

    def set_frozen(self, frozen: bool) -> None:
        """Freeze or release every parameter and every buffer."""
        self.frozen = frozen
        self.requires_grad_(not frozen)
        self.train(not frozen)

    def train(self, mode: bool = True):
        """Set the mode, except that a frozen backbone stays in eval."""
        return super().train(mode and not self.frozen)

    def autograd_scope(self):
        """Return a context that records gradients only where not frozen.

        It is ``no_grad`` and not ``inference_mode``: heads save the maps for
        their own backward, which inference tensors forbid.
        """
        return torch.set_grad_enabled(
            torch.is_grad_enabled() and not self.frozen
        )

    def init_weights(self) -> None:
        """Leave loaded weights alone, else do what the framework does."""
        if not self.weights_loaded:
            super().init_weights()
