"""What the options of tools/test.py about corruptions do to a config."""

from mmengine.config import ConfigDict
from mmengine.registry import init_default_scope
from mmseg.registry import DATASETS

from clouds_mmseg.engine.launch import dataset_configs
from clouds_mmseg.utils.corruptions import CLEAN, check_choice, domain_of
from clouds_mmseg.utils.errors import UserError


def apply_corruption_arguments(cfg, args):
    """Apply the options of ``add_corruption_arguments``.

    Args:
        cfg (Config): Changed in place where ``--corrupt`` is given.
        args (argparse.Namespace): The options, and ``show_dir`` and
            ``show``.

    Raises:
        UserError: An option contradicts another or is wrong.
    """
    if args.corrupt is None:
        for name in ('corrupted_images', 'corruptions', 'severities'):
            if getattr(args, name) is not None:
                raise UserError(
                    f'--{name.replace("_", "-")} needs --corrupt DOMAIN: the '
                    'test set that is corrupted'
                )
        return
    if (args.show or args.show_dir) and args.corrupted_images is None:
        raise UserError(
            '--show and --show-dir draw the images from their files; with '
            '--corrupt give --corrupted-images too (write them with '
            'tools/make_corruptions.py)'
        )
    corrupt_test_set(
        cfg,
        args.corrupt,
        folder=args.corrupted_images,
        corruptions=args.corruptions,
        severities=args.severities,
    )


def corrupt_test_set(
    cfg, domain, *, folder=None, corruptions=None, severities=None
):
    """Exchange the test sets for one of them under every corruption.

    Args:
        cfg (Config): Changed in place: ``test_dataloader`` and
            ``test_evaluator``.
        domain (str): Domain of the test set that is corrupted.
        folder (str, optional): Where ``tools/make_corruptions.py`` wrote its
            images; None corrupts them as they are read.
        corruptions (Sequence[str], optional): Names of corruptions or
            categories. Defaults to all fifteen.
        severities (Sequence[int], optional): Defaults to 1..5.

    Raises:
        UserError: No test set has the domain, or a corruption or severity is
            unknown.
    """
    corruptions, severities = check_choice(corruptions, severities)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    found = {
        domain_of_config(leaf): leaf
        for leaf in dataset_configs(cfg.test_dataloader.dataset)
    }
    if domain not in found:
        raise UserError(
            f'--corrupt {domain}: the config tests on '
            + ', '.join(str(name) for name in found)
            + '; name one of them'
        )
    cfg.test_dataloader = ConfigDict(
        cfg.test_dataloader,
        dataset=ConfigDict(
            type='CorruptedDataset',
            dataset=found[domain],
            folder=folder,
            corruptions=list(corruptions),
            severities=list(severities),
        ),
    )
    evaluator = cfg.test_evaluator
    if isinstance(evaluator, (list, tuple)):
        evaluator = evaluator[0]
    kept = {
        key: value
        for key, value in evaluator.items()
        if key not in ('type', 'domains', 'source_domains')
    }
    cfg.test_evaluator = ConfigDict(
        kept,
        type='CorruptionMetric',
        domains=[
            CLEAN,
            *(domain_of(c, s) for c in corruptions for s in severities),
        ],
    )
    _limit_pictures(cfg, folder)


def _limit_pictures(cfg, folder):
    """Draw one picture a domain, and none where they would be wrong.

    Pictures are drawn from files: those of images that are corrupted as they
    are read would show the clean ones.
    """
    for hook in cfg.get('custom_hooks') or []:
        if hook['type'] == 'PredictionPicturesHook':
            hook['on_test'] = folder is not None
            hook['per_domain'] = 1


def domain_of_config(leaf):
    """Ask a dataset for its domain, without opening its files.

    Args:
        leaf (ConfigDict): Config of a dataset.

    Returns:
        str: Its domain, or its type if it has none.
    """
    dataset = DATASETS.build(dict(leaf, lazy_init=True))
    return getattr(dataset, 'domain', None) or leaf['type']
