"""Label maps of data sets for generation, and commands that make banks."""

import json
import shlex

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from clouds_mmseg.engine.image_sources import dataset_pixels, dataset_sources
from clouds_mmseg.engine.self_training_runner import generation_command
from clouds_mmseg.generate.dense_prompts import naming_shares
from clouds_mmseg.utils.errors import DataError, UserError
from clouds_mmseg_cli.generate import parse_args
from clouds_mmseg_cli.prompts import parse_args as parse_prompts


@pytest.fixture
def gta5(tmp_path):
    """Two images of GTA5's layout: label ids 7, road, and 23, sky."""
    for name in ('images', 'labels'):
        (tmp_path / 'gta5' / name).mkdir(parents=True)
    label = np.full((4, 6), 7, np.uint8)
    label[0] = 23
    label[3, 0] = 0
    for number in (1, 2):
        name = f'{number:05d}.png'
        Image.fromarray(label).save(tmp_path / 'gta5/labels' / name)
        Image.new('RGB', (6, 4)).save(tmp_path / 'gta5/images' / name)
    return tmp_path / 'gta5'


def test_labels_as_they_are_published(gta5):
    sources = dataset_sources('gta5', str(gta5))
    assert [name for name, _ in sources.images] == ['00001.png', '00002.png']
    assert sources.root == str(gta5 / 'images')
    label = sources.read(sources.labels['00002.png'])
    assert label.dtype == np.uint8
    assert set(np.unique(label)) == {0, 10, 255}
    assert sources.classes[10] == 'sky'
    assert sources.meaning.startswith('gta5, ')


def test_class_statistics_of_a_source(gta5, tmp_path):
    pixels = dataset_pixels('gta5', str(gta5))
    assert (pixels['road'], pixels['sky'], pixels['train']) == (34, 12, 0)
    shares = naming_shares(pixels, 1)
    assert shares['train'] > shares['road']
    path = tmp_path / 'pixels.json'
    path.write_text(json.dumps(dict(road=5)))
    assert dataset_pixels(str(path)) == dict(road=5)
    path.write_text('{"road": -1}')
    with pytest.raises(UserError, match='number of pixels, such as'):
        dataset_pixels(str(path))
    with pytest.raises(UserError, match='nowhere is neither a data set'):
        dataset_pixels('nowhere')


def test_data_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match='gta5'):
        dataset_sources('gta5', str(tmp_path / 'none'))
    with pytest.raises(UserError, match="no data set 'gta6'; those known"):
        dataset_sources('gta6')
    with pytest.raises(UserError, match="does not take split='val'"):
        dataset_sources('gta5', str(tmp_path), 'val')


@pytest.mark.parametrize(
    'name',
    ['toycity/clouds', 'clouds/gta2cs_restyle', 'clouds/cs2acdc_label2img'],
)
def test_the_commands_of_banks_can_be_run(name, repo_root):
    cfg = Config.fromfile(repo_root / 'configs' / f'{name}.py')
    for bank in map(dict, cfg.banks):
        bank.pop('make', None)
        written, made = generation_command(bank.pop('out'), bank).split(' && ')
        prompts = parse_prompts(shlex.split(written)[2:])
        args = parse_args(shlex.split(made)[2:])
        assert args.prompts == prompts.out
        assert args.num == bank['num'] and args.backend == bank['backend']
        # Of a kind that the mode can use.
        kinds = dict(edit='edit', label2img='restyle')
        assert prompts.kind == kinds.get(args.mode, 'short')
        assert args.keep_labels == bank.get('keep_labels', False)


def test_options_of_the_dataset_are_refused_without_it(capsys):
    for options, message in (
        (['--split', 'train'], 'belong to --dataset'),
        (['--dataset', 'gta5', '--labels', 'x'], 'in place of --labels'),
    ):
        with pytest.raises(SystemExit):
            parse_args(['--prompts', 'p', '-n', '1', '--out', 'o', *options])
        assert message in capsys.readouterr().err
