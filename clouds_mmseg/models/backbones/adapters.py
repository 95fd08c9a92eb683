"""Adapters: small trained parts of a frozen tower, as lines of a config.

``adapter=dict(type='Rein')``, ``'LoRA'`` or ``'SoMA'`` of a backbone.
docs/towers.md tells what each is.
"""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from mmseg.registry import MODELS
from torch import Tensor, nn

from clouds_mmseg.models.backbones.freezing import FreezableMixin
from clouds_mmseg.models.backbones.lora import (
    LoRAAttention,
    LoRALinear,
    LowRank,
)
from clouds_mmseg.models.backbones.rein import ReinTokens
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.options import near_names

# Names that timm and open_clip give to the containers of a tower's blocks: of
# ViTs and towers with stages, of open_clip's ViTs, of ResNets.
_CONTAINERS = ('blocks', 'resblocks', 'layer1', 'layer2', 'layer3', 'layer4')
# Parts of the keys of low-rank updates.
_LOW_RANK = ('lora_A', 'lora_B', 'initial_A', 'initial_B')
# Of a layer that computes query, key and value at once.
_FUSED = 'qkv'
# Numbers in a tower that is probed with its weights: an operation without
# any takes longer than one with few, since Python works out the shapes.
_SMALL = 5_000_000


class QueriedMaps(list):
    """Feature maps, and the queries that an adapter hands to the head.

    Attributes:
        queries: (Q, C), or (N, Q, C) with queries of their own for each
            image.
    """

    def __init__(self, maps: Sequence[Tensor], queries: Tensor):
        super().__init__(maps)
        self.queries = queries


@dataclass(frozen=True)
class Block:
    """A block of a tower.

    Attributes:
        name: Dotted name in the tower.
        module: The block.
        channels: Width of its output.
        prefix: Number of its first tokens that are no positions.
        channels_first: Whether its output is (N, C, h, w) and not channels
            last.
    """

    name: str
    module: nn.Module
    channels: int
    prefix: int = 0
    channels_first: bool = False


# As a decorator: a probe of a small tower computes, and leaves the random
# numbers of what follows as they are.
keep_random_state = torch.random.fork_rng(devices=())


def probe_copy(module: nn.Module) -> tuple[nn.Module, torch.device]:
    """Copy a module to see the shapes and gradients that it computes.

    Returns:
        The copy, in eval mode, and its device: the meta device, without a
        copy of the weights, unless there are few of them.
    """
    tensors = [*module.parameters(), *module.buffers()]
    few = sum(tensor.numel() for tensor in tensors) <= _SMALL
    if few and all(tensor.device.type == 'cpu' for tensor in tensors):
        return copy.deepcopy(module).eval(), torch.device('cpu')
    memo: dict[int, Any] = {}
    for parameter in module.parameters():
        empty = torch.empty_like(parameter, device='meta')
        memo[id(parameter)] = nn.Parameter(empty, parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device='meta')
    return copy.deepcopy(module, memo).eval(), torch.device('meta')


def block_modules(
    tower: nn.Module, containers_named: Sequence[str] = _CONTAINERS
) -> list[tuple[str, nn.Module]]:
    """List the blocks of a tower in their order, with their names.

    Args:
        tower: The tower.
        containers_named: Names of the lists that have blocks.
    """
    found: list[tuple[str, nn.Module]] = []

    def collect(name, module):
        if isinstance(module, nn.Sequential):
            for child_name, child in module.named_children():
                collect(f'{name}.{child_name}', child)
        elif not isinstance(module, nn.Identity):
            found.append((name, module))

    containers: list[str] = []
    for name, module in tower.named_modules():
        nested = any(name.startswith(f'{outer}.') for outer in containers)
        named = name.rpartition('.')[2] in containers_named
        if named and not nested:
            if isinstance(module, (nn.ModuleList, nn.Sequential)):
                containers.append(name)
                for child_name, child in module.named_children():
                    collect(f'{name}.{child_name}', child)
    return found


