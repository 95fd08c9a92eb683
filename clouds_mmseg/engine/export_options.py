"""What --format-only of tools/test.py does to a config."""

from pathlib import Path

from mmengine.config import ConfigDict
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from clouds_mmseg.engine.corruption_options import domain_of_config
from clouds_mmseg.engine.launch import dataset_configs
from clouds_mmseg.evaluation.submission import (
    SERVERS,
    check_names,
    rules_of,
)
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.images import ImageFileError, read_image

# Type of a dataset -> the server that knows its test labels.
_SERVER_OF = dict(CityscapesDGDataset='cityscapes', ACDCDataset='acdc')
# Steps that need labels, or compare at another size than the server's.
_LABEL_STEPS = ('LoadSegLabels', 'LoadAnnotations', 'EvaluateAtInputSize')


def apply_export_arguments(cfg, args):
    """Apply the option of ``add_export_arguments``.

    Args:
        cfg (Config): Changed in place.
        args (argparse.Namespace): ``format_only``, ``out``, ``corrupt``.

    Raises:
        UserError: The options contradict each other, or see
            :func:`export_test_set`.
    """
    if args.corrupt is not None:
        raise UserError(
            '--format-only and --corrupt exclude each other: servers score '
            'the images as they are'
        )
    export_test_set(cfg, args.format_only, folder=args.out)


def export_test_set(cfg, split='test', *, folder=None):
    """Let a run write what the test servers take, in place of measuring.

    Of the test sets those stay whose server is known, at the given split and
    without labels. Everything is checked that can be known beforehand: names,
    number and size of the images.

    Args:
        cfg (Config): Changed in place: ``test_dataloader``,
            ``test_evaluator`` and ``custom_hooks``.
        split (str): ``'test'``, or ``'val'`` for a rehearsal.
        folder (str, optional): Where the files go. Defaults to
            ``<work_dir>/submission``.

    Raises:
        UserError: No test set has a server, or its images are not those that
            the server wants.
    """
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    leaves = list(dataset_configs(cfg.test_dataloader.dataset))
    kept = [leaf for leaf in leaves if leaf['type'] in _SERVER_OF]
    if not kept:
        raise UserError(
            '--format-only writes submissions to the servers of '
            + ' and '.join(rules.title for rules in SERVERS.values())
            + ', but the config tests on '
            + ', '.join(leaf['type'] for leaf in leaves)
            + '; --out FOLDER writes the predictions of any data set as PNG '
            'files'
        )
    if len(kept) < len(leaves):
        left = [domain_of_config(x) for x in leaves if x not in kept]
        print_log(
            f'--format-only leaves out {", ".join(left)}: no server known',
            logger='current',
        )
    exported = [_without_labels(leaf, split) for leaf in kept]
    servers = _check_images(exported, split)
    cfg.test_dataloader = ConfigDict(
        cfg.test_dataloader,
        dataset=ConfigDict(type='ConcatDataset', datasets=exported),
    )
    cfg.test_evaluator = ConfigDict(
        type='SubmissionMetric',
        servers=servers,
        out_dir=str(folder or Path(cfg.work_dir) / 'submission'),
        split=split,
    )
    # The results of the last evaluation stay: there are no new ones.
    cfg.custom_hooks = [
        hook
        for hook in cfg.get('custom_hooks') or []
        if hook['type'] != 'ResultsHook'
    ]


def _without_labels(leaf, split):
    """Return the config of a test set at a split, without its labels."""
    if leaf.get('data_prefix') or leaf.get('ann_file'):
        raise UserError(
            f'--format-only asks {leaf["type"]} for the images of its '
            f'{split} split, but the config sets data_prefix or ann_file by '
            'hand; leave them out and lay the images out as published'
        )
    leaf = ConfigDict(leaf)
    prefix = DATASETS.get(leaf['type']).PREFIX['img_path']
    fields = dict(split=split, condition=leaf.get('condition'))
    leaf.update(
        split=split,
        data_prefix=dict(img_path=prefix.format(**fields)),
        expected=None,
        pipeline=[s for s in leaf.pipeline if s['type'] not in _LABEL_STEPS],
    )
    return leaf


def _size_of(path):
    try:
        return read_image(path).shape[:2]
    except ImageFileError as error:
        raise UserError(f'--format-only: {error}') from error


def _check_images(leaves, split):
    """Compare names, number and size of the images with the rules.

    Returns:
        dict[str, str]: Domain -> server.
    """
    servers, images = {}, {}
    for leaf in leaves:
        dataset = DATASETS.build(leaf)
        server = _SERVER_OF[leaf['type']]
        servers[dataset.domain] = server
        images.setdefault(server, []).extend(
            dataset.get_data_info(i)['img_path'] for i in range(len(dataset))
        )
    for server, paths in images.items():
        rules = rules_of(server, split)
        problems = check_names(
            [f'{Path(path).stem}.png' for path in paths], rules, split=split
        )
        height, width = _size_of(paths[0])
        if (width, height) != rules.size:
            problems.append(
                f'{paths[0]} has {width}x{height} pixels, the images of '
                f'{rules.title} have {rules.size[0]}x{rules.size[1]}'
            )
        if problems:
            raise UserError(
                f'--format-only: these are not the {split} images of '
                f'{rules.title}, and its server would refuse the '
                'predictions:\n' + '\n'.join(f'  {line}' for line in problems)
            )
    return servers
