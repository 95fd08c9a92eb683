"""Checks of the settings of a segmentor."""

import logging

import torch
from mmengine.logging import print_log
from mmseg.registry import MODELS

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.options import near_names
from clouds_mmseg.utils.result_warnings import keep_for_results

_TEST_CFG = ('mode', 'crop_size', 'stride', 'window_batch', 'keep_scores')
# Largest accepted difference of mean and std, on a scale of 255.
_TOLERANCE = 3.0


def check_test_cfg(test_cfg: dict | None) -> None:
    """Check the settings of the inference of a segmentor.

    Raises:
        UserError: The mode is unknown, or the sliding windows are not
            specified or leave gaps between them.
    """
    test_cfg = test_cfg or {}
    for name in set(test_cfg) - set(_TEST_CFG):
        print_log(
            f'model.test_cfg.{name} is not used'
            + near_names([name], _TEST_CFG),
            logger='current',
            level=logging.WARNING,
        )
    mode = test_cfg.get('mode', 'whole')
    if mode not in ('whole', 'slide'):
        raise UserError(
            f"model.test_cfg.mode must be 'whole' or 'slide', got {mode!r}"
        )
    given = {k: test_cfg.get(k) for k in ('crop_size', 'stride')}
    if mode == 'whole':
        unused = [k for k, value in given.items() if value is not None]
        if unused:
            print_log(
                f'model.test_cfg has {" and ".join(unused)}, not used in the '
                "mode 'whole'; windows are mode='slide'",
                logger='current',
                level=logging.WARNING,
            )
        return
    for name, value in given.items():
        if not _is_size(value):
            raise UserError(
                f"model.test_cfg.mode='slide' needs {name}=(height, width) "
                f'in pixels, got {value!r}'
            )
    sizes, strides = tuple(test_cfg['crop_size']), tuple(test_cfg['stride'])
    for crop, stride in zip(sizes, strides, strict=True):
        if stride > crop:
            raise UserError(
                f'model.test_cfg.stride={strides} is greater '
                f'than crop_size={sizes}: pixels between '
                'the windows would have no prediction'
            )
    batch = test_cfg.get('window_batch', 4)
    if not isinstance(batch, int) or batch < 1:
        raise UserError(
            'model.test_cfg.window_batch must be a positive integer, got '
            f'{batch!r}'
        )


def check_input(segmentor: torch.nn.Module) -> None:
    """Compare the preprocessor with the backbone and the head.

    Args:
        segmentor: A built ``EncoderDecoder``.

    Raises:
        UserError: Padded pixels would be labelled with a class.
    """
    preprocessor = segmentor.data_preprocessor
    padding = getattr(preprocessor, 'seg_pad_val', None)
    ignored = getattr(segmentor.decode_head, 'ignore_index', None)
    if padding is not None and padding != ignored:
        if 0 <= padding < segmentor.num_classes:
            raise UserError(
                f'model.data_preprocessor.seg_pad_val={padding} is a class: '
                'the pixels by which images are padded would be trained as '
                f'that class; give seg_pad_val={ignored}, the '
                'ignore_index of the head'
            )
    expected = getattr(segmentor.backbone, 'expects', None)
    if expected is not None:
        _check_normalisation(preprocessor, expected)


def fit_head(backbone: torch.nn.Module, head: dict, with_neck: bool) -> dict:
    """Fill in what the config of a head leaves to the backbone.

    Args:
        backbone: The backbone.
        head: Config of the head.
        with_neck: Whether there is a neck between them.

    Returns:
        The config; the same if the head takes nothing but maps.

    Raises:
        UserError: The backbone returns tokens and the head takes maps, or
            the other way round.
    """
    kind = head.get('type')
    kind = MODELS.get(kind) if isinstance(kind, str) else kind
    takes = getattr(kind, 'takes', 'pyramid')
    gives = getattr(backbone, 'output', 'pyramid')
    if gives == 'tokens' and takes != 'tokens':
        raise UserError(
            f"model.backbone.output='tokens' is for PMTHead and EoMTHead; "
            f'{head.get("type")} takes maps of strides 4 to 32: leave output '
            'out'
        )
    if takes == 'tokens' and with_neck:
        raise UserError(
            f'{head.get("type")} reads the tokens of the backbone, which do '
            'not pass through a neck: leave model.neck out'
        )
    fit = getattr(kind, 'fit_to', None)
    return head if fit is None else fit(backbone, head)


def check_widths_of_maps(backbone: torch.nn.Module, head: dict) -> None:
    """Compare what a head is told about the maps with what they are.

    Args:
        backbone: With ``channels`` and ``strides`` of its maps.
        head: Config of the head. One that chooses maps by ``in_index`` is
            left alone.

    Raises:
        UserError: ``in_channels`` or ``strides`` are given and differ.
    """
    if 'in_index' in head:
        return
    for name, own in (('in_channels', 'channels'), ('strides', 'strides')):
        given, found = head.get(name), getattr(backbone, own, None)
        if isinstance(given, (list, tuple)) and found is not None:
            if list(given) != list(found):
                # Of tokens, all have the one of the patches.
                pyramid = getattr(backbone, 'output', None) != 'tokens'
                raise UserError(
                    f'model.decode_head.{name}={list(given)}, but the maps '
                    f'of {type(backbone).__name__} have {list(found)}: leave '
                    f'{name} out'
                    + (
                        ', or take a tower with the strides 4, 8, 16, 32'
                        if name == 'strides' and pyramid
                        else ''
                    )
                )


