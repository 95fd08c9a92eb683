"""What users and their files rely on, recorded so that a change is seen.

``python tests/guard.py --write`` records it anew, ``python tests/guard.py``
compares and, unlike the test, wants the losses equal to the last bit: run it
before and after moving code, on one machine. What is recorded:

- the names in MMSegmentation's registries,
- names and shapes of the ``state_dict`` of every config, with small models,
- the sections of every config, resolved,
- the options of every tool,
- three losses of ToyCity.
"""

import argparse
import contextlib
import hashlib
import io
import json
import runpy
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / 'tests' / 'data' / 'guard.json'
# Sections that a run reads; other names of a config are building blocks.
SECTIONS = (
    'model train_dataloader val_dataloader test_dataloader val_evaluator '
    'test_evaluator train_cfg val_cfg test_cfg optim_wrapper param_scheduler '
    'default_hooks custom_hooks banks load_cfg runner_type randomness env_cfg '
    'total_batch_size log_processor tta_model tta_pipeline'
).split()


def registered() -> dict[str, list[str]]:
    """Registry -> the names that this package registers in it."""
    from mmengine.registry import Registry
    from mmseg import registry

    found = {}
    for value in vars(registry).values():
        if isinstance(value, Registry):
            names = [
                name
                for name, kind in value.module_dict.items()
                if kind.__module__.startswith('clouds_mmseg')
            ]
            if names:
                found[value.name] = sorted(names)
    return dict(sorted(found.items()))


def config_files() -> list[str]:
    folder = ROOT / 'configs'
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob('*.py')
        if '_base_' not in path.parts and 'ablation' not in path.parts
    )


def configs() -> tuple[dict, dict, dict]:
    """Hash of each section, and of each small model's names and shapes."""
    import torch
    from mmengine.config import Config
    from mmengine.registry import DefaultScope
    from mmseg.registry import MODELS
    from test_configs import shrink
    from tiny_benchmarks import shrink_model, zoo_read_once

    sections, models, tables = {}, {}, {}
    # Of a model's config; many configs differ in their data alone.
    digests: dict[str, str] = {}
    with zoo_read_once():
        for name in config_files():
            cfg = Config.fromfile(ROOT / 'configs' / name)
            sections[name] = {
                key: _digest(cfg[key]) for key in SECTIONS if key in cfg
            }
            small = shrink
            if name.startswith('baselines') or 'deeplab' in name:
                small = lambda cfg: shrink_model(cfg.model)  # noqa: E731
            torch.manual_seed(0)
            small(cfg)
            content = repr(cfg.model)
            if content not in digests:
                with DefaultScope.overwrite_default_scope('mmseg'):
                    model = MODELS.build(cfg.model)
                table = [
                    f'{key} {list(value.shape)}'
                    for key, value in model.state_dict().items()
                ]
                digests[content] = _digest(table)
                tables[digests[content]] = table
            models[name] = digests[content]
    return sections, models, tables


def tool_options() -> dict[str, list[str]]:
    """Tool -> its options, each with what it takes."""
    found = {}
    for path in sorted((ROOT / 'tools').glob('*.py')):
        found[path.name] = _options_of(path)
    return found


class _Parsed(Exception):
    pass


def _options_of(path):
    parsers = []

    def parse_args(parser, *args, **kwargs):
        parsers.append(parser)
        raise _Parsed

    original = argparse.ArgumentParser.parse_args
    argv = sys.argv
    argparse.ArgumentParser.parse_args = parse_args
    sys.argv = [str(path)]
    try:
        with (
            contextlib.suppress(_Parsed, SystemExit),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            runpy.run_path(str(path), run_name='__main__')
    finally:
        argparse.ArgumentParser.parse_args = original
        sys.argv = argv
    return [line for parser in parsers for line in _options(parser, '')]


def _options(parser, prefix):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield from _options(child, f'{prefix}{name} ')
            continue
        names = '/'.join(action.option_strings) or action.dest
        choices = sorted(map(str, action.choices)) if action.choices else None
        yield f'{prefix}{names} nargs={action.nargs} choices={choices}'


def toycity_losses() -> list[str]:
    """The losses of three steps on a small ToyCity, as hexadecimal floats."""
    import torch
    from mmengine.config import Config
    from mmengine.hooks import Hook

    from clouds_mmseg.cli.config import build_runner
    from clouds_mmseg.toycity import write_toycity

    losses = []

    class Record(Hook):
        def after_train_iter(self, runner, *args, outputs=None, **kwargs):
            losses.append(float(outputs['loss'].detach()).hex())

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            write_toycity(Path(folder, 'toycity'), **_SMALL)
            cfg = Config.fromfile(ROOT / 'configs' / 'toycity' / 'warmup.py')
            cfg.work_dir = str(Path(folder, 'work'))
            cfg.merge_from_dict(
                {
                    'train_cfg.max_iters': 3,
                    'train_cfg.val_interval': 1000,
                    'default_hooks.checkpoint.interval': 1000,
                    'total_batch_size': 2,
                    'train_dataloader.num_workers': 0,
                    'train_dataloader.persistent_workers': False,
                }
            )
            for split in ('train', 'val', 'test'):
                _move(cfg[f'{split}_dataloader'].dataset, folder)
            runner = build_runner(cfg)
            runner.register_hook(Record())
            runner.train()
    finally:
        torch.set_num_threads(threads)
    return losses


_SMALL = dict(num_source=8, num_source_val=2, num_target=1, workers=1)


def _move(dataset, folder):
    for leaf in dataset.get('datasets', [dataset]):
        leaf.pop('expected', None)
        leaf.data_root = leaf.data_root.replace('data/', f'{folder}/', 1)


def _digest(value):
    text = json.dumps(_plain(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value):
    if isinstance(value, dict):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(child) for child in value]
    return value if isinstance(value, (str, int, float)) else repr(value)


def record(losses: bool = True) -> dict:
    """Everything, as it is now."""
    sections, models, tables = configs()
    found = dict(
        registered=registered(),
        sections=sections,
        models=models,
        tables=tables,
        options=tool_options(),
    )
    if losses:
        found['losses'] = toycity_losses()
    return found


def differences(old, new, where='') -> list[str]:
    """Paths at which two records differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in sorted({*old, *new})
            for line in differences(
                old.get(key), new.get(key), f'{where}/{key}'
            )
        ]
    if isinstance(old, list) and isinstance(new, list) and old != new:
        gone = [item for item in old if item not in new]
        come = [item for item in new if item not in old]
        return [f'{where}: gone {gone[:5]}, new {come[:5]}']
    return [] if old == new else [f'{where}: {old!r} -> {new!r}']


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--write', action='store_true', help='record anew')
    args = parser.parse_args()
    import clouds_mmseg  # noqa: F401

    now = record()
    if args.write:
        FILE.parent.mkdir(parents=True, exist_ok=True)
        FILE.write_text(json.dumps(now, indent=1) + '\n')
        return 0
    lines = differences(json.loads(FILE.read_text()), now)
    print('\n'.join(lines) or 'nothing differs')
    return len(lines) > 0


if __name__ == '__main__':
    raise SystemExit(main())
