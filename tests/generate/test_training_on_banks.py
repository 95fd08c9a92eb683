"""Images made by models of diffusers, and training on them with their labels.

Through the commands: tools/generate_images.py, then tools/train.py.
"""

import pytest
import torch
from test_towers_run import read_self_training
from tiny_benchmarks import write_benchmarks

from clouds_mmseg.cli.config import dataset_configs
from clouds_mmseg.utils.image_set import read_entries
from clouds_mmseg_cli import generate, train

pytestmark = pytest.mark.usefixtures('one_process')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        root = write_benchmarks(tmp_path_factory.mktemp('benchmarks'))
        patch.setenv('CLOUDS_DATA_ROOT', str(root))
        yield root


@pytest.mark.parametrize('kind', ['label2img', 'restyle'])
def test_a_run_on_a_bank_is_resumed_exactly(
    kind, data, tmp_path, prompt_file, tiny_sd, tiny_controlnet, tiny_editor
):
    options = dict(
        label2img=[
            *('--mode', 'label2img', '--model', tiny_sd),
            *('--controlnet', tiny_controlnet, '--dataset', 'gta5'),
            *('--data-root', data / 'gta5'),
            *('--unknown-classes', 'ignore', '--ignore-border', 2),
        ],
        restyle=[
            *('--mode', 'edit', '--model', tiny_editor),
            *('--source', data / 'gta5/images'),
        ],
    )[kind]
    scenes, variants = tmp_path / 'scenes', tmp_path / 'variants'
    for out, more in (
        (scenes, ['--size', '64x64']),
        (
            variants,
            [
                *('--backend', 'diffusers', '--size', 16, '--steps', 1),
                *('--device', 'cpu', *options),
            ],
        ),
    ):
        words = ['--prompts', prompt_file, '-n', 2, '--out', out, *more]
        generate.main([str(word) for word in words])
    entries = read_entries(variants)
    assert len(entries) == 2
    assert ('label' in entries[0]) == (kind == 'label2img')

    def run(name, *words):
        work_dir = tmp_path / name
        cfg = read_self_training(f'clouds/gta2cs_{kind}.py', work_dir, scenes)
        (augment,) = (
            step
            for leaf in dataset_configs(cfg.train_dataloader.dataset)
            for step in leaf.get('pipeline') or ()
            if step.type == 'DiffusionAugment'
        )
        augment.update(bank=str(variants), prob=1.0)
        path = tmp_path / f'{name}.py'
        cfg.dump(path)
        train.main([str(path), *words])
        last = torch.load(work_dir / 'iter_3.pth', weights_only=False)
        return last['state_dict']

    whole = run('whole')
    again = run('again', '--resume', str(tmp_path / 'whole/iter_1.pth'))
    assert whole.keys() == again.keys()
    assert any(key.startswith('teacher.') for key in whole)
    for key, value in whole.items():
        assert torch.equal(value, again[key]), key
