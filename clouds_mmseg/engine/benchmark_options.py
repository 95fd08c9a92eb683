"""Testing the model of any config on the targets of a benchmark."""

from pathlib import Path

from mmengine.config import Config

from clouds_mmseg.evaluation.protocols import apply_protocol
from clouds_mmseg.utils.config_file import read_file
from clouds_mmseg.utils.errors import UserError

# In a checkout, beside the package.
BASES = Path(__file__).resolve().parents[2] / 'configs' / '_base_'


def on_benchmark(cfg, name):
    """Make a config that tests a model on the targets of a benchmark.

    Model and preprocessor are those of the config; images, metric and
    protocol the benchmark's, and the runtime this project's: a model of
    MMSegmentation's zoo is tested as ours are, and its table can be compared.

    Args:
        cfg (Config): Any config with a ``model``, of the zoo or ours.
        name (str): A file in ``configs/_base_/benchmarks``, without its
            suffix, or the path of another config that has
            ``test_dataloader`` and ``test_evaluator``.

    Returns:
        Config: For testing only.

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
            # Windows of the config, if any, give way to the protocol's.
            apply_protocol(tested, evaluator.protocol)
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
            f'{", ".join(known) or "(no configs/ beside the package)"}, or '
            'the path of a config'
        )
    return path
