"""Plain ViTs of transformers as a backbone of four maps.

For towers that timm does not have. The contract is a list of blocks whose
outputs are tokens, those of the patches last; no model is known by name.
"""

import functools
import inspect
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clouds_mmseg.models.backbones.adapters import (
    AdaptableMixin,
    block_modules,
    keep_random_state,
    probe_copy,
)
from clouds_mmseg.models.backbones.single_scale import (
    STRIDES,
    choose_blocks,
    fit_to_patches,
    resize_maps,
)
from clouds_mmseg.models.backbones.timm_tower import tell_licence
from clouds_mmseg.models.backbones.unused import find_unused, remove_modules
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.options import near_names
from clouds_mmseg.utils.text_files import parse_json
from clouds_mmseg.weights.io import MissingWeightsError
from clouds_mmseg.weights.load import CheckpointMismatchError, load_strictly

_CONFIG, _PREPROCESSOR = 'config.json', 'preprocessor_config.json'
_WEIGHTS = (
    'model.safetensors',
    'model.safetensors.index.json',
    'pytorch_model.bin',
    'pytorch_model.bin.index.json',
)
# Height and width of the probe image in patches.
_PROBE = (8, 10)
# Of a file that was saved with a classifier.
_CLASSIFIER = 'classifier.'


@MODELS.register_module()
class TransformersTower(AdaptableMixin, BaseModule):
    """A plain ViT of transformers with four maps, frozen by default.

    The maps are those of :class:`TIMMTower`: behind four blocks, resized to
    strides 4, 8, 16 and 32, for images of any size, whose sides are resized
    to multiples of the patch size first. How positions are resized is the
    model's own way.

    Nothing is downloaded: ``weights`` is a folder, as ``hf download NAME
    --local-dir FOLDER`` makes it. Code in the folder is not run.

    Args:
        weights: Folder with ``config.json``, the weights, and
            ``preprocessor_config.json``, whose mean and std are used unless
            the config has others.
        config: Content of a ``config.json``, with ``model_type``, in place
            of that in the folder: without ``weights`` for a random tower, or
            beside it, so that a checkpoint is enough to build the model.
        blocks: The four blocks, from 0, behind which the maps are taken. By
            default 7, 11, 15, 23 of 24, and the same fractions of another
            depth.
        norm: Apply the final norm to the maps.
        frozen: No gradients, eval mode.
        adapter: As for :class:`TIMMTower`.
        grad_checkpointing: Compute the features inside of blocks anew in the
            backward pass instead of keeping them.
        load_pretrained: False leaves the files of the weights unread. The
            runner gives it where a checkpoint replaces the weights.
        init_cfg: Not used: transformers initialises.

    Attributes:
        channels (list[int]): Width of each of the four maps.
        strides (list[int]): 4, 8, 16, 32.
        expects (tuple | None): As for :class:`TIMMTower`.
        patch_size (int): Of the tower.

    Raises:
        UserError: An argument does not fit, the model is no plain ViT, or
            transformers is not installed.
        MissingWeightsError: There is no such folder.
        CheckpointMismatchError: The weights are of another model.
    """

    tower = 'model'
    # Names of the lists of blocks in transformers.
    containers = ('layer', 'layers', 'blocks')
    # A preprocessor without mean and std is given those of `expects`.
    sets_statistics = True

    def __init__(
        self,
        weights: str | None = None,
        *,
        config: dict | None = None,
        blocks: Sequence[int] | None = None,
        norm: bool = False,
        frozen: bool = True,
        adapter: dict | None = None,
        grad_checkpointing: bool = False,
        load_pretrained: bool = True,
        init_cfg: dict | None = None,
    ):
        if init_cfg or (weights is None and config is None):
            raise UserError(
                'TransformersTower needs weights, a folder, or config, the '
                f'content of a config.json; got {weights=}, {config=}, '
                f'{init_cfg=}'
            )
        folder = None if weights is None else Path(weights).expanduser()
        if folder is not None and (load_pretrained or config is None):
            _require_folder(folder, str(weights), weights=load_pretrained)
        if config is None:
            assert folder is not None
            config = _read_json(folder / _CONFIG)
        super().__init__()
        self.build_adapter(adapter, frozen)
        self.norm = norm
        self.model = _build(config)
        self.model_name = f'transformers/{config["model_type"]}'
        self._probe(blocks)
        if grad_checkpointing:
            for block in self._blocks():
                # transformers' own does nothing in eval mode, in which a
                # frozen tower always is.
                block.forward = functools.partial(
                    checkpoint, block.forward, use_reentrant=False
                )
        self.attach_adapter(loaded=False, initialise=load_pretrained)
        if folder is not None and load_pretrained:
            tell_licence(str(weights), _licence(folder))
            self._load(folder)
        elif frozen and load_pretrained:
            print_log(
                f'{self.model_name} is frozen with random weights; give '
                'weights= or a checkpoint, or set frozen=False.',
                logger='current',
                level=logging.WARNING,
            )
        self.attach_adapter(loaded=True, initialise=load_pretrained)
        # transformers has initialised the weights when it built the model.
        self.weights_loaded = True
        self.expects = None if folder is None else _statistics(folder)
        self.set_frozen(frozen)

    @staticmethod
    def find_weights(cfg: dict) -> None:
        """Raise an error if the weights of a config are missing.

        See :func:`~clouds_mmseg.weights.locate.missing_weights`.
        """
        if cfg.get('weights') is not None:
            _require_folder(
                Path(cfg['weights']).expanduser(), str(cfg['weights'])
            )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the feature pyramid.

        Args:
            x: (N, 3, H, W), normalised as the weights expect it.

        Returns:
            Four maps (N, C, about H / s, about W / s), s = 4, 8, 16, 32; a
            :class:`~.adapters.QueriedMaps` if the adapter has queries.

        Raises:
            UserError: The image is smaller than a patch.
        """
        if min(x.shape[-2:]) < self.patch_size:
            raise UserError(
                f'TransformersTower needs images of at least '
                f'{self.patch_size} pixels a side, got {tuple(x.shape[-2:])}'
            )
        with self.autograd_scope():
            return self.with_queries(self.maps(x))

    def maps(self, x: Tensor) -> list[Tensor]:
        """Compute :meth:`forward` without its checks and without queries."""
        size = x.shape[-2:]
        x = fit_to_patches(x, self.patch_size)
        found = self._intermediates(x, self.indices)
        return resize_maps(
            [found[i] for i in self.order], size, self.patch_size
        )

    def _blocks(self):
        return [block for _, block in self._named_blocks()]

    def _named_blocks(self):
        return block_modules(self.model, self.containers)

    def _tokens(self, x, indices):
        """Return what some blocks return, after the hooks of adapters."""
        kept = {}

        def keep(index):
            def hook(module, args, output):
                kept[index] = output

            return hook

        blocks = self._blocks()
        handles = [blocks[i].register_forward_hook(keep(i)) for i in indices]
        try:
            self.model(pixel_values=x, **self._options)
        finally:
            for handle in handles:
                handle.remove()
        return [kept[i] for i in indices]

    def _intermediates(self, x: Tensor, indices: list[int]) -> list[Tensor]:
        height, width = (side // self.patch_size for side in x.shape[-2:])
        maps = []
        for tokens in self._tokens(x, indices):
            if self.norm:
                tokens = self.model.get_submodule(self._norm)(tokens)
            # Class token and registers come first.
            patches = tokens[:, tokens.shape[1] - height * width :]
            maps.append(patches.mT.unflatten(2, (height, width)))
        return maps

    @keep_random_state
    def _probe(self, blocks):
        """Find the maps, and remove what they do not depend on."""
        self.patch_size = _patch_size(self.model.config)
        depth = len(self._blocks())
        height, width = (self.patch_size * side for side in _PROBE)
        self.probe_size, self.probe_grid = (height, width), _PROBE
        self._options = {}
        if _takes(self.model, 'interpolate_pos_encoding'):
            self._options['interpolate_pos_encoding'] = True
        self._norm = next(
            (
                name
                for name, module in reversed(list(self.model.named_children()))
                if 'norm' in type(module).__name__.lower()
            ),
            None,
        )
        if self.norm and self._norm is None:
            raise UserError(
                f'norm=True: {self.model_name} has no norm behind its blocks'
            )
        problem, found = 'it has no list of blocks', []
        if depth:
            twin, device = probe_copy(self)
            image = torch.zeros(1, 3, height, width, device=device)
            try:
                with torch.no_grad():
                    found = twin._tokens(image, list(range(depth)))
            except Exception as error:
                # Of a model for other data than images: any error.
                first = (str(error).splitlines() or [''])[0][:200]
                problem = f'it fails on an image ({type(error).__name__}: '
                problem += f'{first})'
        least = _PROBE[0] * _PROBE[1]
        if found and not all(
            isinstance(x, Tensor)
            and x.dim() == 3
            and x.shape[1] >= least
            and x.shape == found[0].shape
            for x in found
        ):
            shapes = {tuple(getattr(x, 'shape', ())) for x in found}
            problem = f'its blocks return {sorted(shapes)}'
            found = []
        if not found:
            raise UserError(
                f'TransformersTower takes plain ViTs, whose blocks return '
                f'the tokens of an image, and {self.model_name} '
                f'({type(self.model).__name__}) is none: {problem}. '
                'Others may be in timm (TIMMTower) or open_clip '
                '(CLIPBackbone)'
            )
        chosen = choose_blocks(depth, blocks)
        self.strides = list(STRIDES)
        self.channels = [found[0].shape[2]] * 4
        self.indices = sorted(set(chosen))
        self.order = [self.indices.index(i) for i in chosen]
        self._cut(self.indices[-1] + 1)
        twin, device = probe_copy(self)
        twin.requires_grad_(True)
        image = torch.zeros(1, 3, height, width, device=device)
        found = twin._intermediates(image, self.indices)
        sum(m.sum() for m in found).backward()
        self._unused = find_unused(twin.model)
        remove_modules(self.model, self._unused)

    def _cut(self, depth):
        """Remove the blocks behind the last one that is used."""
        self._left_out = [name for name, _ in self._named_blocks()[depth:]]
        for name in reversed(self._left_out):
            parent, _, leaf = name.rpartition('.')
            del self.model.get_submodule(parent)[int(leaf)]

    def _load(self, folder):
        """Load the weights of a folder strictly, without running its code."""
        transformers = _transformers()
        try:
            model, info = transformers.AutoModel.from_pretrained(
                str(folder),
                config=_as_config(_read_json(folder / _CONFIG)),
                local_files_only=True,
                output_loading_info=True,
                dtype=torch.float32,
            )
        except Exception as error:
            raise UserError(
                f'{folder} cannot be loaded by transformers '
                f'({type(error).__name__}: {str(error)[:300]})'
            ) from error
        problems = [
            *(f'{key} is missing' for key in sorted(info['missing_keys'])),
            *(
                f'{key} is unexpected'
                for key in sorted(info['unexpected_keys'])
                if not key.startswith(_CLASSIFIER)
            ),
            *(f'{m[0]} is of another shape' for m in info['mismatched_keys']),
        ]
        if problems:
            raise CheckpointMismatchError(
                f'the weights in {folder} are not those of its {_CONFIG}: '
                f'{problems[0]}, and {len(problems) - 1} more'
            )
        load_strictly(
            self.model,
            model.state_dict(),
            source=str(folder),
            allow_missing=self.adapter_keys_of_tower(),
            allow_unexpected=[*self._unused, *self._left_out],
        )

    def layer_numbers(self) -> tuple[dict[str, int], int]:
        """Number the layers, for rates that decay from layer to layer.

        Returns:
            As of :class:`TIMMTower`.
        """
        names = [name for name, _ in self._named_blocks()]
        first = names[0].rpartition('.')[0].split('.')[0]
        children = [name for name, _ in self.model.named_children()]
        before = children[: children.index(first)]
        numbers = {}
        for name, _ in self.model.named_parameters():
            layer = len(names) + 1
            if name.split('.')[0] in before or '.' not in name:
                layer = 0
            for index, block in enumerate(names):
                if name.startswith(f'{block}.'):
                    layer = index + 1
            numbers[f'{self.tower}.{name}'] = layer
        return numbers, len(names) + 1


def _transformers():
    """Import transformers.

    Raises:
        UserError: It is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(
            f'TransformersTower needs transformers ({error}): '
            "pip install 'clouds_mmseg[towers]'"
        ) from error
    return transformers


