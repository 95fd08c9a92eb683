import argparse
import os

import pytest
from mmengine.config import Config, ConfigDict
from mmengine.registry import PARAM_SCHEDULERS
from torch.utils.data import DataLoader, Dataset

from clouds_mmseg.cli.config import (
    add_common_arguments,
    dataset_configs,
    enable_amp,
    load_config,
    plain_errors,
    require_folder,
)
from clouds_mmseg.cli.test_options import (
    enable_tta,
    show_visualizations,
    write_predictions,
)
from clouds_mmseg.compat import IncompatibleStackError
from clouds_mmseg.utils.data_root import resolve_data_root
from clouds_mmseg.utils.errors import DataError, UserError
from clouds_mmseg.weights.locate import pretrained_dir


@pytest.fixture
def options(monkeypatch):
    """Parse a command line as the tools do."""
    # load_config sets it for good; give it back.
    monkeypatch.setenv('LOCAL_RANK', '0')

    def parse(*words):
        parser = argparse.ArgumentParser()
        add_common_arguments(parser)
        return parser.parse_args([str(word) for word in words])

    return parse


def test_the_work_dir_is_named_after_the_config(options, tiny_config):
    cfg = load_config(options(tiny_config))
    assert cfg.work_dir == os.path.join('work_dirs', 'tiny')
    assert cfg.launcher == 'none'


def test_a_work_dir_can_be_given_or_configured(options, tiny_config):
    cfg = load_config(options(tiny_config, '--work-dir', 'a'))
    assert cfg.work_dir == 'a'
    cfg = load_config(options(tiny_config, '--cfg-options', 'work_dir=b'))
    assert cfg.work_dir == 'b'


def test_settings_are_overridden(options, tiny_config):
    cfg = load_config(
        options(
            tiny_config,
            '--cfg-options',
            'train_cfg.max_iters=7',
            'val_evaluator.domains=[day]',
        )
    )
    assert cfg.train_cfg.max_iters == 7
    assert cfg.val_evaluator.domains == ['day']


def test_the_data_root_reaches_the_datasets(
    options, tiny_config, tmp_path, monkeypatch
):
    monkeypatch.setenv('CLOUDS_DATA_ROOT', '/the/option/wins')
    before = dict(os.environ)
    load_config(options(tiny_config, '--data-root', tmp_path))
    assert resolve_data_root('data/gta5') == str(tmp_path / 'gta5')
    assert os.environ == before


def test_the_pretrained_dir_reaches_the_models(
    options, tiny_config, tmp_path, monkeypatch
):
    monkeypatch.setenv('CLOUDS_PRETRAINED_DIR', '/the/option/wins')
    before = dict(os.environ)
    load_config(options(tiny_config, '--pretrained-dir', tmp_path))
    assert pretrained_dir() == tmp_path
    assert os.environ == before


def test_a_config_of_the_zoo_is_named_by_its_scope(options):
    name = 'segformer_mit-b0_8xb1-160k_cityscapes-1024x1024'
    args = options(f'mmseg::segformer/{name}.py')
    cfg = load_config(args)
    assert cfg.model.decode_head.type == 'SegformerHead'
    assert cfg.work_dir == os.path.join('work_dirs', name)
    args.benchmark = 'cs2acdc'
    args.cfg_options = dict(test_dataloader=dict(num_workers=1))
    cfg = load_config(args)
    assert cfg.work_dir == os.path.join('work_dirs', f'{name}_on_cs2acdc')
    assert cfg.test_dataloader.num_workers == 1
    assert cfg.test_dataloader.batch_size == 1


def test_missing_paths_are_named(options, tiny_config):
    with pytest.raises(UserError, match=r'no config nowhere\.py'):
        load_config(options('nowhere.py'))
    with pytest.raises(UserError, match='--data-root /no/where'):
        load_config(options(tiny_config, '--data-root', '/no/where'))


def test_a_launcher_that_has_started_nothing(
    options, tiny_config, monkeypatch
):
    for launcher, variable in (('pytorch', 'RANK'), ('slurm', 'SLURM_PROCID')):
        monkeypatch.delenv(variable, raising=False)
        with pytest.raises(UserError, match=f'{launcher} .* {variable} is'):
            load_config(options(tiny_config, '--launcher', launcher))


