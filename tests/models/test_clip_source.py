"""Every way in which open_clip names a model and its weights."""

import json
import shutil

import open_clip
import pytest
import torch
from open_clip.push_to_hf_hub import save_for_hf
from open_clip.tokenizer import HFTokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from clouds_mmseg.models import CLIPBackbone
from clouds_mmseg.models.backbones.clip_source import find_clip
from clouds_mmseg.models.text_embeddings import class_text_embeddings
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.io import MissingWeightsError

IMAGE = torch.linspace(-1, 1, 3 * 64 * 64).view(1, 3, 64, 64)
WORDS = ['road', 'car', 'sky']
TEMPLATES = ['a photo of a {}.']


class NoTokenizer:
    """CLIP's own tokenizer comes with open_clip, not with the model."""

    def save_pretrained(self, folder):
        pass


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """A tiny model in the folder that open_clip's own exporter writes."""
    folder = tmp_path_factory.mktemp('models') / 'tiny'
    torch.manual_seed(0)
    model = open_clip.create_model('tiny-rn').eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_var.uniform_(0.5, 2)
    open_clip.set_model_preprocess_cfg(
        model, dict(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))
    )
    config = open_clip.get_model_config('tiny-rn')
    save_for_hf(model, NoTokenizer(), config, str(folder))
    return model, folder


def copy(saved, tmp_path):
    return shutil.copytree(saved[1], tmp_path / 'copy')


def in_hub_cache(folder, cache, repository='o/tiny'):
    """Put a folder where the hub's client keeps what it has downloaded."""
    root = cache / f'models--{repository.replace("/", "--")}'
    shutil.copytree(folder, root / 'snapshots' / 'c0ffee')
    (root / 'refs').mkdir()
    (root / 'refs' / 'main').write_text('c0ffee')


def same_maps(backbone, model):
    with torch.no_grad():
        # Another layout would add up in another order.
        expected = model.visual.forward_intermediates(
            IMAGE.contiguous(memory_format=torch.channels_last),
            intermediates_only=True,
            output_fmt='NCHW',
        )['image_intermediates'][-4:]
        found = backbone.eval()(IMAGE)
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_folder_says_which_model_it_is(saved):
    model, folder = saved
    for arguments in (
        dict(pretrained=f'local-dir:{folder}'),
        dict(pretrained=str(folder)),
        dict(model_name=f'local-dir:{folder}'),
        dict(model_name='tiny-rn', pretrained=str(folder)),
        # open_clip itself would pass over the second.
        dict(
            model_name=f'local-dir:{folder}', pretrained=f'local-dir:{folder}'
        ),
    ):
        backbone = CLIPBackbone(**arguments)
        assert backbone.weights_loaded
        assert same_maps(backbone, model)
        assert backbone.channels == [64, 128, 256, 512]
        assert backbone.expects[0] == pytest.approx([127.5, 102, 76.5])


def test_open_clip_itself_loads_the_same(saved):
    model, folder = saved
    theirs = open_clip.create_model(f'local-dir:{folder}').eval()
    assert same_maps(CLIPBackbone(pretrained=str(folder)), theirs)


@pytest.fixture
def hub(saved, tmp_path, monkeypatch):
    """The hub's cache, with the tiny model as o/tiny."""
    monkeypatch.delenv('CLOUDS_PRETRAINED_DIR', raising=False)
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    cache = tmp_path / 'hub'
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(cache))
    in_hub_cache(saved[1], cache)
    return cache


@pytest.mark.parametrize('argument', ['pretrained', 'model_name'])
def test_a_repository_in_the_hubs_cache(saved, hub, argument):
    backbone = CLIPBackbone(**{argument: 'hf-hub:o/tiny'})
    assert same_maps(backbone, saved[0])