@keep_random_state
def measure_blocks(backbone: nn.Module, tower: str) -> list[Block]:
    """Measure what the blocks of a tower return.

    Args:
        backbone: Has :meth:`probe_size`, height and width of an image that
            it takes, and :meth:`maps`.
        tower: Name of the tower in it.

    Returns:
        The blocks that the feature maps depend on.

    Raises:
        UserError: The tower has no blocks that are known as such.
    """
    containers = getattr(backbone, 'containers', _CONTAINERS)
    names = block_modules(backbone.get_submodule(tower), containers)
    if not names:
        raise UserError(
            f'{type(backbone).__name__}: an adapter needs the blocks of the '
            f'tower, and this one ({_kind(backbone, tower)}) has none in a '
            f'module named {", ".join(containers)}; leave adapter out'
        )
    twin, device = probe_copy(backbone)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, _ in names:

        def record(module, args, output, name=name):
            shapes.setdefault(name, tuple(output.shape))

        twin.get_submodule(f'{tower}.{name}').register_forward_hook(record)
    height, width = backbone.probe_size
    with torch.no_grad():
        maps = twin.maps(torch.zeros(1, 3, height, width, device=device))
    grids = {m.shape[1]: m.shape[-2:] for m in maps}
    blocks = []
    for name, module in names:
        if name not in shapes:
            continue
        shape = shapes[name]
        if len(shape) == 3:
            tokens = _tokens(shape[2], grids, backbone)
            prefix = 0 if tokens is None else shape[1] - tokens
            blocks.append(Block(name, module, shape[2], max(prefix, 0)))
            continue
        # The probe is wider than high: 4 to 5, and a width in channels is
        # no such number of rows.
        rows, columns = shape[1:3]
        last = rows * width == columns * height
        blocks.append(
            Block(
                name,
                module,
                shape[-1] if last else shape[1],
                channels_first=not last,
            )
        )
    return blocks


def _tokens(channels, grids, backbone):
    """Return how many positions tokens of a width stand for."""
    grid = getattr(backbone, 'probe_grid', None) or grids.get(channels)
    return None if grid is None else grid[0] * grid[1]


def _kind(backbone, tower):
    return type(backbone.get_submodule(tower)).__name__


class _AfterBlock:
    """A forward hook that refines what a block returns.

    It refers to the adapter as an attribute, so that the hook of a copied
    backbone refers to the copied adapter.
    """

    def __init__(self, tokens: ReinTokens, layer: int, block: Block):
        self.tokens = tokens
        self.layer = layer
        self.prefix = block.prefix
        self.channels_first = block.channels_first

    def __call__(self, module: nn.Module, args: tuple, output: Tensor):
        if self.channels_first:
            last = output.permute(0, 2, 3, 1)
            return self.tokens(last, self.layer).permute(0, 3, 1, 2)
        if not self.prefix:
            return self.tokens(output, self.layer)
        refined = self.tokens(output[:, self.prefix :], self.layer)
        return torch.cat([output[:, : self.prefix], refined], dim=1)