def check_queries(segmentor: torch.nn.Module) -> None:
    """Compare the queries of a backbone's adapter with the head's.

    Args:
        segmentor: A built ``EncoderDecoder``.

    Raises:
        UserError: One of them has what the other does not take, or their
            numbers or widths differ.
    """
    adapter = getattr(segmentor.backbone, 'adapter', None)
    head = segmentor.decode_head
    given = getattr(adapter, 'link', False)
    taken = getattr(head, 'queries', None) == 'backbone'
    if taken and not given:
        raise UserError(
            "model.decode_head.queries='backbone' needs a backbone with "
            "adapter=dict(type='Rein'), and this one hands over no queries"
        )
    if given and not taken:
        takes = hasattr(head, 'queries')
        raise UserError(
            'the adapter of model.backbone hands queries to the head, which '
            'does not take them: give '
            + ("decode_head.queries='backbone', or " if takes else '')
            + 'adapter.link=False'
        )
    if not taken:
        return
    if segmentor.with_neck:
        raise UserError(
            "model.decode_head.queries='backbone' does not work with a neck, "
            'through which the queries of the backbone do not pass'
        )
    for ours, theirs in (
        ('num_tokens', 'num_queries'),
        ('query_channels', 'feat_channels'),
    ):
        found, wanted = getattr(adapter, ours), getattr(head, theirs)
        if found != wanted:
            raise UserError(
                f'model.backbone.adapter.{ours}={found}, but '
                f'model.decode_head.{theirs}={wanted}: the tokens of the '
                'adapter are the queries of the head, so these must be equal'
            )


def check_text(segmentor: torch.nn.Module) -> None:
    """Compare the text of a head with the space of the backbone's features.

    Args:
        segmentor: A built ``EncoderDecoder``.

    Raises:
        UserError: The head compares with text, and the backbone has no
            features for it, or of another CLIP model.
    """
    text = getattr(segmentor.decode_head, 'text', None)
    wanted = getattr(text, 'channels', None)
    if wanted is None:
        return
    found = getattr(segmentor.backbone, 'joint_channels', None)
    if found is None or segmentor.with_neck:
        raise UserError(
            'model.decode_head compares features of the image with text, and '
            'gets none: give model.backbone the type TIMMCLIPTower, and no '
            'neck'
        )
    if found != wanted:
        raise UserError(
            f'model.decode_head.text has {wanted} dimensions, the features of '
            f'model.backbone {found}: text encoder and tower must be of one '
            'CLIP model'
        )
    weights = segmentor.decode_head.regularisation
    if weights['image'] and segmentor.backbone.initial is None:
        raise UserError(
            'model.decode_head.regularisation.image compares with the tower '
            'before training: give model.backbone keep_initial=True, or '
            'regularisation=dict(image=0)'
        )


def use_statistics(segmentor: torch.nn.Module) -> None:
    """Normalise images by the tower's statistics if the config has none.

    Args:
        segmentor: A built ``EncoderDecoder``. If its preprocessor has
            neither mean nor std and its backbone sets them, it is given the
            backbone's ``expects``.
    """
    preprocessor = segmentor.data_preprocessor
    if not getattr(segmentor.backbone, 'sets_statistics', False):
        return
    if getattr(preprocessor, '_enable_normalize', True):
        return
    expected = segmentor.backbone.expects
    if expected is None:
        raise UserError(
            'model.data_preprocessor has no mean and std, and those of '
            'model.backbone are not known; give them'
        )
    for name, values in zip(('mean', 'std'), expected, strict=True):
        tensor = torch.tensor(list(values)).view(-1, 1, 1)
        preprocessor.register_buffer(name, tensor, False)
    preprocessor._enable_normalize = True
    print_log(
        'model.data_preprocessor has no mean and std: those of the tower are '
        f'used, mean {_numbers(expected[0])}, std {_numbers(expected[1])}',
        logger='current',
    )


def _check_normalisation(preprocessor, expected):
    """Warn if images are not normalised as the pretrained weights expect."""
    mean, std = expected
    problems = []
    if not getattr(preprocessor, '_enable_normalize', False):
        problems.append('it does not normalise')
    else:
        found = [
            getattr(preprocessor, name).flatten().tolist()
            for name in ('mean', 'std')
        ]
        for name, values, target in zip(
            ('mean', 'std'), found, (mean, std), strict=True
        ):
            if len(values) != len(target) or any(
                abs(a - b) > _TOLERANCE
                for a, b in zip(values, target, strict=True)
            ):
                problems.append(
                    f'its {name} is {_numbers(values)} instead of '
                    f'{_numbers(target)}'
                )
    if not getattr(preprocessor, '_channel_conversion', False):
        problems.append(
            'images are loaded as BGR, and without bgr_to_rgb=True red and '
            'blue are exchanged'
        )
    if problems:
        message = (
            'model.data_preprocessor does not fit the pretrained weights of '
            f'the backbone (RGB, mean {_numbers(mean)}, std '
            f'{_numbers(std)}): ' + '; '.join(problems)
        )
        print_log(message, logger='current', level=logging.WARNING)
        keep_for_results(message)


def _is_size(value):
    return (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(isinstance(side, int) and side > 0 for side in value)
    )


def _numbers(values):
    return '[' + ', '.join(f'{value:.4g}' for value in values) + ']'
