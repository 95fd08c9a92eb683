"""Any tower of timm as a backbone of four maps: plain ViTs and pyramids.

``forward_intermediates`` is all that is asked of a model, unless its last
blocks are left to the head.
"""

import functools
import inspect
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from timm.models import group_parameters
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clouds_mmseg.models.backbones.adapters import (
    AdaptableMixin,
    keep_random_state,
    probe_copy,
)
from clouds_mmseg.models.backbones.single_scale import (
    EVEN_DEPTHS,
    STRIDES,
    check_resize,
    choose_blocks,
    fit_state_dict,
    fit_to_patches,
    resize_maps,
    table_for_grid,
)
from clouds_mmseg.models.backbones.timm import (
    locate_timm_weights,
    read_timm_file,
    resolve_timm_name,
)
from clouds_mmseg.models.backbones.unused import find_unused, remove_modules
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.options import closest_names
from clouds_mmseg.weights.io import read_state_dict
from clouds_mmseg.weights.load import load_strictly

# Licences as timm records them.
_PERMISSIVE = ('apache-2.0', 'mit', 'bsd-3-clause')
_NON_COMMERCIAL = ('-nc-', 'noncommercial', 'amlr')
# Height and width of the probe image, in patches or in the coarsest stride.
_PROBE = (8, 10)
_OUTPUTS = ('pyramid', 'tokens')


class OpenMaps(list):
    """Maps behind a block of a ViT, and the tower that has more blocks.

    Attributes:
        tower (TIMMTower): Whose :meth:`~TIMMTower.run_open_block` goes on.
    """

    def __init__(self, maps: Sequence[Tensor], tower: 'TIMMTower'):
        super().__init__(maps)
        self.tower = tower