def test_a_repository_in_the_pretrained_folder(saved, tmp_path, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setenv('CLOUDS_PRETRAINED_DIR', str(tmp_path))
    shutil.copytree(saved[1], tmp_path / 'o' / 'tiny')
    assert same_maps(CLIPBackbone(pretrained='hf-hub:o/tiny'), saved[0])


def test_a_revision(saved, hub):
    refs = hub / 'models--o--tiny' / 'refs'
    (refs / 'main').rename(refs / 'v1')
    with pytest.raises(MissingWeightsError):
        CLIPBackbone(pretrained='hf-hub:o/tiny')
    assert same_maps(CLIPBackbone(pretrained='hf-hub:o/tiny@v1'), saved[0])


def test_a_repository_that_is_not_here(hub):
    with pytest.raises(MissingWeightsError) as error:
        CLIPBackbone(pretrained='hf-hub:o/other')
    message = str(error.value)
    assert message.startswith('hf-hub:o/other: open_clip_config.json is not')
    assert 'hf download o/other --local-dir DIR/o/other' in message
    (hub / 'models--o--tiny/snapshots/c0ffee').joinpath(
        'open_clip_model.safetensors'
    ).unlink()
    # The other file of the repository would do.
    assert CLIPBackbone(pretrained='hf-hub:o/tiny').weights_loaded
    (hub / 'models--o--tiny/snapshots/c0ffee').joinpath(
        'open_clip_pytorch_model.bin'
    ).unlink()
    with pytest.raises(MissingWeightsError, match='pytorch_model.bin is not'):
        CLIPBackbone(pretrained='hf-hub:o/tiny')


def embed(tmp_path, **arguments):
    arguments = {'pretrained': None, **arguments}
    return class_text_embeddings(
        WORDS, templates=TEMPLATES, cache_dir=tmp_path / 'text', **arguments
    )[0]


def test_the_text_classifier_takes_the_same_names(saved, hub, tmp_path):
    model, folder = saved
    tokens = open_clip.get_tokenizer('tiny-rn')(
        [TEMPLATES[0].format(word) for word in WORDS]
    )
    with torch.no_grad():
        expected = torch.nn.functional.normalize(model.encode_text(tokens))
    for arguments in (
        dict(pretrained=str(folder)),
        dict(pretrained=f'local-dir:{folder}'),
        dict(model_name=f'local-dir:{folder}'),
        dict(pretrained='hf-hub:o/tiny'),
        dict(model_name='tiny-rn', pretrained='hf-hub:o/tiny'),
    ):
        found = embed(tmp_path, **arguments)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    # Kept by content: once for the folder, once for the repository.
    assert len(list((tmp_path / 'text').iterdir())) == 2


def test_embeddings_of_a_repository_outlive_its_weights(hub, tmp_path):
    first = embed(tmp_path, pretrained='hf-hub:o/tiny')
    snapshot = hub / 'models--o--tiny/snapshots/c0ffee'
    for path in snapshot.glob('open_clip_*model*'):
        path.unlink()
    assert embed(tmp_path, pretrained='hf-hub:o/tiny').equal(first)


def test_a_folder_with_a_tokenizer_of_its_own(saved, tmp_path):
    folder = copy(saved, tmp_path)
    words = Tokenizer(models.WordLevel({'[PAD]': 0, 'road': 7}, '[PAD]'))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token='[PAD]'
    ).save_pretrained(folder)
    path = folder / 'open_clip_config.json'
    content = json.loads(path.read_text())
    content['model_cfg']['text_cfg']['hf_tokenizer_name'] = 'o/elsewhere'
    path.write_text(json.dumps(content))
    model = open_clip.create_model(f'local-dir:{folder}').eval()
    tokens = HFTokenizer(str(folder), context_length=8)(['the road'])
    assert tokens.tolist() == [[0, 7, 0, 0, 0, 0, 0, 0]]
    with torch.no_grad():
        expected = torch.nn.functional.normalize(model.encode_text(tokens))
    found, _ = class_text_embeddings(
        ['road'],
        pretrained=str(folder),
        templates=['the {}'],
        cache_dir=tmp_path / 'text',
    )
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_a_folder_with_nothing_but_weights(saved, tmp_path):
    folder = copy(saved, tmp_path)
    (folder / 'open_clip_config.json').unlink()
    assert same_maps(CLIPBackbone('tiny-rn', str(folder)), saved[0])
    with pytest.raises(UserError, match='or name the model with model_name='):
        CLIPBackbone(pretrained=str(folder))


