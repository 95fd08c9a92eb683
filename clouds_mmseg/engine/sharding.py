"""Sharded training of large towers: FSDP2, torch's ``fully_shard``.

With ``model_wrapper_cfg=dict(type='FullyShardedDataParallel2')`` each process
keeps a part of weights, gradients and optimiser states, and the weights of a
block of the tower are gathered while it runs. Checkpoints are the same files
as those of any other run: whole tensors, gathered when they are written.
"""

from collections.abc import Iterable
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseAveragedModel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import MODEL_WRAPPERS
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from clouds_mmseg.models.segmentors.self_training_segmentor import (
    SelfTrainingSegmentor,
)
from clouds_mmseg.utils.errors import UserError

_INSTEAD = 'leave model_wrapper_cfg out, which trains with DDP'


# In mmengine's registry: its runner asks that one alone.
@MODEL_WRAPPERS.register_module()
class FullyShardedDataParallel2(nn.Module):
    """Segmentor whose trained tower is sharded block by block (FSDP2).

    Head, teacher and what else lies outside of the blocks are one more unit:
    their optimiser states and gradients are sharded, while their weights are
    whole during a step. So a process may label more images, or none, than
    another. In eval mode all weights are whole: processes may predict
    different numbers of images and windows.

    Losses and weights are those of DDP up to the order of sums.

    Args:
        module: A segmentor with a trained :class:`~.models.TIMMTower` of
            blocks, without adapter.

    Raises:
        UserError: The tower is frozen, has an adapter or no blocks, or a
            parameter is a single number, which cannot be divided.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module
        self._blocks: list[FSDPModule] = []
        self._is_whole = False
        _require_blocks(module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the segmentor."""
        return self.module(*args, **kwargs)

    def train_step(
        self, data: dict, optim_wrapper: OptimWrapper
    ) -> dict[str, Tensor]:
        """Train one step, see mmengine's ``BaseModel``.

        Accumulated gradients are reduced in each iteration: only a part of
        them is kept, unlike with ``no_sync``.
        """
        return self.module.train_step(data, optim_wrapper)

    def val_step(self, data: dict) -> list:
        """Predict a batch."""
        return self.module.val_step(data)

    def test_step(self, data: dict) -> list:
        """Predict a batch."""
        return self.module.test_step(data)

    def train(self, mode: bool = True) -> 'FullyShardedDataParallel2':
        """Shard the weights for training; gather all of them for eval.

        Every process has to call this.
        """
        super().train(mode)
        if self._blocks and mode == self._is_whole:
            for block in self._blocks:
                block.set_reshard_after_forward(mode, recurse=False)
            for unit in (*self._blocks, self.module):
                if mode:
                    unit.reshard()
                else:
                    unit.unshard()
            self._is_whole = not mode
        return self

    def shard(self, optim_wrapper: OptimWrapper) -> None:
        """Divide the weights among the processes.

        Done once all weights are initialised as in any other run.

        Args:
            optim_wrapper: Without states yet; its parameters are replaced.
        """
        before = dict(self.module.named_parameters())
        single = [name for name, p in before.items() if not p.ndim]
        if single:
            raise UserError(
                'FullyShardedDataParallel2 divides parameters by their first '
                f'dimension, and {", ".join(single)} has none; {_INSTEAD}'
            )
        mesh = init_device_mesh(str(get_device()), (get_world_size(),))
        self._blocks = [
            fully_shard(block, mesh=mesh)
            for block in _require_blocks(self.module)
        ]
        # Whole from the beginning of a step to its end.
        fully_shard(self.module, mesh=mesh, reshard_after_forward=False)
        after = dict(self.module.named_parameters())
        new = {id(p): after[name] for name, p in before.items()}
        for group in optim_wrapper.optimizer.param_groups:
            group['params'] = [new[id(p)] for p in group['params']]
        for module in self.module.modules():
            if isinstance(module, BaseAveragedModel):
                # The teacher keeps references to its parameters.
                module.avg_parameters = dict(module.module.named_parameters())

    def gather(self, optim_wrapper: OptimWrapper) -> tuple[dict, dict]:
        """Gather weights and optimiser states; every process calls this.

        Returns:
            Those that are sharded, whole and on the CPU: key -> tensor, and
            number of the parameter -> name -> tensor. Empty but in the main
            process.
        """
        weights = _gathered(self.module.state_dict())
        states = optim_wrapper.optimizer.state_dict()['state']
        states = {index: _gathered(state) for index, state in states.items()}
        return weights, states if is_main_process() else {}

    def shard_weights(self, state_dict: dict) -> dict:
        """Divide the weights of a checkpoint like those of the module.

        Args:
            state_dict: Whole tensors, in all processes.

        Returns:
            This process's part of what is sharded; all else as it is.
        """
        own = self.module.state_dict()
        return {k: _like(v, own.get(k)) for k, v in state_dict.items()}

    def shard_states(
        self, optimizer: dict, optim_wrapper: OptimWrapper
    ) -> None:
        """Divide the optimiser states of a checkpoint, in place.

        Args:
            optimizer: Its ``optimizer``, of whole tensors.
            optim_wrapper: That resumes with them.
        """
        groups = optim_wrapper.optimizer.param_groups
        parameters = [p for group in groups for p in group['params']]
        numbers = [i for g in optimizer['param_groups'] for i in g['params']]
        for number, parameter in zip(numbers, parameters, strict=True):
            state = optimizer['state'].get(number, {})
            for name, value in state.items():
                # A step is one number.
                if getattr(value, 'shape', ()) == parameter.shape:
                    state[name] = _like(value, parameter)


