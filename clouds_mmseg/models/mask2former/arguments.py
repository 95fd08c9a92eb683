"""Checks of the arguments of the head, before anything is built."""

import inspect
from collections.abc import Callable, Sequence
from numbers import Integral, Real

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.options import near_names

_LARGEST = 1e30
# Options of mmdet's and mmseg's Mask2FormerHead, and of transformers'
# Mask2FormerConfig -> what to give here instead.
_UPSTREAM = dict(
    loss_cls='loss=dict(class_weight=...), a number, or a list with the '
    'weight of each class',
    loss_mask='loss=dict(mask_weight=...)',
    loss_dice='loss=dict(dice_weight=...)',
    train_cfg='loss=dict(num_points=..., oversample_ratio=..., '
    'importance_sample_ratio=...)',
    class_weights='loss=dict(class_weight=[...])',
    ignore_value='ignore_index',
    num_things_classes='num_classes, of things and stuff together',
    num_stuff_classes='num_classes, of things and stuff together',
    enforce_decoder_input_project='nothing: feat_channels are the channels '
    'of both, and no projection is needed',
    num_transformer_feat_level='nothing: there are three levels',
    positional_encoding='nothing: it is a sine encoding of feat_channels',
    pixel_decoder='num_encoder_layers, encoder_ffn_channels, num_heads, '
    'num_points and num_groups',
    transformer_decoder='num_decoder_layers, decoder_ffn_channels and '
    'num_heads',
    num_attention_heads='num_heads',
    encoder_layers='num_encoder_layers',
    decoder_layers='num_decoder_layers, one less than transformers counts',
    encoder_feedforward_dim='encoder_ffn_channels',
    dim_feedforward='decoder_ffn_channels',
    hidden_dim='feat_channels',
    mask_feature_size='out_channels',
    feature_size='out_channels',
    train_num_points='loss=dict(num_points=...)',
    no_object_weight='loss=dict(no_object_weight=...)',
    class_weight='loss=dict(class_weight=...)',
    mask_weight='loss=dict(mask_weight=...)',
    dice_weight='loss=dict(dice_weight=...)',
    oversample_ratio='loss=dict(oversample_ratio=...)',
    importance_sample_ratio='loss=dict(importance_sample_ratio=...)',
    eos_coef='no_object_weight',
    loss_weight='class_weight, mask_weight or dice_weight',
    dropout='nothing: as in all published models there is no dropout',
    dropout_ratio='nothing: as in all published models there is no dropout',
    use_auxiliary_loss='nothing: every layer has its losses',
    pre_norm='nothing: layers are post-norm, as in all published models',
    channels='feat_channels',
    in_index='nothing: all four maps are read',
    loss_decode='loss=dict(class_weight=..., mask_weight=..., '
    'dice_weight=...)',
    norm_cfg='num_groups, of the group normalisations',
    sampler='nothing: points are sampled by loss.num_points, '
    'oversample_ratio and importance_sample_ratio',
)


def refuse_unknown(name: str, unknown: dict, function: Callable) -> None:
    """Raise an error for unknown options that names the right one.

    Args:
        name: What is configured, for the message.
        unknown: Options that do not exist.
        function: Its keyword-only arguments are the options that exist.

    Raises:
        UserError: ``unknown`` is not empty.
    """
    if not unknown:
        return
    known = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    ]
    option = next(iter(unknown))
    hint = near_names([option], known)
    if option in _UPSTREAM:
        hint = f'; here it is {_UPSTREAM[option]}'
    raise UserError(f'{name} has no option {option!r}{hint}')


def check_threshold(threshold: float) -> None:
    """Check the score above which the only class is predicted.

    Raises:
        UserError: It is not in (0, 1).
    """
    if not _in(threshold, 0, 1) or threshold in (0, 1):
        raise UserError(
            f'decode_head.threshold must be between 0 and 1, got {threshold!r}'
        )


def check_widths(
    *,
    in_channels: Sequence[int],
    strides: Sequence[int],
    feat_channels: int,
    num_heads: int,
    groups: int,
) -> None:
    """Check the arguments that depend on one another.

    Args:
        in_channels: Of the four maps.
        strides: Of the four maps.
        feat_channels: Channels inside the head.
        num_heads: Attention heads.
        groups: Groups of the group normalisations.

    Raises:
        UserError: Names the argument, the rule and the value.
    """
    for name, values in (('in_channels', in_channels), ('strides', strides)):
        if not _four_counts(values):
            raise UserError(
                f'{name} must be four positive integers, one for each map '
                f'of the backbone, finest first; got {values!r}'
            )
    for a, b in zip(strides[:-1], strides[1:], strict=True):
        if a >= b:
            raise UserError(
                f'strides must grow from map to map, got {list(strides)}'
            )
    for name, divisor in (
        ('num_heads', num_heads),
        ('num_groups', groups),
        # The positional encoding has sines and cosines of x and of y.
        ('4', 4),
    ):
        if feat_channels % divisor:
            raise UserError(
                f'feat_channels must be a multiple of {name}'
                f'{"" if name == "4" else f"={divisor}"}, got {feat_channels}'
            )