class AdaptableMixin(FreezableMixin, nn.Module):
    """A freezable backbone that may have an adapter.

    The class that uses it has :attr:`probe_size` and :meth:`maps`, which is
    its forward pass without checks. Its constructor calls
    :meth:`build_adapter`, then :meth:`attach_adapter` before or after its
    weights are loaded, and :meth:`set_frozen` last.

    Attributes:
        adapter: The adapter, or None.
        tower: Name of the tower in the backbone.
    """

    adapter: 'Adapter | None' = None
    tower: str

    def build_adapter(self, cfg: dict | None, frozen: bool) -> None:
        """Build the adapter of a config; :meth:`attach_adapter` attaches it.

        Raises:
            UserError: The adapter is unknown, or the tower is not frozen.
        """
        if cfg is None:
            return
        if not frozen:
            raise UserError(
                f'{type(self).__name__}: an adapter is for a frozen tower, '
                f'got adapter={dict(cfg)} and frozen=False; leave one of '
                'them out'
            )
        kind = cfg.get('type') if isinstance(cfg, dict) else None
        known = ('Rein', 'LoRA', 'SoMA')
        if kind is None or not issubclass(_class_of(kind), Adapter):
            raise UserError(
                f'{type(self).__name__}: adapter must be a dict with the type '
                f'{", ".join(known)}, got {cfg!r}'
                + near_names([str(kind)], known)
            )
        try:
            self.adapter = MODELS.build(cfg)
        except TypeError as error:
            raise UserError(f'adapter={dict(cfg)}: {error}') from error

    def attach_adapter(self, *, loaded: bool, initialise: bool) -> None:
        """Attach the adapter, if this is the time for it.

        Args:
            loaded: Whether the pretrained weights have been loaded.
            initialise: False if a checkpoint replaces all weights.

        Raises:
            UserError: The adapter does not fit the tower.
        """
        adapter = self.adapter
        if adapter is None or adapter.before_loading is loaded:
            return
        blocks = measure_blocks(self, self.tower)
        if not 0 <= adapter.first_block < len(blocks):
            raise UserError(
                f'adapter.first_block={adapter.first_block}: the tower has '
                f'the blocks 0 to {len(blocks) - 1}'
            )
        before = {name for name, _ in self.named_parameters()}
        adapter.attach(
            self,
            self.tower,
            blocks[adapter.first_block :],
            initialise=initialise,
        )
        added = {name for name, _ in self.named_parameters()} - before
        self._adapter_keys = sorted(
            {*added, *adapter.trained_besides(self, self.tower)}
        )
        self._require_gradients()

    @keep_random_state
    def _require_gradients(self) -> None:
        """Refuse an adapter of which a parameter would have no effect."""
        twin, device = probe_copy(self)
        names = set(self.adapter_parameters())
        for name, parameter in twin.named_parameters():
            parameter.requires_grad_(name in names)
        height, width = self.probe_size
        maps = twin.maps(torch.zeros(1, 3, height, width, device=device))
        total = sum(m.sum() for m in maps)
        queries = twin.queries()
        if queries is not None:
            total = total + queries.sum()
        if total.requires_grad:
            total.backward()
        idle = [n for n in sorted(names) if twin.get_parameter(n).grad is None]
        if idle:
            raise UserError(
                f'adapter of type {type(self.adapter).__name__}: this tower '
                'computes with the weights of some layers and does not call '
                f'them, so that {idle[0]} and {len(idle) - 1} more would have '
                'no effect; choose others with adapter.targets, or use Rein'
            )

    def adapter_parameters(self) -> list[str]:
        """Return the names of the parameters that are trained."""
        return list(getattr(self, '_adapter_keys', []))

    def adapter_keys_of_tower(self) -> list[str]:
        """Return what the adapter adds to the tower, named as in the tower."""
        if self.adapter is None:
            return []
        start = f'{self.tower}.'
        return [
            key.removeprefix(start)
            for key in self.state_dict()
            if key.startswith(start) and self.adapter.adds(key)
        ]

    def decomposed_weights(self) -> Iterator[tuple[str, str, LowRank]]:
        """Find the weights that the adapter has taken a part out of.

        Yields:
            Name of a weight, and name and module of its update, whose
            ``initial_A`` and ``initial_B`` hold what was taken.
        """
        for name, module in self.named_modules():
            if not isinstance(module, LowRank) or not hasattr(
                module, 'initial_A'
            ):
                continue
            if isinstance(module, LoRALinear):
                yield f'{name}.weight', name, module
            else:
                # The projection inside of an attention.
                parent = name.rpartition('.')[0]
                yield f'{parent}.in_proj_weight', name, module

    def queries(self) -> Tensor | None:
        """Return the queries that the adapter hands to the head, or None."""
        hand_over = getattr(self.adapter, 'queries', None)
        return None if hand_over is None else hand_over(self)

    def with_queries(self, maps: list[Tensor]) -> list[Tensor]:
        """Return the maps, with the queries of the adapter if it has any."""
        queries = self.queries()
        return maps if queries is None else QueriedMaps(maps, queries)

    def merge_adapter(self) -> None:
        """Put the adapter into the weights of the tower and remove it.

        Outputs stay the same, up to rounding, and cost nothing more. For
        inference: the tower cannot be told from the adapter afterwards.

        Raises:
            UserError: There is no adapter, or it cannot be merged.
        """
        if self.adapter is None:
            raise UserError('merge_adapter: this backbone has no adapter')
        self.adapter.merge(self, self.tower)
        self.adapter = None
        self._adapter_keys = []
        self.requires_grad_(False)

    def set_frozen(self, frozen: bool) -> None:
        """Freeze or release the tower; the adapter is trained."""
        super().set_frozen(frozen)
        for name in self.adapter_parameters():
            self.get_parameter(name).requires_grad_(True)

    def train(self, mode: bool = True) -> 'AdaptableMixin':
        """Set the mode; a frozen tower stays in eval, its adapter does not."""
        super().train(mode)
        if self.adapter is not None:
            for module in self.adapter.modules_in(self, self.tower):
                module.train(mode)
        return self

    def autograd_scope(self) -> AbstractContextManager:
        """Return a context without gradients if nothing is trained."""
        if self.adapter is not None:
            return contextlib.nullcontext()
        return super().autograd_scope()