def test_an_output_folder_is_checked_before_the_work(tmp_path):
    file = tmp_path / 'file'
    file.touch()
    for folder in (file, file / 'below'):
        with pytest.raises(UserError, match='--out .*file is a file; give a'):
            require_folder('--out', folder)
    require_folder('--out', tmp_path / 'new' / 'folder')
    require_folder('--out', None)
    assert not (tmp_path / 'new').exists()


def test_inheritance_from_mmseg_works(options, tmp_path):
    path = tmp_path / 'child.py'
    path.write_text("_base_ = ['mmseg::_base_/models/fcn_r50-d8.py']\n")
    assert load_config(options(path)).model.backbone.depth == 50


def test_amp_replaces_the_plain_wrapper_only():
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type='SGD'))))
    enable_amp(cfg)
    assert cfg.optim_wrapper.type == 'BF16OptimWrapper'
    enable_amp(cfg)
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    enable_amp(cfg)
    assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
    cfg.optim_wrapper.type = 'ApexOptimWrapper'
    with pytest.raises(UserError, match='--amp .*ApexOptimWrapper'):
        enable_amp(cfg)


def test_configs_of_datasets_are_found_in_wrappers():
    a, b = dict(type='A'), dict(type='B')
    tree = ConfigDict(
        type='ConcatDataset',
        datasets=[dict(type='RepeatDataset', dataset=a), b],
    )
    assert [c.type for c in dataset_configs(tree)] == ['A', 'B']