def check_counts(**values: int) -> None:
    """Check that arguments are positive integers.

    Args:
        **values: The arguments by name.

    Raises:
        UserError: Names the argument and the value.
    """
    for name, value in values.items():
        if not _is_count(value):
            raise UserError(
                f'{name} must be a positive integer, got {value!r}'
            )


def check_loss(
    *,
    num_points: int,
    oversample_ratio: float,
    importance_sample_ratio: float,
    **weights: float,
) -> None:
    """Check the options of the loss.

    Args:
        num_points: A positive integer.
        oversample_ratio: At least 1.
        importance_sample_ratio: In [0, 1].
        **weights: Not negative.

    Raises:
        UserError: Names the option, the rule and the value.
    """
    check_counts(**{'loss.num_points': num_points})
    if not _in(oversample_ratio, 1, float('inf')):
        raise UserError(
            f'loss.oversample_ratio must be at least 1, got '
            f'{oversample_ratio!r}'
        )
    if not _in(importance_sample_ratio, 0, 1):
        raise UserError(
            'loss.importance_sample_ratio must be in [0, 1], got '
            f'{importance_sample_ratio!r}'
        )
    for name, value in weights.items():
        if not _in(value, 0, _LARGEST):
            raise UserError(f'loss.{name} must not be negative, got {value!r}')


def read_class_weights(
    num_classes: int,
    class_weight: float | Sequence[float],
    loss_weight: float | None,
    no_object_weight: float | None,
) -> tuple[float, list[float]]:
    """Split ``class_weight`` into the weights of the loss and the classes.

    Args:
        num_classes: K.
        class_weight: The weight of the loss; or a list of the K weights of
            the classes, or of K + 1 with that of "no object".
        loss_weight: The weight of the loss where ``class_weight`` is a list.
        no_object_weight: Of "no object".

    Returns:
        The weight of the loss, and K + 1 weights of the classes.

    Raises:
        UserError: They contradict one another, or are out of range.
    """
    if isinstance(class_weight, Real):
        if loss_weight is not None:
            raise UserError(
                'loss.class_loss_weight is for a loss.class_weight that is a '
                f'list, but that is {class_weight!r}; give one of them'
            )
        loss_weight, weights = class_weight, [1.0] * num_classes
    elif isinstance(class_weight, (list, tuple)):
        loss_weight = 2.0 if loss_weight is None else loss_weight
        weights = list(class_weight)
    else:
        raise UserError(
            'loss.class_weight must be a number or a list with one of each '
            f'class, got {class_weight!r}'
        )
    if len(weights) == num_classes:
        last = 0.1 if no_object_weight is None else no_object_weight
        weights.append(last)
    elif len(weights) != num_classes + 1:
        raise UserError(
            f'loss.class_weight has {len(weights)} values for {num_classes} '
            f'classes; give {num_classes}, or {num_classes + 1} with that of '
            '"no object" as the last'
        )
    elif no_object_weight not in (None, weights[-1]):
        raise UserError(
            f'loss.class_weight says {weights[-1]} for "no object" and '
            f'loss.no_object_weight {no_object_weight}; give one of them'
        )
    for name, value in (
        ('class_loss_weight', loss_weight),
        ('no_object_weight', weights[-1]),
        *(('class_weight', value) for value in weights),
    ):
        if not _in(value, 0, _LARGEST):
            if name == 'class_loss_weight' and value is class_weight:
                name = 'class_weight'
            raise UserError(
                f'loss.{name} must not be negative or infinite, got {value!r}'
            )
    if not any(weights):
        raise UserError(
            'all of loss.class_weight are zero: nothing would be learnt, and '
            'the loss be 0 / 0'
        )
    return loss_weight, weights  # type: ignore[return-value]


def _is_count(value):
    return (
        isinstance(value, Integral)
        and not isinstance(value, bool)
        and value >= 1
    )


def _four_counts(values):
    return (
        isinstance(values, (list, tuple))
        and len(values) == 4
        and all(_is_count(v) for v in values)
    )


def _in(value, low, high):
    return isinstance(value, Real) and low <= value <= high