def adapter_part(backbone: AdaptableMixin) -> nn.Module:
    """Return a module of the parameters that are trained of a backbone.

    They are the parameters themselves, under their names in the backbone.
    """
    return part_of(backbone, backbone.adapter_parameters())


def part_of(
    module: nn.Module, parameters: Sequence[str], buffers: Sequence[str] = ()
) -> nn.Module:
    """Return a module of some tensors of another one, which it shares.

    Args:
        module: The other one.
        parameters: Names of parameters in it.
        buffers: Names of buffers.

    Returns:
        Has them under the same names.
    """
    part = nn.Module()

    def owner(path):
        here = part
        for step in path:
            if step not in here._modules:
                here.add_module(step, nn.Module())
            here = here._modules[step]
        return here

    for name in parameters:
        *path, leaf = name.split('.')
        owner(path).register_parameter(leaf, module.get_parameter(name))
    for name in buffers:
        *path, leaf = name.split('.')
        owner(path).register_buffer(leaf, module.get_buffer(name))
    return part


def _class_of(kind: Any) -> type:
    found = MODELS.get(kind) if isinstance(kind, str) else kind
    return found if isinstance(found, type) else object


class Adapter:
    """What the backbones ask of an adapter.

    Attributes:
        first_block: First block that is adapted, from 0.
        before_loading: Whether it is attached before the pretrained weights
            are loaded.
    """

    first_block: int = 0
    before_loading: bool = False

    def attach(
        self,
        backbone: nn.Module,
        tower: str,
        blocks: list[Block],
        *,
        initialise: bool,
    ) -> None:
        """Put the adapter into a backbone.

        Args:
            backbone: The backbone.
            tower: Name of the tower in it.
            blocks: Those to adapt.
            initialise: False if a checkpoint replaces all weights.
        """
        raise NotImplementedError

    def merge(self, backbone: nn.Module, tower: str) -> None:
        """Put the updates into the weights and remove the adapter."""
        raise NotImplementedError

    def modules_in(
        self, backbone: nn.Module, tower: str
    ) -> Iterator[nn.Module]:
        """Yield the modules of the adapter."""
        raise NotImplementedError

    def trained_besides(self, backbone: nn.Module, tower: str) -> list[str]:
        """Return what is trained of the tower itself, by name."""
        return []

    def adds(self, key: str) -> bool:
        """Return whether a key of the ``state_dict`` is the adapter's own."""
        raise NotImplementedError


