"""Mixed precision in bfloat16, on CPU and CUDA."""

from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.runner.amp import autocast
from mmseg.registry import OPTIM_WRAPPERS

from clouds_mmseg.utils.device import warn_of_emulated_bf16


@OPTIM_WRAPPERS.register_module()
class BF16OptimWrapper(OptimWrapper):
    """An optimiser wrapper whose forward pass runs under bfloat16 autocast.

    bfloat16 has the exponent range of float32: gradients do not underflow,
    and the loss needs no scaling. mmengine's ``AmpOptimWrapper`` is built
    around a loss scaler and refuses to run without a GPU.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        warn_of_emulated_bf16()

    @contextmanager
    def optim_context(self, model):
        """Context of the forward pass.

        Args:
            model (nn.Module): The model that is trained.

        Yields:
            None: Inside, matrix products run in bfloat16.
        """
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield
