"""What a computation makes, counted instead of timed."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class TensorSizes(TorchDispatchMode):
    """Notes the number of elements of every tensor that is made.

    Attributes:
        seen (list[int]): In the order of their making.
        calls (list[str]): The operators, by name.
    """

    def __init__(self):
        super().__init__()
        self.seen = []
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.calls.append(func.overloadpacket.__name__)
        # A view takes no memory.
        if isinstance(result, torch.Tensor) and not func.is_view:
            self.seen.append(result.numel())
        return result
