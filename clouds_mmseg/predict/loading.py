"""Building of a model from a checkpoint alone, which is not trusted."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import nn

from clouds_mmseg.conversion.convert_file import read_with_meta
from clouds_mmseg.conversion.diagnose import classes_of, classes_of_config
from clouds_mmseg.conversion.layouts import TITLES, detect
from clouds_mmseg.generate.image_bank import shard_from_environment
from clouds_mmseg.models import LoRA
from clouds_mmseg.predict.prediction import palette_of
from clouds_mmseg.utils.config_file import (
    find_config,
    parse_config_text,
    read_file,
)
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.frozen_backbone import require_registered
from clouds_mmseg.weights.load import (
    find_checkpoint,
    load_strictly,
    without_pretrained_init,
)
from clouds_mmseg.weights.locate import weights_only

# Of files of `clouds export`: onnxruntime's, torch.export's and OpenVINO's.
EXPORTED = ('.onnx', '.pt2', '.xml')
_TEACHER = 'teacher.'
# Segmentors whose inference is that of DGSegmentor.
_SAME_NETWORK = ('EncoderDecoder', 'SelfTrainingSegmentor')
# Labels are bytes, and 255 is none.
_MOST_CLASSES = 255


@dataclass
class LoadedModel:
    """A model with its weights, and what its config says about images.

    Attributes:
        model: A segmentor of MMSegmentation.
        classes: Names of its classes.
        palette: RGB of each class.
        resize: Configs of the ``Resize`` steps of its test pipeline.
        text_tower: Which CLIP the text embeddings of its classifier came
            from: the arguments of
            :func:`~clouds_mmseg.models.text_embeddings.class_text_embeddings`
            without ``classes``; None if the config does not say.
    """

    model: nn.Module
    classes: list[str]
    palette: Any
    resize: list[dict] = field(default_factory=list)
    text_tower: dict | None = None


def load_model(
    checkpoint: str | Path,
    config: str | Path | None = None,
    *,
    teacher: bool = False,
) -> LoadedModel:
    """Build the model of a checkpoint and load its weights.

    The config in the file is read without being executed, and builds
    registered classes only.

    Args:
        checkpoint: See :func:`~clouds_mmseg.weights.load.find_checkpoint`.
        config: Used instead of the config in the checkpoint.
        teacher: Load the weights of self-training's teacher, not those of the
            student.

    Raises:
        UserError: The file cannot be read, has no config, or belongs to
            another project.
    """
    if Path(checkpoint).suffix in EXPORTED:
        raise UserError(
            f'{checkpoint} is no checkpoint but a program of clouds export: '
            f'clouds predict takes it, and ExportedSegmenter({checkpoint!r})'
        )
    path = find_checkpoint(checkpoint)
    weights, meta, rest = read_with_meta(path)
    if (meta.get('weights') or 'ema_state_dict' in rest) and not teacher:
        print_log(
            f'{path}: the weights are their moving average in training '
            '(EMAHook), as they were evaluated',
            logger='current',
        )
    if config is None:
        cfg = parse_config_text(meta.get('cfg'))
        if not cfg or not isinstance(cfg.get('model'), dict):
            raise UserError(_without_config(path, weights))
        named = f'the config in {path}'
    else:
        file = find_config(config, '--config')
        cfg, named = read_file(file).to_dict(), str(file)
    init_default_scope('mmseg')
    model_cfg = dict(cfg['model'])
    if model_cfg.get('type') in _SAME_NETWORK:
        model_cfg = _as_dg_segmentor(model_cfg)
    require_registered(model_cfg, named)
    # Text embeddings are not in a checkpoint: their source is read.
    with weights_only():
        model = MODELS.build(without_pretrained_init(Config(model_cfg)))
    kept = {k: v for k, v in weights.items() if not k.startswith(_TEACHER)}
    if teacher:
        kept |= _teacher_weights(weights, str(path))
    load_strictly(model, kept, source=str(path))
    if isinstance(getattr(model.backbone, 'adapter', None), LoRA):
        # Then it costs nothing.
        model.backbone.merge_adapter()
    return LoadedModel(
        model,
        *_classes(meta, cfg, model, str(path)),
        resize=_resize_steps(cfg),
        text_tower=_text_tower(model_cfg),
    )


def _without_config(path, weights):
    """Say what to do with a file that holds no config."""
    try:
        layout = detect(weights, 'auto', str(path))
    except UserError:
        layout = None
    if layout is not None and layout.kind != 'mmseg':
        return (
            f'{path} is a checkpoint of {TITLES[layout.kind]}; convert it '
            f'first: clouds convert {path} OUT.pth --config CONFIG'
        )
    return (
        f'{path} holds no config; give the one it was trained with '
        '(config=..., --config), or convert it if it is of another project: '
        'clouds convert'
    )


def _as_dg_segmentor(cfg):
    """Return the config of the same network, without a teacher."""
    kept = (
        'data_preprocessor',
        'backbone',
        'neck',
        'decode_head',
        'auxiliary_head',
        'train_cfg',
        'test_cfg',
    )
    return dict(
        {k: v for k, v in cfg.items() if k in kept}, type='DGSegmentor'
    )


def _teacher_weights(weights, named):
    """Return the weights of the teacher under the names of the student."""
    prefix = f'{_TEACHER}module.'
    found = {
        key.removeprefix(prefix): value
        for key, value in weights.items()
        if key.startswith(prefix)
    }
    if not found:
        raise UserError(
            f'{named} has no teacher: it was published without it, or is '
            'not of self-training'
        )
    steps = weights.get(f'{_TEACHER}steps')
    if steps is not None and not int(steps):
        raise UserError(
            f'{named}: its self-training has not begun, so its teacher has '
            'no trained weights yet; use the student'
        )
    return found


def _classes(meta, cfg, model, named):
    """Return names and colours of the classes of a model."""
    found = classes_of(meta)
    dataset = meta.get('dataset_meta') or {}
    if found is None:
        dataset = classes_of_config(cfg.get('test_dataloader')) or {}
        found = dataset.get('classes')
    if found is None:
        raise UserError(
            f'{named} does not say which classes it has; publish it with its '
            'config: clouds publish CHECKPOINT OUT.safetensors --config FILE'
        )
    if len(found) != model.num_classes:
        raise UserError(
            f'{named} names {len(found)} classes, but its head has '
            f'{model.num_classes}'
        )
    if len(found) > _MOST_CLASSES:
        raise UserError(
            f'{named} has {len(found)} classes; labels are bytes, which tell '
            f'{_MOST_CLASSES} apart'
        )
    palette = dataset.get('palette') or dataset.get('PALETTE')
    if palette is None or len(palette) != len(found):
        print_log(
            f'{named} has no palette: colours are chosen by a fixed rule',
            logger='current',
            level=logging.WARNING,
        )
        palette = palette_of(found, {})
    return found, palette


def _resize_steps(cfg):
    """Return the resizing steps of the test pipeline of a config."""
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while dataset.get('datasets'):
        dataset = dataset['datasets'][0]
    steps = dataset.get('pipeline') or []
    return [dict(step) for step in steps if step.get('type') == 'Resize']


def _text_tower(model_cfg):
    """Return the arguments of the text embeddings without their classes."""
    head = model_cfg.get('decode_head')
    classifier = head.get('classifier') if isinstance(head, dict) else None
    source = (classifier or {}).get('text_embeddings')
    if not isinstance(source, dict):
        return None
    return {k: v for k, v in source.items() if k != 'classes'}


def find_device(name: str | torch.device | None) -> torch.device:
    """Return the device of a name.

    Args:
        name: None for the first GPU, or the CPU; of processes that
            ``torchrun`` or ``srun`` started, each has its own GPU.

    Raises:
        UserError: There is no such device.
    """
    if name is None:
        name = 'cpu'
        if torch.cuda.is_available():
            # Each process of a launcher has its own; with
            # CUDA_VISIBLE_DEVICES it may see a single one.
            local = shard_from_environment().local
            name = f'cuda:{local % torch.cuda.device_count()}'
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(
            f'there is no device {name!r}; give cpu, cuda or cuda:1'
        ) from error
    if device.type == 'cuda':
        number = torch.cuda.device_count()
        if not torch.cuda.is_available():
            raise UserError(
                f'device {name} is not there: torch {torch.__version__} finds '
                'no GPU; give device=cpu'
            )
        if device.index is not None and device.index >= number:
            raise UserError(
                f'device {name} is not there: there are {number} GPUs, '
                f'cuda:0 to cuda:{number - 1}'
            )
    return device