@MODELS.register_module()
class TIMMTower(AdaptableMixin, BaseModule):
    """A tower of timm with four maps, frozen by default, for any image size.

    A plain ViT (DINOv2, DINOv3, EVA02, SigLIP, PE, C-RADIO) has blocks of
    one stride: the maps are those behind four of them, resized to strides 4,
    8, 16 and 32. A tower with stages (ConvNeXt, Hiera) has these strides
    itself. Nothing is known by the name of a model. The images of a ViT are
    resized to multiples of its patch size first, if they are not.

    Parts that the maps do not depend on (later blocks, pooling, classifier)
    are not built into the backbone.

    A head without pixel decoder reads the tokens of a plain ViT instead
    (``output='tokens'``): the maps then keep the stride of the patches, and
    one more tensor has the prefix tokens (class token, registers) behind the
    same blocks. The last ``open_blocks`` blocks can be left to the head,
    which runs them together with its queries.

    Args:
        model_name: A model of timm; or ``hf-hub:owner/name`` or
            ``local-dir:folder``, which have weights of their own.
        pretrained: Load timm's own weights of that name: from the pretrained
            folder (``--pretrained-dir``) or else from its hub.
        weights: A local file of weights instead: of timm, or one that timm
            converts (the original release).
        blocks: Of a plain ViT: the four blocks, from 0, behind which the
            maps are taken. By default 7, 11, 15, 23 of 24 (5, 11, 17, 23 for
            ``output='tokens'``), and the same fractions of another depth.
        norm: Apply the final norm of a plain ViT to the maps.
        output: ``'pyramid'``, or of a plain ViT ``'tokens'``.
        open_blocks: With ``output='tokens'`` and ``frozen=False``: how many
            blocks at the end are left to the head. There is one map, that
            before these blocks.
        resize: How patch kernel and position table are resized to another
            patch or image size: ``'timm'``, antialiased; or ``'bicubic'``,
            plain, as in Rein, SoMA and tqdm, whose checkpoints are only
            right with it.
        patch_size: Of a plain ViT, if not its own.
        img_size: Side of the images that the position table is made for;
            for others it is resized with every image. By default the
            model's.
        frozen: No gradients, eval mode, constant statistics.
        adapter: ``dict(type='Rein', ...)``, ``'LoRA'`` or ``'SoMA'``: what
            is trained of a frozen tower. See :class:`Rein`, :class:`LoRA`,
            :class:`SoMA`.
        grad_checkpointing: Compute the features inside of blocks anew in the
            backward pass instead of keeping them.
        load_pretrained: False leaves the files of the weights unread. The
            runner gives it where a checkpoint replaces the weights.
        init_cfg: Not used: timm initialises.
        **kwargs: Further arguments of ``timm.create_model``.

    Attributes:
        channels (list[int]): Width of each of the four maps.
        strides (list[int]): 4, 8, 16, 32; of tokens the patch size.
        expects (tuple | None): Mean and standard deviation, RGB in
            [0, 255], of the images that the model was trained with. A
            ``DGSegmentor`` normalises by them unless its config says
            otherwise.
        patch_size (int | None): Of a plain ViT.
        num_heads (int | None): Attention heads of a plain ViT.

    Raises:
        UserError: An argument does not fit the model, or the weights are not
            available.
        CheckpointMismatchError: The weights are of another model.
    """

    tower = 'model'
    # A preprocessor without mean and std is given those of `expects`.
    sets_statistics = True

    def __init__(
        self,
        model_name: str,
        *,
        pretrained: bool = False,
        weights: str | None = None,
        blocks: Sequence[int] | None = None,
        norm: bool = False,
        resize: str = 'timm',
        patch_size: int | None = None,
        img_size: int | Sequence[int] | None = None,
        output: str = 'pyramid',
        open_blocks: int = 0,
        frozen: bool = True,
        adapter: dict | None = None,
        grad_checkpointing: bool = False,
        load_pretrained: bool = True,
        init_cfg: dict | None = None,
        **kwargs: Any,
    ):
        check_resize(resize)
        if init_cfg or (weights and pretrained):
            raise UserError(
                f'TIMMTower({model_name!r}): the weights come from pretrained '
                f'or weights, one of them; got {pretrained=}, {weights=}, '
                f'{init_cfg=}'
            )
        _check_output(output, open_blocks, blocks, norm, frozen)
        super().__init__()
        self.build_adapter(adapter, frozen)
        self.resize = resize
        self.output = output
        self.open_blocks = open_blocks
        self.norm = norm
        self.model_name = model_name
        sizes = dict(patch_size=patch_size, img_size=img_size)
        sizes = {k: v for k, v in sizes.items() if v is not None}
        self.model = _create(model_name, {**kwargs, **sizes})
        self._probe(blocks)
        if grad_checkpointing:
            try:
                self.model.set_grad_checkpointing(True)
            except (AssertionError, AttributeError) as error:
                raise UserError(
                    f'{model_name} has no gradient checkpointing in timm; '
                    'leave grad_checkpointing out'
                ) from error
        wanted = bool(weights or pretrained)
        if wanted:
            tell_licence(model_name, self.model.pretrained_cfg.get('license'))
        self.attach_adapter(loaded=False, initialise=load_pretrained)
        if wanted and load_pretrained:
            self._load(weights, kwargs)
        elif frozen and load_pretrained:
            print_log(
                f'{model_name} is frozen with random weights; give '
                'pretrained=True, weights= or a checkpoint, or set '
                'frozen=False.',
                logger='current',
                level=logging.WARNING,
            )
        self.attach_adapter(loaded=True, initialise=load_pretrained)
        # timm has initialised the weights when it built the model.
        self.weights_loaded = True
        self.expects = _statistics(self.model.pretrained_cfg)
        self.set_frozen(frozen)

    @staticmethod
    def find_weights(cfg: dict) -> None:
        """Raise an error if the weights of a config are missing.

        See :func:`~clouds_mmseg.weights.locate.missing_weights`.
        """
        resolve_timm_name(cfg['model_name'], fetch=False)
        weights = cfg.get('weights')
        if cfg.get('pretrained'):
            locate_timm_weights(cfg['model_name'], fetch=False)
        elif weights:
            _existing(weights)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the feature pyramid.

        Args:
            x: (N, 3, H, W), normalised as the weights expect it.

        Returns:
            Four maps (N, C_i, about H / s_i, about W / s_i), s = 4, 8, 16,
            32; a :class:`~.adapters.QueriedMaps` if the adapter has queries.
            Of ``output='tokens'`` L maps (N, C, h, w) of the patch grid, four
            or one, and the prefix tokens (N, L, n, C); an
            :class:`OpenMaps` if blocks are left to the head.

        Raises:
            UserError: The image is smaller than a patch.
        """
        least = self.patch_size or self.strides[-1]
        if min(x.shape[-2:]) < least:
            raise UserError(
                f'TIMMTower needs images of at least {least} pixels a side, '
                f'got {tuple(x.shape[-2:])}'
            )
        with self.autograd_scope():
            return self.with_queries(self.maps(x))

    def maps(self, x: Tensor) -> list[Tensor]:
        """Compute :meth:`forward` without its checks and without queries."""
        if self.patch_size is None:
            if not hasattr(self.model, 'patch_embed'):
                found = self._intermediates(x, self.indices)
                return [found[i] for i in self.order]
            # Stages behind patches halve the sides, which must be even.
            size, last = x.shape[-2:], self.strides[-1]
            padding = [-side % last for side in size]
            x = F.pad(x, (0, padding[1], 0, padding[0]))
            found = self._intermediates(x, self.indices)
            return [
                found[i][..., : -(-size[0] // s), : -(-size[1] // s)]
                for i, s in zip(self.order, self.strides, strict=True)
            ]
        size = x.shape[-2:]
        x = fit_to_patches(x, self.patch_size)
        grid = tuple(side // self.patch_size for side in x.shape[-2:])
        with table_for_grid(self.model, grid, self.resize):
            if self.output == 'tokens':
                return self._tokens(x)
            found = self._intermediates(x, self.indices)
        return resize_maps(
            [found[i] for i in self.order], size, self.patch_size
        )

    def _intermediates(self, x: Tensor, indices) -> list[Tensor]:
        return self.model.forward_intermediates(
            x,
            indices=indices,
            norm=self.norm,
            stop_early=True,
            intermediates_only=True,
            output_fmt='NCHW',
        )

    def _tokens(self, x: Tensor) -> list[Tensor]:
        """Return maps of the patch grid and, last, the prefix tokens."""
        found = self.model.forward_intermediates(
            x,
            indices=self.indices,
            norm=self.norm,
            return_prefix_tokens=True,
            stop_early=True,
            intermediates_only=True,
            output_fmt='NCHW',
        )
        if isinstance(found[0], Tensor):
            # The model has no prefix.
            empty = x.new_zeros(x.shape[0], 0, found[0].shape[1])
            found = [(patches, empty) for patches in found]
        found = [found[i] for i in self.order]
        maps = [patches for patches, _ in found]
        maps.append(torch.stack([prefix for _, prefix in found], dim=1))
        return OpenMaps(maps, self) if self.open_blocks else maps

    def rotary_table(self, grid: Sequence[int]) -> Tensor | None:
        """Return the rotary positions of a grid of patches, if there are any.

        Args:
            grid: h and w.

        Returns:
            (h * w, 2 D) for heads of width D, sines before cosines; with axes
            before these where blocks or heads have positions of their own.
        """
        rope = getattr(self.model, 'rope', None)
        return None if rope is None else rope.get_embed(shape=list(grid))

    def run_open_block(
        self,
        index: int,
        tokens: Tensor,
        rope: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        """Run one of the blocks that are left to the head.

        Args:
            index: In [0, open_blocks).
            tokens: (N, n + T, C), the prefix of the tower first.
            rope: See :meth:`rotary_table`; for the T tokens.
            mask: (N, 1, n + T, n + T) bool, true where a token may attend.

        Returns:
            As ``tokens``.
        """
        block = self.model.blocks[index - self.open_blocks]
        arguments = dict(attn_mask=mask)
        if rope is not None:
            if getattr(self.model, 'rope_mixed', False):
                rope = rope[index - self.open_blocks]
            arguments['rope'] = rope
        if self.training and getattr(self.model, 'grad_checkpointing', False):
            return checkpoint(block, tokens, use_reentrant=False, **arguments)
        return block(tokens, **arguments)

    def final_norm(self, tokens: Tensor) -> Tensor:
        """Apply the tower's norm behind its last block."""
        return self.model.norm(tokens)

    def _outputs(self, x: Tensor, indices) -> list[Tensor]:
        """Compute all that the backbone takes from the model."""
        return self._intermediates(x, indices)

    @keep_random_state
    def _probe(self, blocks):
        """Find the maps, and remove what they do not depend on."""
        own = getattr(self.model, 'patch_embed', None)
        own = getattr(own, 'patch_size', None)
        unit = max(own) if isinstance(own, (tuple, list)) else own or 32
        # Stages that follow a patch embedding go down to a stride of 32.
        maps, error = None, None
        for side in dict.fromkeys((unit, 32)):
            height, width = (side * factor for factor in _PROBE)
            twin, device = probe_copy(self)
            try:
                maps = twin._intermediates(
                    torch.zeros(1, 3, height, width, device=device), None
                )
                break
            except (
                AssertionError,
                AttributeError,
                RuntimeError,
                TypeError,
                ValueError,
            ) as problem:
                error = error or problem
        if maps is None:
            raise self._refusal(
                f'it takes no image of {height}x{width} pixels '
                f'({type(error).__name__}: {str(error)[:200]})'
            ) from error
        self.probe_size = (height, width)
        strides = [height // m.shape[-2] for m in maps]
        self.patch_size = self.num_heads = None
        self.strides = list(STRIDES)
        if set(STRIDES) <= set(strides):
            if blocks is not None or self.norm or self.output == 'tokens':
                raise UserError(
                    f'{self.model_name} has stages of strides 4 to 32: '
                    "blocks, norm and output='tokens' are for plain ViTs, "
                    'leave them out'
                )
            # A stem may have the stride of the first stage: the later map.
            chosen = [
                max(i for i, s in enumerate(strides) if s == k)
                for k in STRIDES
            ]
        elif len(set(strides)) == 1 and strides[0] <= STRIDES[-1]:
            self.patch_size = strides[0]
            self.probe_grid = tuple(maps[0].shape[-2:])
            chosen = self._choose(len(maps), blocks)
        else:
            raise self._refusal(
                f'its maps have strides {sorted(set(strides))}'
            )
        self.channels = [maps[i].shape[1] for i in chosen]
        if self.output == 'tokens':
            self.strides = [self.patch_size] * len(chosen)
        # A block that is chosen twice, as a shallow tower has few, is
        # returned once.
        self.indices = sorted(set(chosen))
        self.order = [self.indices.index(i) for i in chosen]
        image = torch.zeros(1, 3, *self.probe_size, device=device)
        if self.open_blocks:
            used = [self._probe_open_blocks(twin, image)]
        elif type(self)._outputs is TIMMTower._outputs:
            # As a second pass would give them.
            used = [maps[i] for i in self.indices]
        else:
            used = twin._outputs(image, self.indices)
        sum(m.sum() for m in used).backward()
        self._unused = find_unused(twin.model)
        remove_modules(self.model, self._unused)

    def _choose(self, depth, blocks):
        """Return the blocks of a plain ViT whose outputs are returned."""
        if self.output == 'pyramid':
            return choose_blocks(depth, blocks)
        first = getattr(self.model, 'blocks', [None])[0]
        attention = getattr(first, 'attn', None)
        self.num_heads = getattr(attention, 'num_heads', None)
        if not self.open_blocks:
            return choose_blocks(depth, blocks, EVEN_DEPTHS)
        if self.open_blocks >= depth:
            raise UserError(
                f'open_blocks={self.open_blocks}: {self.model_name} has '
                f'{depth} blocks, and at least one must remain before them'
            )
        return [depth - self.open_blocks - 1]

    def _probe_open_blocks(self, twin, image):
        """Run a copy of the tower as a head would: (1, tokens, C)."""
        model = twin.model
        takes = (
            getattr(model, 'blocks', None)
            and inspect.signature(model.blocks[-1].forward).parameters
        )
        if not takes or 'attn_mask' not in takes:
            raise UserError(
                f'open_blocks={self.open_blocks}: the blocks of '
                f'{self.model_name} take no attention mask, so that a head '
                'cannot put queries into them. Those of plain ViTs do '
                '(DINOv2, DINOv3, EVA02, SigLIP 2)'
            )
        twin.indices, twin.order = self.indices, self.order
        *maps, prefix = twin._tokens(image)
        patches = maps[0].flatten(2).mT
        tokens = torch.cat([prefix[:, 0], patches], dim=1)
        rope = twin.rotary_table(maps[0].shape[-2:])
        if rope is not None:
            rope = rope.to(image.device)
        for index in range(self.open_blocks):
            tokens = twin.run_open_block(index, tokens, rope, None)
        return twin.final_norm(tokens)

    def _refusal(self, reason):
        return UserError(
            f'{self.model_name} gives no maps for a head with strides 4, 8, '
            f'16, 32: {reason}. Towers that do: plain ViTs that take images '
            'of any size, and those with stages (ConvNeXt, sam2_hiera)'
        )

    def _load(self, weights, kwargs):
        """Load the weights, resized to the tower, strictly."""
        if weights:
            _existing(weights)
            source = weights
            state_dict = read_state_dict(weights)
            if not self.model.state_dict().keys() <= state_dict.keys():
                # Perhaps an original release: timm renames those it knows.
                state_dict = read_timm_file(
                    self.model_name, Path(weights).expanduser(), kwargs
                )
        else:
            source = f'timm/{self.model_name}'
            path = locate_timm_weights(self.model_name)
            state_dict = read_timm_file(self.model_name, path, kwargs)
        load_strictly(
            self.model,
            fit_state_dict(state_dict, self.model, self.resize),
            source=source,
            allow_missing=self.adapter_keys_of_tower(),
            # Of the original release of DINOv2; used in its training only.
            allow_unexpected=[*self._unused, 'mask_token'],
        )

    def layer_numbers(self) -> tuple[dict[str, int], int]:
        """Number the layers, for rates that decay from layer to layer.

        Returns:
            Name of each parameter of the backbone -> its layer, 0 for the
            patch embedding, and the number of layers.
        """
        matcher = self.model.group_matcher(coarse=False)
        found = group_parameters(self.model, matcher, reverse=True)
        # The last are the norm and head that follow the blocks.
        return (
            {f'{self.tower}.{name}': int(i) for name, i in found.items()},
            max(map(int, found.values())) + 1,
        )


def _check_output(output, open_blocks, blocks, norm, frozen):
    """Check the arguments that say what is returned.

    Raises:
        UserError: They are unknown or contradict one another.
    """
    if output not in _OUTPUTS:
        raise UserError(
            "output must be 'pyramid' (four maps, for CLOUDSHead and the "
            "heads of MMSegmentation) or 'tokens' (for PMTHead and EoMTHead),"
            f' got {output!r}'
        )
    if isinstance(open_blocks, bool) or not isinstance(open_blocks, int):
        raise UserError(f'open_blocks must be a number, got {open_blocks!r}')
    if not open_blocks:
        return
    if open_blocks < 0 or output != 'tokens' or blocks is not None or norm:
        raise UserError(
            f"open_blocks={open_blocks} needs output='tokens', without "
            f'blocks and norm; got {output=}, {blocks=}, {norm=}'
        )
    if frozen:
        raise UserError(
            f'open_blocks={open_blocks} leaves blocks of the tower to the '
            'head, which trains them with its queries: give frozen=False. '
            'For a frozen tower there is PMTHead'
        )


def _create(model_name: str, kwargs: dict[str, Any]) -> nn.Module:
    """Build a model that takes images of any size, if it can.

    Raises:
        UserError: timm has no such model, or it has no such argument.
    """
    name = resolve_timm_name(model_name)
    if ':' not in name and not timm.is_model(name):
        near = closest_names(
            name.partition('.')[0], timm.list_models(), most=5
        )
        raise UserError(
            f'timm {timm.__version__} has no model {model_name!r}; near are '
            f'{near}'
        )
    if ':' not in name:
        try:
            timm.models.get_pretrained_cfg(name)
        except RuntimeError as error:
            architecture = name.partition('.')[0]
            raise UserError(
                f'timm {timm.__version__} has no weights {model_name!r}; of '
                f'{architecture} it has '
                f'{timm.list_pretrained(architecture + ".*") or "none"}'
            ) from error
    problems = []
    for more in (dict(dynamic_img_size=True), {}):
        try:
            with torch.device('meta'):
                timm.create_model(name, pretrained=False, **more, **kwargs)
        except TypeError as error:
            problems.append(error)
            continue
        except (AssertionError, RuntimeError, ValueError) as error:
            raise UserError(
                f'{model_name} cannot be built with {kwargs}: {error}'
            ) from error
        return timm.create_model(name, pretrained=False, **more, **kwargs)
    raise UserError(
        f'{model_name} cannot be built with {kwargs}: {problems[-1]}'
    )


def _statistics(config: dict) -> tuple | None:
    """Return mean and std in [0, 255] of a model's config, if it has them."""
    if not config.get('mean') or not config.get('std'):
        return None
    return tuple(
        tuple(255 * value for value in config[name])
        for name in ('mean', 'std')
    )


@functools.cache
def tell_licence(model_name: str, licence: str | None) -> None:
    """Log what the licence of the weights asks for, once a process."""
    if licence is None or licence in _PERMISSIVE:
        return
    forbids = any(word in licence for word in _NON_COMMERCIAL)
    print_log(
        f'the weights of {model_name} have the licence {licence!r}'
        + (
            ', which forbids commercial use of them and of what is trained '
            'on them'
            if forbids
            else '; read it before you pass on what is trained on them'
        ),
        logger='current',
        level=logging.WARNING if forbids else logging.INFO,
    )


def _existing(weights: str) -> None:
    if not Path(weights).expanduser().is_file():
        raise UserError(
            f'weights={weights!r}: there is no such file; give the path of a '
            'file, or pretrained=True'
        )