def _require_folder(folder: Path, given: str, *, weights: bool = True) -> None:
    """Check that a folder has a config and, if they are read, weights.

    Raises:
        MissingWeightsError: It does not exist, or lacks one of them.
    """
    lacks = [_CONFIG] if not (folder / _CONFIG).is_file() else []
    if weights and not any((folder / name).is_file() for name in _WEIGHTS):
        lacks.append(_WEIGHTS[0])
    if not lacks:
        return
    what = f'has no {" and no ".join(lacks)}'
    if not folder.is_dir():
        what = 'is no folder'
    # A name on the hub is what one has at hand.
    name = given if re.fullmatch(r'[\w.-]+/[\w.-]+', given) else 'OWNER/NAME'
    raise MissingWeightsError(
        f'weights={given!r} of TransformersTower {what}. To have it: hf '
        f'download {name} --local-dir FOLDER, and give weights=FOLDER. For '
        'gated weights (DINOv3, SAM 3) ask for access at '
        f'https://huggingface.co/{name} first, then `hf auth login`'
    )


def _read_json(path: Path) -> dict:
    try:
        content = parse_json(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise UserError(f'{path} cannot be read: {error}') from error
    if not isinstance(content, dict):
        raise UserError(f'{path} holds no table of settings')
    return content


def _as_config(content: dict) -> Any:
    """Build a config of transformers.

    Raises:
        UserError: The installed transformers has no such model.
    """
    transformers = _transformers()
    known = transformers.models.auto.configuration_auto.CONFIG_MAPPING_NAMES
    kind = content.get('model_type')
    if kind not in known:
        raise UserError(
            f'transformers {transformers.__version__} has no models of the '
            f'model_type {kind!r}; code in a folder is not run'
            + near_names([str(kind)], list(known))
        )
    content = {k: v for k, v in content.items() if k != 'model_type'}
    try:
        return transformers.AutoConfig.for_model(kind, **content)
    except Exception as error:
        raise UserError(
            f'the config of a {kind} has settings that transformers '
            f'{transformers.__version__} does not take '
            f'({type(error).__name__}: {str(error)[:300]})'
        ) from error


def _build(content: dict) -> nn.Module:
    config = _as_config(content)
    try:
        return _transformers().AutoModel.from_config(
            config, dtype=torch.float32
        )
    except Exception as error:
        raise UserError(
            f'transformers cannot build a {content["model_type"]} of this '
            f'config ({type(error).__name__}: {str(error)[:300]})'
        ) from error


def _patch_size(config: Any) -> int:
    patch = getattr(config, 'patch_size', None)
    if isinstance(patch, (list, tuple)) and len(set(patch)) == 1:
        patch = patch[0]
    if not isinstance(patch, int) or not 1 <= patch <= STRIDES[-1]:
        raise UserError(
            f'TransformersTower takes plain ViTs with one patch_size of at '
            f'most {STRIDES[-1]} in their config; this {config.model_type} '
            f'has patch_size={patch!r}'
        )
    return patch


def _takes(model: nn.Module, name: str) -> bool:
    return name in inspect.signature(model.forward).parameters


def _statistics(folder: Path) -> tuple | None:
    """Return mean and std in [0, 255] of a folder's preprocessor."""
    path = folder / _PREPROCESSOR
    if not path.is_file():
        return None
    content = _read_json(path)
    mean, std = content.get('image_mean'), content.get('image_std')
    if not mean or not std or content.get('do_normalize') is False:
        return None
    # Pixels are multiplied by the factor before they are normalised.
    factor = content.get('rescale_factor', 1 / 255)
    if content.get('do_rescale') is False:
        factor = 1.0
    return tuple(tuple(value / factor for value in v) for v in (mean, std))


def _licence(folder: Path) -> str | None:
    """Return the licence in the head of a folder's README.md, if any."""
    try:
        text = (folder / 'README.md').read_text('utf-8', errors='replace')
    except OSError:
        return None
    if not text.startswith('---'):
        return None
    head = text.split('---', 2)[1]
    fields = dict(re.findall(r'^(license(?:_name)?):\s*(\S+)', head, re.M))
    return fields.get('license_name') or fields.get('license')
