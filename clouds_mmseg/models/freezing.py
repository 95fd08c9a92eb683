"""Hold a backbone still: no gradients, eval mode, constant statistics."""

import torch


class FreezableMixin:
    """Adds ``frozen`` to a backbone; put it before the module's class.

    A frozen backbone keeps its bytes whatever the training loop does: its
    parameters ask for no gradient, it stays in eval through every
    ``train()`` (so that the statistics of batch norms do not move and no
    dropout acts), and its forward records nothing for autograd.

    The class that uses it calls :meth:`set_frozen` last in its constructor.
    """

    frozen: bool = False

    def set_frozen(self, frozen: bool) -> None:
        """Freeze or release every parameter and every buffer."""
        self.frozen = frozen
        self.requires_grad_(not frozen)
        self.train(not frozen)

    def train(self, mode: bool = True):
        """Set the mode, except that a frozen backbone stays in eval."""
        return super().train(mode and not self.frozen)

    def forward(self, x: torch.Tensor):
        """Run the wrapped forward, without autograd where it is frozen.

        ``no_grad`` and not ``inference_mode``: the heads save these maps for
        their own backward, which inference tensors forbid.
        """
        with torch.set_grad_enabled(
            torch.is_grad_enabled() and not self.frozen
        ):
            return super().forward(x)

    def init_weights(self) -> None:
        """Leave loaded weights alone, else do what the framework does."""
        if not getattr(self, 'weights_loaded', False):
            super().init_weights()
