"""Loading of configs, and the options shared by the command line tools."""

import argparse
import gc
import importlib.util
import logging
import os
import os.path as osp
from collections.abc import Iterator
from pathlib import Path

from mmengine import fileio
from mmengine.config import Config, ConfigDict
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmseg.registry import RUNNERS

from clouds_mmseg.cli.config_check import apply_options, check_config
from clouds_mmseg.engine.dataset_options import (
    apply_dataset_options,
    warn_of_test_left_behind,
)
from clouds_mmseg.evaluation.protocols import apply_protocol
from clouds_mmseg.utils.config_file import (
    CONFIGS,
    OWN,
    ZOO,
    find_config,
    read_file,
)
from clouds_mmseg.utils.data_root import (
    DATA_ROOT_VARIABLE,
    REPORT_DIR_VARIABLE,
    use_folder,
)
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.locate import use_pretrained_dir
from clouds_mmseg_cli.errors import plain_errors  # noqa: F401
from clouds_mmseg_cli.options import (  # noqa: F401
    add_common_arguments,
    add_pretrained_dir,
    add_report_dir,
)

BASES = CONFIGS[OWN] / '_base_'
_MASK2FORMER = ('Mask2FormerHead', 'mmseg.Mask2FormerHead')
# Optional packages that configs of MMSegmentation's zoo refer to.
_OPTIONAL_PACKAGES = ('mmdet', 'mmpretrain', 'mmcls')
# Launcher -> environment variable that it sets in each process.
_RANK_VARIABLES = dict(
    pytorch='RANK', slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_LOCAL_RANK'
)


def read_config(name: str) -> Config:
    """Read a config file, one of this package or of MMSegmentation's zoo.

    Args:
        name: A path, or ``clouds_mmseg::folder/name.py`` or
            ``mmseg::folder/name.py`` for a config of the installed package;
            with these ``.py`` may be left out.

    Returns:
        The config; one of the zoo with :func:`use_clouds_head`, and with
        ``DGSegmentor`` in place of ``EncoderDecoder``.

    Raises:
        UserError: There is no such config, it cannot be read, or it is one
            of the zoo that needs a package which is not installed.
    """
    path = find_config(name)
    if not name.startswith(f'{ZOO}::'):
        return read_file(path)
    cfg = read_file(path, import_custom_modules=False)
    model = cfg.get('model') or ConfigDict()
    if model.get('type') == 'EncoderDecoder':
        # Same network; predicts images of any size in bounded memory.
        model.type = 'DGSegmentor'
    use_clouds_head(model)
    _require_packages(cfg.get('model'), name)
    return cfg


def use_clouds_head(model: ConfigDict) -> None:
    """Replace the zoo's Mask2Former head, which needs mmdet, by ours.

    ``CLOUDSHead`` is the same network with the same state dict keys. Loss
    weights and numbers of points are taken from the config.

    Args:
        model: ``model`` of a config, changed in place.
    """
    head = model.get('decode_head') or ConfigDict()
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
        if (
            package in _OPTIONAL_PACKAGES
            and importlib.util.find_spec(package) is None
        ):
            raise UserError(
                f'{name} needs {module} of the package {package}, which is '
                'not installed and not among those that this project is '
                'tested with; clouds_mmseg::baselines/ has models that need '
                'nothing else'
            )


def _types(value):
    """Iterate over all values of ``type`` in a nested config."""
    if isinstance(value, dict):
        if isinstance(value.get('type'), str):
            yield value['type']
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _types(item)


def on_benchmark(cfg: Config, name: str) -> Config:
    """Make a config that tests a model on the targets of a benchmark.

    Model and preprocessor come from the config, images, metric and protocol
    from the benchmark, the runtime from this project: models of
    MMSegmentation's zoo are tested in the same way as ours.

    Args:
        cfg: Any config with a ``model``, of the zoo or ours.
        name: A file in ``configs/_base_/benchmarks``, without its suffix, or
            the path of another config that has ``test_dataloader`` and
            ``test_evaluator``.

    Returns:
        For testing only.

    Raises:
        UserError: There is no such benchmark, or no model.
    """
    if not cfg.get('model'):
        raise UserError(
            f'--benchmark {name}: {cfg.filename} has no model to be tested'
        )
    benchmark = read_file(_benchmark_path(name))
    missing = {'test_dataloader', 'test_evaluator'} - set(benchmark)
    if missing:
        raise UserError(
            f'--benchmark {name}: the config has no '
            f'{" and no ".join(sorted(missing))}'
        )
    runtime = Config.fromfile(BASES / 'default_runtime.py')
    pieces = runtime.to_dict() | dict(
        model=cfg.model.to_dict(),
        load_cfg=cfg.get('load_cfg', {}),
        test_dataloader=benchmark.test_dataloader.to_dict(),
        test_evaluator=benchmark.test_evaluator,
        test_cfg=dict(type='TestLoop'),
    )
    pieces['custom_hooks'] = [
        *pieces['custom_hooks'],
        dict(type='CheckpointClassesHook'),
    ]
    for key in ('work_dir', 'tta_model'):
        if cfg.get(key):
            pieces[key] = cfg[key]
    tested = Config(pieces, filename=cfg.filename)
    evaluators = tested.test_evaluator
    if isinstance(evaluators, dict):
        evaluators = [evaluators]
    for evaluator in evaluators:
        if evaluator.get('protocol'):
            # The protocol overrides sliding windows of the config.
            apply_protocol(tested, evaluator['protocol'])
    return tested