@pytest.mark.parametrize(
    'error',
    [
        UserError('say this'),
        FileNotFoundError('say this'),
        IncompatibleStackError('say this'),
    ],
)
def test_mistakes_are_one_message(error, capsys, monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    with pytest.raises(SystemExit) as caught, plain_errors():
        raise error
    assert caught.value.code == 1
    assert capsys.readouterr().err == 'error: say this\n'


def test_what_the_package_raises_is_one_message(capsys, monkeypatch):
    from clouds_mmseg.engine.hooks.visualization import PredictionPicturesHook

    monkeypatch.setenv('RANK', '3')
    with pytest.raises(SystemExit), plain_errors():
        PredictionPicturesHook(width=0)
    err = capsys.readouterr().err
    assert err == 'error (process 3): width must be positive, got 0\n'


def test_what_the_system_refuses_is_one_message(tmp_path, capsys):
    with pytest.raises(SystemExit), plain_errors():
        (tmp_path / 'file').write_text('')
        (tmp_path / 'file' / 'below').mkdir()
    err = capsys.readouterr().err
    assert err == f'error: {tmp_path}/file/below: Not a directory\n'


@pytest.mark.parametrize(
    ('part', 'said'),
    [
        (
            dict(type='ConstantLR', optimizer=None, factor=2),
            'ConstantLR(optimizer=None, factor=2) of the config cannot be '
            'built: ValueError: ',
        ),
        # str() of a KeyError is the repr of its message.
        (dict(type='NoSuchLR'), 'error: NoSuchLR is not in the '),
    ],
)
def test_what_cannot_be_built_is_one_message(part, said, capsys, monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    with pytest.raises(SystemExit), plain_errors():
        PARAM_SCHEDULERS.build(part)
    assert said in capsys.readouterr().err


class Damaged(Dataset):
    """One sample, which cannot be read."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        try:
            raise OSError('unexpected end')
        except OSError as error:
            raise DataError('image a.png is damaged:\n  fetch it') from error


def test_an_error_of_a_worker_is_one_message(capsys, monkeypatch):
    monkeypatch.delenv('RANK', raising=False)
    with pytest.raises(SystemExit), plain_errors():
        next(iter(DataLoader(Damaged(), num_workers=1)))
    err = capsys.readouterr().err
    assert err == 'error: image a.png is damaged:\n  fetch it\n'


def test_interruption_is_no_traceback(capsys):
    for stop, said in (
        (KeyboardInterrupt(), 'stopped by Ctrl-C\n'),
        (KeyboardInterrupt('the same command continues'), 'the same comma'),
    ):
        with pytest.raises(SystemExit) as caught, plain_errors():
            raise stop
        assert caught.value.code == 130
        assert capsys.readouterr().err.startswith(said)


def test_defects_keep_their_traceback(monkeypatch):
    with pytest.raises(ZeroDivisionError), plain_errors():
        1 / 0  # noqa: B018
    # Inside the package.
    with pytest.raises(AttributeError), plain_errors():
        enable_amp(None)
    monkeypatch.setenv('CLOUDS_TRACEBACK', '1')
    with pytest.raises(UserError), plain_errors():
        raise UserError('x')


def test_predictions_go_where_they_are_asked_for():
    for evaluator in (dict(type='A'), [dict(type='A'), dict(type='B')]):
        cfg = Config(dict(test_evaluator=evaluator))
        write_predictions(cfg, 'out')
        found = cfg.test_evaluator
        for entry in found if isinstance(found, list) else [found]:
            assert entry.output_dir == 'out'


def test_pictures_are_asked_of_one_hook():
    hook = dict(type='PredictionPicturesHook', width=99)
    cfg = Config(dict(custom_hooks=[hook, dict(type='Other')]))
    show_visualizations(cfg, folder='f', show=True, wait_time=3)
    assert [h.type for h in cfg.custom_hooks] == [
        'Other',
        'PredictionPicturesHook',
    ]
    changed = cfg.custom_hooks[1]
    assert (changed.width, changed.per_domain) == (99, None)
    assert (changed.out_dir, changed.show, changed.wait_time) == ('f', True, 3)
    cfg = Config(dict())
    show_visualizations(cfg)
    assert 'out_dir' not in cfg.custom_hooks[0]


def tta_config(*pipeline, **extra):
    dataset = dict(type='A', pipeline=list(pipeline))
    return Config(
        dict(
            model=dict(type='M'),
            test_dataloader=dict(dataset=dict(datasets=[dataset])),
            **extra,
        )
    )


def test_mirrored_images_are_the_default_augmentation():
    cfg = tta_config(dict(type='Load'), dict(type='PackDGInputs'))
    enable_tta(cfg)
    load, augment = cfg.test_dataloader.dataset.datasets[0].pipeline
    assert load.type == 'Load'
    assert [t.prob for t in augment.transforms[0]] == [0, 1]
    assert augment.transforms[1][0].type == 'PackDGInputs'
    assert cfg.model.type == 'SegTTAModel'
    assert cfg.model.module.type == 'M'


def test_a_configured_augmentation_is_used():
    own = [dict(type='Own')]
    cfg = tta_config(
        dict(type='Load'), tta_pipeline=own, tta_model=dict(type='Mean')
    )
    enable_tta(cfg)
    assert cfg.test_dataloader.dataset.datasets[0].pipeline == own
    assert cfg.model.type == 'Mean'


def test_augmentation_needs_a_packing_step():
    with pytest.raises(UserError, match="--tta .*'Load'"):
        enable_tta(tta_config(dict(type='Load')))


def test_augmented_predictions_do_not_depend_on_mirroring(
    build, tiny_config, trained
):
    from tiny_run import read_config

    from clouds_mmseg.cli.config import build_runner

    cfg = read_config(
        tiny_config,
        trained.parent / 'tta',
        load_from=str(trained / 'iter_4.pth'),
        custom_hooks=[],
    )
    enable_tta(cfg)
    runner = build_runner(cfg)
    runner.test()
    # The mean over an image and its mirror image is mirror symmetric.
    batch = next(iter(runner.test_dataloader))
    one = runner.model.test_step(batch)[0].pred_sem_seg.data.squeeze()
    batch['inputs'] = batch['inputs'][::-1]
    samples = batch['data_samples'][::-1]
    flips = (
        [s.get('flip', False) for s in samples[0]],
        [s.get('flip', False) for s in samples[1]],
    )
    assert flips == ([True, True], [False, False])
    batch['data_samples'] = samples
    two = runner.model.test_step(batch)[0].pred_sem_seg.data.squeeze()
    assert one.equal(two)