@MODELS.register_module()
class Rein(Adapter):
    """Rein (CVPR 2024): tokens that refine the features behind each block.

    One :class:`~.rein.ReinTokens` for the blocks of one width: one for a
    plain ViT, one for each stage of a ConvNeXt. The tokens are in the
    ``state_dict`` as ``backbone.reins.*``, and ``backbone.reins.S.*`` of
    stage S.

    Args:
        num_tokens: Tokens of a block.
        rank: Of the tokens; None for full rank.
        link: Hand the tokens to the head as queries, of which it needs
            ``queries='backbone'`` and ``num_queries`` as many. The queries
            of several stages are added.
        query_channels: Channels of these, ``feat_channels`` of the head.
        first_block: First block that is adapted, from 0.
        softmax: See :class:`~.rein.ReinTokens`.
        zero_delta: See :class:`~.rein.ReinTokens`.

    Raises:
        UserError: An argument is out of range.
    """

    def __init__(
        self,
        *,
        num_tokens: int = 100,
        rank: int | None = 16,
        link: bool = True,
        query_channels: int = 256,
        first_block: int = 0,
        softmax: bool = True,
        zero_delta: bool = False,
    ):
        counts = dict(num_tokens=num_tokens, query_channels=query_channels)
        if rank is not None:
            counts['rank'] = rank
        _check_counts('Rein', **counts)
        if num_tokens < 2:
            raise UserError(
                'adapter.num_tokens of Rein must be at least 2, as the first '
                f'token has no value; got {num_tokens}'
            )
        self.link = link
        self.first_block = first_block
        self.num_tokens = num_tokens
        self.query_channels = query_channels
        self.options: dict[str, Any] = dict(
            num_tokens=num_tokens,
            rank=rank,
            query_channels=query_channels if link else None,
            softmax=softmax,
            zero_delta=zero_delta,
        )

    def attach(
        self,
        backbone: nn.Module,
        tower: str,
        blocks: list[Block],
        *,
        initialise: bool,
    ) -> None:
        """Add the tokens, and a hook behind each block."""
        del tower, initialise
        stages: list[list[Block]] = []
        for block in blocks:
            if not stages or stages[-1][0].channels != block.channels:
                stages.append([])
            stages[-1].append(block)
        tokens = [
            ReinTokens(
                len(stage),
                stage[0].channels,
                patch_size=getattr(backbone, 'patch_size', None) or 16,
                **self.options,
            )
            for stage in stages
        ]
        backbone.reins = (
            tokens[0] if len(tokens) == 1 else nn.ModuleList(tokens)
        )
        for stage, shared in zip(stages, tokens, strict=True):
            for layer, block in enumerate(stage):
                block.module.register_forward_hook(
                    _AfterBlock(shared, layer, block)
                )

    def modules_in(
        self, backbone: nn.Module, tower: str
    ) -> Iterator[nn.Module]:
        """Yield the modules of the adapter."""
        if hasattr(backbone, 'reins'):
            yield backbone.reins

    def adds(self, key: str) -> bool:
        """Return whether a key of the ``state_dict`` is the adapter's own."""
        return key.startswith('reins.')

    def queries(self, backbone: nn.Module) -> Tensor | None:
        """Return the queries (num_tokens, query_channels) for the head."""
        if not self.link:
            return None
        if isinstance(backbone.reins, nn.ModuleList):
            return torch.stack([r.queries() for r in backbone.reins]).sum(0)
        return backbone.reins.queries()

    def merge(self, backbone: nn.Module, tower: str) -> None:
        """Refuse: what Rein adds depends on the features."""
        raise UserError(
            'Rein cannot be merged into the weights of the tower: its update '
            'depends on the features. LoRA and SoMA can'
        )