def _benchmark_path(name):
    """Return the config of a benchmark."""
    if name.endswith('.py'):
        path = Path(name)
    else:
        path = BASES / 'benchmarks' / f'{name}.py'
    if not path.is_file():
        known = sorted(p.stem for p in (BASES / 'benchmarks').glob('*.py'))
        raise UserError(
            f'--benchmark {name}: there is no {path}; give one of '
            f'{", ".join(known)}, or the path of a config'
        )
    return path


def use_report_dir(folder: str | None) -> None:
    """Set the folder of data reports.

    Args:
        folder: None keeps the environment variable ``CLOUDS_REPORT_DIR``.
    """
    if folder is not None:
        use_folder(REPORT_DIR_VARIABLE, folder)


def load_config(args: argparse.Namespace) -> Config:
    """Read a config and apply the common options.

    Args:
        args: Options of :func:`add_common_arguments`, and ``benchmark`` where
            a tool has it.

    Returns:
        With ``work_dir`` and ``launcher`` set.

    Raises:
        UserError: The config, a folder or the benchmark does not exist, or
            the config or an option has an unknown name.
    """
    variable = _RANK_VARIABLES.get(args.launcher)
    if variable is not None and variable not in os.environ:
        raise UserError(
            f'--launcher {args.launcher} is for a process that the launcher '
            f'has started, and {variable} is not set; start the run with '
            'tools/dist_train.sh, torchrun, srun or mpirun, or leave '
            '--launcher out for one process'
        )
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.data_root is not None:
        if not fileio.isdir(args.data_root):
            raise UserError(
                f'--data-root {args.data_root}: there is no such folder; '
                "give the folder that stands in for 'data'"
            )
        use_folder(DATA_ROOT_VARIABLE, args.data_root)
    use_report_dir(getattr(args, 'report_dir', None))
    use_pretrained_dir(getattr(args, 'pretrained_dir', None))
    cfg = read_config(args.config)
    name = Path(args.config).stem
    benchmark = getattr(args, 'benchmark', None)
    if benchmark is not None:
        cfg = on_benchmark(cfg, benchmark)
        name = f'{name}_on_{Path(benchmark).stem}'
    cfg.launcher = args.launcher
    options = args.cfg_options or {}
    apply_options(cfg, options)
    warning = warn_of_test_left_behind(cfg, options)
    if warning:
        print_log(warning, level=logging.WARNING)
    apply_dataset_options(cfg)
    check_config(cfg)
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('work_dirs', name)
    return cfg


def require_folder(option: str, folder: str | None) -> None:
    """Refuse an unusable output folder before the run starts.

    Args:
        option: Option or key that names it, for the message.
        folder: The folder, which may not exist yet; None passes.

    Raises:
        UserError: It is a file or not writable.
    """
    if folder is None:
        return
    existing = Path(folder).expanduser().absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(
            f'{option} {folder}: {existing} is a file; give a folder'
        )
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(
            f'{option} {folder}: no permission to write in {existing}; give '
            'another folder'
        )


def enable_amp(cfg: Config) -> None:
    """Train in mixed precision (bfloat16), in place.

    Raises:
        UserError: The config has another optimiser wrapper, or none.
    """
    if not cfg.get('optim_wrapper'):
        raise UserError(
            '--amp sets the precision of training, and the config has no '
            'optim_wrapper; give a config that trains'
        )
    wrapper = cfg.optim_wrapper.get('type', 'OptimWrapper')
    if wrapper in ('BF16OptimWrapper', 'AmpOptimWrapper'):
        return
    if wrapper != 'OptimWrapper':
        raise UserError(
            '--amp replaces an optim_wrapper of type OptimWrapper, but the '
            f'config has {wrapper}; set the precision in the config'
        )
    cfg.optim_wrapper.type = 'BF16OptimWrapper'


def dataset_configs(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """Iterate over the dataset configs inside wrappers and concatenations.

    Args:
        dataset: ``dataset`` of a dataloader.

    Yields:
        Configs that have a pipeline of their own.
    """
    inner = [*(dataset.get('datasets') or []), dataset.get('dataset')]
    for child in inner:
        if child is not None:
            yield from dataset_configs(child)
    if not any(inner):
        yield dataset


def build_runner(cfg: Config) -> Runner:
    """Build the runner of a config.

    Args:
        cfg: The config. ``runner_type`` defaults to ``DGRunner``.

    Returns:
        Ready to train or test.
    """
    cfg.setdefault('runner_type', 'DGRunner')
    # mmengine's datasets run the garbage collector when they serialise their
    # index, which takes most of a second with all imported modules. Frozen
    # objects are skipped, and their memory pages stay shared with forked
    # workers.
    gc.freeze()
    return RUNNERS.build(cfg)