def is_sharded(model: nn.Module) -> bool:
    """Return whether a model's weights are divided among processes."""
    return is_model_wrapper(model) and isinstance(
        model, FullyShardedDataParallel2
    )


def refuse_other_averages(hooks: Iterable[Hook]) -> None:
    """Refuse hooks that copy the model before it is sharded.

    Raises:
        UserError: ``EMAHook`` is among them.
    """
    if any(isinstance(hook, EMAHook) for hook in hooks):
        raise UserError(
            'EMAHook copies the whole model, which '
            'FullyShardedDataParallel2 divides: leave default_hooks.ema out, '
            f'or {_INSTEAD}'
        )


def _require_blocks(model):
    """Return the blocks of the trained tower."""
    backbone = getattr(model, 'backbone', None)
    blocks = getattr(getattr(backbone, 'model', None), 'blocks', None)
    if not isinstance(blocks, (nn.Sequential, nn.ModuleList)):
        raise UserError(
            'FullyShardedDataParallel2 divides the blocks of a TIMMTower, '
            f'and {type(backbone).__name__} has none that it knows; '
            f'{_INSTEAD}'
        )
    if getattr(backbone, 'adapter', None) is not None:
        raise UserError(
            'FullyShardedDataParallel2 is for towers that are trained whole; '
            f'an adapter has few trained weights: {_INSTEAD}'
        )
    if not any(p.requires_grad for p in blocks.parameters()):
        raise UserError(
            'FullyShardedDataParallel2 is for trained towers, and this one '
            'is frozen: a process may run it more often than another. Give '
            f'model.backbone.frozen=False, or {_INSTEAD}'
        )
    if isinstance(model, SelfTrainingSegmentor) and (
        'backbone' not in model.teacher.module
    ):
        raise UserError(
            'FullyShardedDataParallel2 needs a teacher with a tower of its '
            f'own; {_INSTEAD}'
        )
    return list(blocks)


def _gathered(tensors):
    """Gather the sharded ones among tensors; keep them in one process."""
    whole = {}
    for key, value in tensors.items():
        if isinstance(value, DTensor):
            value = value.full_tensor()
            if is_main_process():
                whole[key] = value.cpu()
    return whole


def _like(value, own):
    """Take this process's part of a whole tensor."""
    if not isinstance(own, DTensor) or not isinstance(value, torch.Tensor):
        return value
    if value.shape != own.shape:
        return value  # What loads it names the shapes.
    return distribute_tensor(
        value.to(own.device, own.dtype),
        own.device_mesh,
        own.placements,
        src_data_rank=None,  # All have read the file.
    )
