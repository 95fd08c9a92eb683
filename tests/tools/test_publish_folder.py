"""A checkpoint published as a folder, with its model card."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image
from tiny_run import CLASSES

from clouds_mmseg import Segmenter
from clouds_mmseg.conversion import hub_folder
from clouds_mmseg.conversion.hub_folder import publish_folder
from clouds_mmseg.conversion.model_card import (
    LICENCES,
    describe_tower,
    training_sets,
)
from clouds_mmseg.models.backbones.timm import PACKAGES
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.image_set import sha256_of
from clouds_mmseg.weights.io import read_content


@pytest.fixture(scope='module')
def published(trained, tool_data, tmp_path_factory):
    """The folder of a run's last checkpoint, made by the command."""
    from clouds_mmseg_cli.command import main

    folder = tmp_path_factory.mktemp('hub') / 'tiny'
    picture = tool_data / 'dusk_val/images/000.png'
    words = ('--picture', picture, '--license', 'apache-2.0')
    main(['publish', str(trained[1]), str(folder), *map(str, words)])
    return folder


def test_the_numbers_are_those_of_the_run(published, trained):
    results = json.loads((trained[1].parent / 'results.json').read_text())
    card = ModelCard.load(published / 'README.md')
    assert card.data.license == 'apache-2.0'
    assert card.data.pipeline_tag == 'image-segmentation'
    assert card.data.datasets == ['day']
    found = {r.dataset_name: r.metric_value for r in card.data.eval_results}
    domains = results['domains']
    assert found == {
        name: pytest.approx(entry['metrics']['mIoU'], abs=0.005)
        for name, entry in domains.items()
    }
    for result in card.data.eval_results:
        assert result.dataset_args == {'protocol': 'native'}
    for name, value in found.items():
        (row,) = [
            line
            for line in card.text.splitlines()
            if line.startswith(f'| {name}')
        ]
        assert f'| {value:.2f} | 3 |' in row
    for words in (
        'Protocol `native`',
        sha256_of(published / 'model.safetensors'),
        sha256_of(trained[1]),
        'clouds predict tiny street.jpg',
        '0 ground, 1 sky, 2 box',
        'Training data day: unknown, check before you share',
    ):
        assert words in card.text, words


def test_the_folder_is_complete(published, trained, tool_data):
    names = sorted(path.name for path in published.iterdir())
    assert names == sorted(hub_folder.FILES)
    content = json.loads((published / 'config.json').read_text())
    assert content['id2label'] == dict(
        zip(map(str, range(3)), CLASSES, strict=True)
    )
    assert content['preprocessing']['mean'] == [128.0] * 3
    sha256 = sha256_of(published / 'model.safetensors')
    assert content['weights']['sha256'] == sha256
    meta = read_content(published / 'model.safetensors')['meta']
    assert (published / 'config.py').read_text() == meta['cfg']
    picture = tool_data / 'dusk_val/images/000.png'
    expected = Segmenter.from_pretrained(trained[1])(picture).overlay()
    found = Image.open(published / 'picture.jpg')
    # JPEG is not exact.
    difference = np.asarray(found, int) - np.asarray(expected, int)
    assert np.abs(difference).mean() < 8


def test_what_is_published_again_keeps_its_numbers(published, tmp_path):
    source = published / 'model.safetensors'
    publish_folder(source, tmp_path / 'a', results=[])
    assert 'Not measured' in (tmp_path / 'a/README.md').read_text()
    _, remarks = publish_folder(source, tmp_path / 'b')
    assert 'the card has no numbers' in remarks[0]


def test_numbers_of_another_checkpoint_are_refused(trained, tmp_path):
    _, checkpoint = trained
    work = checkpoint.parent
    results = json.loads((work / 'results.json').read_text())
    other = work / 'iter_2.pth'
    path = work / 'results.json'
    with pytest.raises(UserError, match='of another checkpoint: of .*iter_4'):
        publish_folder(other, tmp_path / 'a', results=[path])
    # Not asked for: a card without numbers, and the reason.
    _, remarks = publish_folder(other, tmp_path / 'a')
    assert 'numbers of another checkpoint' in remarks[0]
    card = ModelCard.load(tmp_path / 'a/README.md')
    assert card.data.eval_results is None
    assert 'Not measured for this checkpoint' in card.text

    # The same hash, and a model that computes something else.
    text = results['config']['text'].replace('64.0', '60.0')
    assert text != results['config']['text']
    changed = dict(results, config=dict(text=text))
    (tmp_path / 'changed.json').write_text(json.dumps(changed))
    with pytest.raises(UserError, match='other settings than those'):
        publish_folder(
            checkpoint, tmp_path / 'b', results=[tmp_path / 'changed.json']
        )
    corrupted = dict(results, corruptions={})
    (tmp_path / 'c.json').write_text(json.dumps(corrupted))
    with pytest.raises(UserError, match=r'c\.json has the numbers of corr'):
        publish_folder(
            checkpoint, tmp_path / 'b', results=[tmp_path / 'c.json']
        )
    (tmp_path / 'no.json').write_text('[]')
    with pytest.raises(UserError, match=r'no\.json is no results\.json'):
        publish_folder(
            checkpoint, tmp_path / 'b', results=[tmp_path / 'no.json']
        )
    assert not (tmp_path / 'b').exists()