def test_the_file_is_the_one_that_open_clip_takes(saved, tmp_path):
    folder = copy(saved, tmp_path)
    source = find_clip(None, str(folder))
    assert source.weights.name == 'open_clip_model.safetensors'
    (folder / 'open_clip_model.safetensors').rename(folder / 'a.safetensors')
    assert find_clip(None, str(folder)).weights.suffix == '.bin'
    (folder / 'open_clip_pytorch_model.bin').unlink()
    assert find_clip(None, str(folder)).weights.name == 'a.safetensors'
    (folder / 'b.bin').touch()
    with pytest.raises(UserError, match=r'several .*a.safetensors, b.bin'):
        find_clip(None, str(folder))


def test_a_checkpoint_in_place_of_the_weights(saved, tmp_path):
    folder = copy(saved, tmp_path)
    for path in folder.glob('open_clip_*model*'):
        path.unlink()
    with pytest.raises(UserError, match='holds no weights'):
        CLIPBackbone(pretrained=str(folder))
    coming = dict(load_pretrained=False)
    CLIPBackbone(pretrained=str(folder), **coming)
    shutil.rmtree(folder)
    # On another machine the name is enough.
    CLIPBackbone('tiny-rn', str(folder), **coming)
    CLIPBackbone('tiny-rn', f'local-dir:{folder}', **coming)
    with pytest.raises(UserError, match='there is no folder'):
        CLIPBackbone(pretrained=f'local-dir:{folder}', **coming)


def test_another_model_than_the_folders(saved):
    with pytest.raises(UserError) as error:
        CLIPBackbone('tiny-convnext', str(saved[1]))
    message = str(error.value)
    assert f'{saved[1]} is another model than model_name=' in message
    assert 'Leave model_name out or correct it' in message


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(), 'model_name must be a model of open_clip'),
        (dict(pretrained='openai'), 'it may be left out'),
        (dict(pretrained='local-dir:'), 'names nothing behind'),
        (dict(model_name='hf-hub:'), 'names nothing behind'),
        (dict(pretrained='local-dir:/no/where'), 'no folder /no/where'),
        (dict(model_name='hf-hub:a/b', pretrained='openai'), 'Leave one'),
        (dict(model_name='RN50', pretrained='timm/resnet50_clip.openai'),
         "is written 'hf-hub:timm/resnet50_clip.openai'"),
        (dict(model_name='RN50', pretrained='hf_hub:a/b'),
         "Write 'hf-hub:a/b'?"),
        (dict(model_name='RN50', pretrained='weights/RN50.pt'),
         'no such file or folder'),
        (dict(model_name='hf_hub:a/b'), "Write 'hf-hub:a/b'?"),
    ],
)  # fmt: skip
def test_names_that_name_nothing(arguments, message):
    with pytest.raises(UserError) as error:
        CLIPBackbone(**arguments)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (dict(model_type='clip'), "transformers (model_type 'clip')"),
        (dict(architecture='resnet50'), 'a model of timm (resnet50)'),
    ],
)
def test_another_layout_is_named(saved, tmp_path, content, message):
    folder = copy(saved, tmp_path)
    (folder / 'open_clip_config.json').unlink()
    (folder / 'config.json').write_text(json.dumps(content))
    # The weights are not read as those of a model that is named beside it.
    for name in (None, 'tiny-rn'):
        with pytest.raises(UserError) as error:
            CLIPBackbone(name, str(folder))
        assert message in str(error.value)


def test_a_damaged_config(saved, tmp_path):
    folder = copy(saved, tmp_path)
    path = folder / 'open_clip_config.json'
    for text in ('{', '[]', '{"model_cfg": {"embed_dim": 24}}', '{}'):
        path.write_text(text)
        with pytest.raises(UserError, match='is no config of an open_clip'):
            CLIPBackbone(pretrained=str(folder))


def test_a_tag_comes_before_a_folder_of_its_name(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copy(saved, tmp_path).rename(tmp_path / 'openai')
    source = find_clip('RN50', 'openai', weights=False)
    assert source.identity == 'tag openai'
    assert find_clip('tiny-rn', 'openai').weights.parent.name == 'openai'