@MODELS.register_module()
class LoRA(Adapter):
    """LoRA (arXiv 2106.09685): low-rank updates of the linear layers.

    ``y = W x + b + (alpha / rank) B A x`` with W frozen. Adapted are the
    linear layers inside the blocks: query, key, value, projection and the
    layers of the MLP in a ViT, the pointwise layers in a ConvNeXt. A layer
    that computes query, key and value at once has three updates.

    Args:
        rank: r.
        alpha: By default ``rank``: a factor of 1.
        targets: Last parts of the names of the layers, for example
            ``['qkv', 'proj']``; None for all linear layers.
        first_block: First block that is adapted, from 0.
        train_bias: Train the biases of the adapted layers too.

    Raises:
        UserError: An argument is out of range.
    """

    def __init__(
        self,
        *,
        rank: int = 16,
        alpha: float | None = None,
        targets: Sequence[str] | None = None,
        first_block: int = 0,
        train_bias: bool = False,
    ):
        _check_counts(type(self).__name__, rank=rank)
        alpha = rank if alpha is None else alpha
        if not alpha > 0:
            raise UserError(f'adapter.alpha must be positive, got {alpha!r}')
        self.rank = rank
        self.scaling = alpha / rank
        if isinstance(targets, str):
            raise UserError(
                'adapter.targets must be a list of names, got the string '
                f'{targets!r}; write [{targets!r}]'
            )
        self.targets = None if targets is None else tuple(targets)
        self.first_block = first_block
        self.train_bias = train_bias

    def attach(
        self,
        backbone: nn.Module,
        tower: str,
        blocks: list[Block],
        *,
        initialise: bool,
    ) -> None:
        """Replace the layers, and choose what is trained in them."""
        module = backbone.get_submodule(tower)
        layers = {
            f'{block.name}.{name}': layer
            for block in blocks
            for name, layer in _layers(block.module)
        }
        chosen = self._choose(layers)
        for name in chosen:
            layer = self._replace(name, layers[name])
            _set_submodule(module, name, layer)
            if initialise:
                self.initialise(layer)

    def _choose(self, layers: dict[str, nn.Module]) -> list[str]:
        """Return the names of the layers to adapt."""
        leaves = {name: name.rpartition('.')[2] for name in layers}
        if not leaves:
            raise UserError(
                f'adapter of type {type(self).__name__}: the blocks of this '
                'tower have no linear layer (nn.Linear); use Rein, or leave '
                'adapter out'
            )
        if self.targets is None:
            return list(leaves)
        known = sorted(set(leaves.values()))
        for target in self.targets:
            if target not in known:
                raise UserError(
                    f'adapter.targets names {target!r}, and the blocks of '
                    'this tower have no such linear layer'
                    + near_names([target], known)
                )
        return [n for n, leaf in leaves.items() if leaf in self.targets]

    def _replace(self, name: str, layer: nn.Module) -> nn.Module:
        options = dict(rank=self.rank, scaling=self.scaling)
        if isinstance(layer, nn.MultiheadAttention):
            narrow = layer.embed_dim
            adapted: nn.Module = LoRAAttention(layer, **options)
        else:
            fused = name.rpartition('.')[2] == _FUSED
            groups = 3 if fused and layer.out_features % 3 == 0 else 1
            narrow = min(layer.in_features, layer.out_features // groups)
            adapted = LoRALinear(layer, groups=groups, **options)
        if self.rank > narrow:
            raise UserError(
                f'adapter.rank={self.rank} is greater than a layer of the '
                f'tower is wide ({narrow}); give a smaller one'
            )
        return adapted

    def initialise(self, layer: nn.Module) -> None:
        """Set the start of an adapted layer: B is zero."""

    def modules_in(
        self, backbone: nn.Module, tower: str
    ) -> Iterator[nn.Module]:
        """Yield the updates of the adapted layers."""
        for module in backbone.get_submodule(tower).modules():
            if isinstance(module, LowRank):
                yield module

    def adds(self, key: str) -> bool:
        """Return whether a key of the ``state_dict`` is the adapter's own."""
        return any(part in _LOW_RANK for part in key.split('.'))

    def trained_besides(self, backbone: nn.Module, tower: str) -> list[str]:
        """Return the biases of the adapted layers, if they are trained."""
        if not self.train_bias:
            return []
        names = []
        for name, layer in backbone.get_submodule(tower).named_modules():
            if isinstance(layer, LoRALinear) and layer.bias is not None:
                names.append(f'{tower}.{name}.bias')
            elif isinstance(layer, LoRAAttention):
                if layer.in_proj_bias is not None:
                    names.append(f'{tower}.{name}.in_proj_bias')
        return names

    def merge(self, backbone: nn.Module, tower: str) -> None:
        """Put the updates into the weights and remove the adapter."""
        module = backbone.get_submodule(tower)
        # Outer layers first: an attention merges its projection itself.
        names = [
            name
            for name, layer in module.named_modules()
            if isinstance(layer, (LoRALinear, LoRAAttention))
        ]
        for name in names:
            layer = module.get_submodule(name)
            if isinstance(layer, (LoRALinear, LoRAAttention)):
                _set_submodule(module, name, layer.merged())


@MODELS.register_module()
class SoMA(LoRA):
    """SoMA (CVPR 2025): LoRA that starts from the minor singular components.

    ``W = U S V'``; A and B begin as the r smallest components, which hold
    the least of what the tower has learnt, and the rest of W is frozen.

    The paper decomposes the pretrained weights. The released code decomposes
    the *random initialisation* and loads the pretrained weights afterwards,
    in full: measured by running it, docs/towers.md.

    Args:
        svd: ``'pretrained'``, as the paper; ``'random'``, as the released
            code, which is what the released checkpoints were trained with.
        rank: r.
        alpha: By default ``rank``.
        targets: As for :class:`LoRA`.
        first_block: As for :class:`LoRA`; published are 8 of 24.
        train_bias: As for :class:`LoRA`; published is True.
        principal: Begin with the greatest components instead (PiSSA).

    Raises:
        UserError: An argument is out of range.
    """

    def __init__(
        self,
        *,
        svd: str = 'pretrained',
        rank: int = 16,
        alpha: float | None = None,
        targets: Sequence[str] | None = None,
        first_block: int = 0,
        train_bias: bool = True,
        principal: bool = False,
    ):
        super().__init__(
            rank=rank,
            alpha=alpha,
            targets=targets,
            first_block=first_block,
            train_bias=train_bias,
        )
        if svd not in ('pretrained', 'random'):
            raise UserError(
                "adapter.svd of SoMA must be 'pretrained' (the paper) or "
                f"'random' (the released code), got {svd!r}"
            )
        self.svd = svd
        self.before_loading = svd == 'random'
        self.principal = principal

    def _replace(self, name: str, layer: nn.Module) -> nn.Module:
        adapted = super()._replace(name, layer)
        if self.svd == 'pretrained':
            for _, low in _updates(adapted):
                # What was taken out of the weight: an adapter saved without
                # the tower is meaningless if another tower had less of it.
                for side in ('A', 'B'):
                    start = getattr(low, f'lora_{side}').weight
                    low.register_buffer(
                        f'initial_{side}', torch.zeros_like(start.detach())
                    )
        return adapted

    @torch.no_grad()
    def initialise(self, layer: nn.Module) -> None:
        """Set A and B from the weight, and take them out of it."""
        for weight, low in _updates(layer):
            low.start_from(weight, principal=self.principal)
            if self.svd == 'pretrained':
                low.initial_A.copy_(low.lora_A.weight)
                low.initial_B.copy_(low.lora_B.weight)
                weight.sub_(low.delta())


def _updates(layer: nn.Module) -> Iterator[tuple[Tensor, LowRank]]:
    """Yield the weights of an adapted layer with their updates."""
    if isinstance(layer, LoRAAttention):
        yield layer.in_proj_weight, layer.in_proj
        yield layer.out_proj.weight, layer.out_proj
    else:
        yield layer.weight, layer


def _layers(block: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the linear layers and attentions inside of a block by name."""
    attentions: list[str] = []
    for name, module in block.named_modules():
        if any(name.startswith(f'{outer}.') for outer in attentions):
            continue
        if isinstance(module, nn.MultiheadAttention):
            attentions.append(name)
            yield name, module
        elif isinstance(module, nn.Linear):
            yield name, module
        # timm adds biases of query and value in a call of F.linear that
        # reads the weight, unless it is asked to add them separately.
        if hasattr(module, 'qkv_bias_separate'):
            module.qkv_bias_separate = True


def _set_submodule(root: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition('.')
    setattr(root.get_submodule(parent), leaf, module)


def _check_counts(kind: str, **values: Any) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(
                f'adapter.{name} of {kind} must be a positive integer, got '
                f'{value!r}'
            )