def test_doubts_about_numbers_are_told(trained, tmp_path):
    path = trained[1].parent / 'results.json'
    results = json.loads(path.read_text())
    results['warnings'] = ['The labels\nwere odd.']
    results['domains']['dusk']['metrics']['mIoU'] = None
    (tmp_path / 'r.json').write_text(json.dumps(results))
    publish_folder(trained[1], tmp_path / 'a', results=[tmp_path / 'r.json'])
    card = ModelCard.load(tmp_path / 'a/README.md')
    assert '- The labels were odd.' in card.text
    assert '| dusk | - | 3 |' in card.text
    assert [r.dataset_name for r in card.data.eval_results] == ['day']


def test_a_part_never_looks_complete(trained, tmp_path, monkeypatch):
    target = tmp_path / 'out'
    monkeypatch.setattr(hub_folder, 'card_text', lambda card: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        publish_folder(trained[1], target)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    publish_folder(trained[1], target)
    before = (target / 'README.md').read_bytes()
    monkeypatch.setattr(hub_folder, 'card_text', lambda card: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        publish_folder(trained[1], target, overwrite=True, license='mit')
    assert (target / 'README.md').read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


def test_bad_arguments(run_tool, trained, published, tmp_path, capsys):
    _, checkpoint = trained
    bare = tmp_path / 'bare.pth'
    torch.save({'w': torch.ones(1)}, bare)
    mine = tmp_path / 'mine'
    mine.mkdir()
    (mine / 'notes.txt').write_text('')
    (tmp_path / 'broken.png').write_bytes(b'\x89PNG')
    there = shutil.copytree(published, tmp_path / 'there')
    new = tmp_path / 'new'
    for arguments, message in {
        (tmp_path / 'none.pth', new): 'no such file',
        (bare, new): 'clouds convert',
        (checkpoint, there): '--overwrite replaces',
        (checkpoint, mine, '--overwrite'): 'notes.txt',
        (checkpoint, new, '--license', 'My Own'): "--license 'My Own'",
        (checkpoint, new, '--results', 'no.json'): 'no.json',
        (checkpoint, new, '--picture', tmp_path / 'broken.png'): 'broken.png',
        (checkpoint, new, '--without-backbone'): 'ResNet',
        (bare, new, '--picture', 'run', '--config', trained[0]): 'missing',
    }.items():
        assert run_tool('publish_model.py', *arguments) == 1, arguments
        err = capsys.readouterr().err
        assert message in err and 'Traceback' not in err, err
    assert not new.exists() and (mine / 'notes.txt').exists()
    words = (checkpoint, 'x.pth', '--license', 'mit')
    assert run_tool('publish_model.py', *words) == 2
    assert 'is for a folder' in capsys.readouterr().err
    words = (checkpoint, there, '--overwrite', '--picture', 'run')
    assert run_tool('publish_model.py', *words) == 0
    assert 'by domain' in (there / 'README.md').read_text()


def test_licences_are_those_of_the_model_zoo(repo_root):
    zoo = yaml.safe_load((repo_root / 'docs/model_zoo.yaml').read_text())
    entries = [e for g in zoo['groups'] for e in g['entries']]
    for (model, tag), licence in LICENCES.items():
        words = (model, tag)
        if model == 'package':
            words = (PACKAGES[tag].file,)
        elif tag != 'openai':
            words = (tag,)
        (found,) = [
            e['licence']
            for e in entries
            if all(w in e['name'] or w == e['file'] for w in words)
        ]
        assert found == licence


@pytest.mark.parametrize(
    ('model', 'weights', 'licence', 'repository', 'frozen'),
    [
        (
            dict(
                type='CLIPBackbone',
                model_name='convnext_large_d_320',
                pretrained='laion2b_s29b_b131k_ft_soup',
            ),
            'laion2b_s29b_b131k_ft_soup',
            'MIT',
            'laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup',
            True,
        ),
        (
            dict(
                type='CLIPBackbone',
                model_name='RN50',
                pretrained='/home/me/RN50.pt',
                frozen=False,
            ),
            'the local file RN50.pt',
            'unknown',
            None,
            False,
        ),
        (
            dict(
                type='FrozenTIMMBackbone',
                model_name='convnext_base.fb_in1k',
                pretrained=True,
            ),
            'timm/convnext_base.fb_in1k',
            'apache-2.0',
            'timm/convnext_base.fb_in1k',
            True,
        ),
        (dict(type='ResNet', depth=50), None, 'unknown', None, False),
    ],
)
def test_towers(model, weights, licence, repository, frozen):
    tower = describe_tower(dict(backbone=model))
    assert tower.weights == weights and tower.licence == licence
    assert tower.repository == repository and tower.frozen is frozen


def test_data_in_the_layout_of_a_public_set_is_other_data():
    def cfg(**dataset):
        return dict(train_dataloader=dict(dataset=dataset))

    assert training_sets(cfg(type='GTA5Dataset')) == {
        'gta5': 'research and education only'
    }
    toycity = cfg(type='GTA5Dataset', domain='toycity_source')
    assert training_sets(toycity) == {'toycity_source': 'unknown'}
