"""Configs of MMSegmentation's zoo, by name, with what is missing here."""

import difflib
import importlib.util
from pathlib import Path

import mmseg

from clouds_mmseg.utils.config_file import read_file
from clouds_mmseg.utils.errors import UserError

SCOPE = 'mmseg::'
_MASK2FORMER = ('Mask2FormerHead', 'mmseg.Mask2FormerHead')
# Packages whose modules configs of the zoo name, and that are not needed here.
_OTHERS = ('mmdet', 'mmpretrain', 'mmcls')


def read_config(name):
    """Read a config file, or one of the zoo.

    Args:
        name (str): A path, or ``mmseg::folder/name.py`` for a config of the
            installed MMSegmentation; ``.py`` may be left out.

    Returns:
        Config: The config; one of the zoo with :func:`use_clouds_head`,
        and with ``DGSegmentor`` in place of ``EncoderDecoder``.

    Raises:
        UserError: There is no such config, it cannot be read, or it is one
            of the zoo that needs a package which is not installed.
    """
    if not name.startswith(SCOPE):
        if not Path(name).is_file():
            raise UserError(
                f'there is no config {name}; see configs/ for those that '
                f'come with the project, or name one of the zoo: {SCOPE}...'
            )
        return read_file(name)
    cfg = read_file(_zoo_path(name), import_custom_modules=False)
    model = cfg.get('model') or {}
    if model.get('type') == 'EncoderDecoder':
        # The same network; predicts images of any sizes in bounded memory.
        model.type = 'DGSegmentor'
    use_clouds_head(model)
    _require_packages(cfg.get('model'), name)
    return cfg


def _zoo_path(name):
    """Return the path of a config of the installed MMSegmentation."""
    root = Path(mmseg.__file__).parent / '.mim' / 'configs'
    relative = name.removeprefix(SCOPE).removesuffix('.py') + '.py'
    path = root / relative
    if not path.is_file():
        known = {
            p.name: f'{SCOPE}{p.parent.name}/{p.name}'
            for p in root.glob('*/*.py')
            if p.parent.name != '_base_'
        }
        near = difflib.get_close_matches(path.name, known, n=3, cutoff=0.4)
        raise UserError(
            f'{name}: the installed MMSegmentation has no such config; near: '
            f'{", ".join(known[n] for n in near) or "none"}'
        )
    return path


def use_clouds_head(model):
    """Replace the zoo's Mask2Former head, which needs mmdet, by ours.

    ``CLOUDSHead`` is the same network with the same names of its weights;
    weights and points of the losses are those of the config.

    Args:
        model (ConfigDict): ``model`` of a config, changed in place.
    """
    head = model.get('decode_head') or {}
    if head.get('type') not in _MASK2FORMER:
        return
    encoder = head.pixel_decoder.encoder
    decoder = head.transformer_decoder
    attention = encoder.layer_cfg.self_attn_cfg
    train_cfg = head.get('train_cfg') or {}
    class_weight = list(head.loss_cls.class_weight)
    model.decode_head = dict(
        type='CLOUDSHead',
        in_channels=list(head.in_channels),
        strides=list(head.strides),
        num_classes=head.num_classes,
        feat_channels=head.feat_channels,
        out_channels=head.out_channels,
        num_queries=head.num_queries,
        num_heads=attention.num_heads,
        num_points=attention.num_points,
        num_encoder_layers=encoder.num_layers,
        encoder_ffn_channels=encoder.layer_cfg.ffn_cfg.feedforward_channels,
        num_decoder_layers=decoder.num_layers,
        decoder_ffn_channels=decoder.layer_cfg.ffn_cfg.feedforward_channels,
        num_groups=head.pixel_decoder.norm_cfg.num_groups,
        align_corners=head.align_corners,
        loss=dict(
            class_weight=class_weight,
            class_loss_weight=head.loss_cls.loss_weight,
            mask_weight=head.loss_mask.loss_weight,
            dice_weight=head.loss_dice.loss_weight,
            num_points=train_cfg.get('num_points', 12544),
            oversample_ratio=train_cfg.get('oversample_ratio', 3.0),
            importance_sample_ratio=train_cfg.get(
                'importance_sample_ratio', 0.75
            ),
        ),
    )


def _require_packages(cfg, name):
    """Refuse modules of packages that are not installed."""
    for kind in _types(cfg):
        package, _, module = kind.rpartition('.')
        if package in _OTHERS and importlib.util.find_spec(package) is None:
            raise UserError(
                f'{name} needs {module} of the package {package}, which is '
                'not installed and not among those that this project is '
                'tested with; configs/baselines/ has models that need '
                'nothing else'
            )


def _types(value):
    """All values of ``type`` in a nested config."""
    if isinstance(value, dict):
        if isinstance(value.get('type'), str):
            yield value['type']
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _types(item)
