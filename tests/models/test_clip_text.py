import open_clip
import pytest
import torch
from torch.nn import functional as F

from clouds_mmseg.models import text_embeddings as clip_text
from clouds_mmseg.models.backbones.clip_source import find_clip
from clouds_mmseg.models.text_embeddings import class_text_embeddings
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.load import CheckpointMismatchError

WORDS = ['road', ['car', 'van', 'taxi'], ['sky']]
TEMPLATES = ['a photo of a {}.', 'the {} at night']


def zero_shot_row(model, name, templates):
    """CLIP's zero-shot recipe, with open_clip's own model and tokenizer."""
    tokens = open_clip.get_tokenizer('tiny-rn')([t(name) for t in templates])
    with torch.no_grad():
        rows = model.encode_text(tokens)
    rows = rows / rows.norm(dim=1, keepdim=True)
    return rows.mean(0) / rows.mean(0).norm()


@pytest.fixture
def weights(tiny_clip, tmp_path):
    model = tiny_clip('tiny-rn')
    torch.save(model.state_dict(), tmp_path / 'clip.pt')
    return model, str(tmp_path / 'clip.pt')


def embed(path, tmp_path, classes=WORDS, templates=TEMPLATES, **kwargs):
    arguments = {'model_name': 'tiny-rn', 'cache_dir': tmp_path / 'cache'}
    return class_text_embeddings(
        classes,
        pretrained=path,
        templates=templates,
        **(arguments | kwargs),
    )


def test_equals_the_zero_shot_recipe(weights, tmp_path):
    model, path = weights
    rows, counts = embed(path, tmp_path)
    assert counts == [1, 3, 1]
    assert rows.shape == (5, 24) and rows.dtype == torch.float32
    assert not rows.requires_grad
    templates = [t.format for t in TEMPLATES]
    names = ['road', 'car', 'van', 'taxi', 'sky']
    for row, name in zip(rows, names, strict=True):
        expected = zero_shot_row(model, name, templates)
        torch.testing.assert_close(row, expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(5))
    # Rows differ by more than rounding: the test can fail.
    assert (rows[1:] - rows[:-1]).abs().amax(1).min() > 1e-3


def test_default_templates_are_those_of_open_clip(weights, tmp_path):
    model, path = weights
    rows, _ = embed(path, tmp_path, classes=['bus'], templates=None)
    expected = zero_shot_row(model, 'bus', open_clip.OPENAI_IMAGENET_TEMPLATES)
    torch.testing.assert_close(rows[0], expected, atol=1e-6, rtol=0)


def test_many_prompts_go_through_in_batches(weights, tmp_path, monkeypatch):
    _, path = weights
    rows, _ = embed(path, tmp_path, cache_dir=tmp_path / 'a')
    monkeypatch.setattr(clip_text, '_BATCH', 3)
    again, _ = embed(path, tmp_path, cache_dir=tmp_path / 'b')
    torch.testing.assert_close(again, rows, atol=1e-6, rtol=0)


@pytest.fixture
def towers(monkeypatch):
    """Count how often a text tower is built."""
    built = []
    real = clip_text.build_text

    def build(*args, **kwargs):
        built.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(clip_text, 'build_text', build)
    return built


def test_the_tower_is_paid_for_once(weights, tmp_path, towers):
    _, path = weights
    rows, counts = embed(path, tmp_path)
    again, again_counts = embed(path, tmp_path)
    assert torch.equal(rows, again) and counts == again_counts
    assert len(towers) == 1
    # The same prompts, grouped otherwise, are the same content.
    _, counts = embed(
        path, tmp_path, [['road', 'car'], ['van', 'taxi', 'sky']]
    )
    assert counts == [2, 3] and len(towers) == 1


def test_any_other_content_is_computed(weights, tmp_path, towers):
    model, path = weights
    embed(path, tmp_path)
    embed(path, tmp_path, templates=['a {}', 'b {}'])
    embed(path, tmp_path, classes=['road', ['car', 'van', 'bus'], 'sky'])
    assert len(towers) == 3
    # The same name, other weights.
    with torch.no_grad():
        model.text_projection.mul_(-1)
    torch.save(model.state_dict(), path)
    rows, _ = embed(path, tmp_path)
    assert len(towers) == 4
    expected = zero_shot_row(model, 'road', [t.format for t in TEMPLATES])
    torch.testing.assert_close(rows[0], expected, atol=1e-6, rtol=0)


def test_damaged_cache_is_made_anew(weights, tmp_path, towers):
    _, path = weights
    rows, _ = embed(path, tmp_path)
    (cached,) = (tmp_path / 'cache').iterdir()
    for damage in (b'', cached.read_bytes()[:40], b'<html>'):
        cached.write_bytes(damage)
        assert torch.equal(embed(path, tmp_path)[0], rows)
    assert len(towers) == 4
    assert embed(path, tmp_path)[0].equal(rows) and len(towers) == 4
    assert [p.name for p in (tmp_path / 'cache').iterdir()] == [cached.name]


def test_unwritable_cache_is_no_error(weights, tmp_path):
    _, path = weights
    (tmp_path / 'cache').write_text('a file where the folder should be')
    rows, _ = embed(path, tmp_path)
    assert rows.shape == (5, 24)


def test_cache_lies_in_the_users_cache_folder(weights, tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
    embed(weights[1], tmp_path, cache_dir=None)
    (cached,) = (tmp_path / 'xdg' / 'clouds_mmseg' / 'text').iterdir()
    assert cached.name.startswith('tiny-rn-')


def test_a_known_tag_in_the_cache_needs_no_weights(tmp_path, towers):
    # Written as if the weights had been here once.
    prompts = [['a bus']]
    source = find_clip('RN50', 'openai', weights=False)
    path = clip_text._cache_file(prompts, source, tmp_path)
    row = F.normalize(torch.randn(1, 1024), dim=1)
    clip_text._write_cache(path, row)
    rows, _ = class_text_embeddings(
        ['bus'],
        model_name='RN50',
        pretrained='openai',
        templates=['a {}'],
        cache_dir=tmp_path,
    )
    assert torch.equal(rows, row) and towers == []


def test_a_word_of_two_classes_is_told(weights, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(
        'clouds_mmseg.models.text_embeddings.print_log',
        lambda text, **_: said.append(text),
    )
    embed(weights[1], tmp_path, ['road', ['car', 'van', 'van'], ['Road ']])
    assert [text for text in said if 'both' in text] == [
        "'Road ' stands in both classes[0] and classes[2] of the text "
        'embeddings: where it fits best, the first always wins'
    ]


def test_random_weights_are_not_cached(tmp_path):
    rows, _ = embed(None, tmp_path)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(5))
    assert not (tmp_path / 'cache').exists()


def test_text_tower_in_its_own_module(weights, tmp_path):
    # CustomTextCLIP keeps it under `text`, older files have it on top.
    _, path = weights
    rows, _ = embed(path, tmp_path)
    custom, _ = embed(path, tmp_path, model_name='tiny-rn-custom')
    torch.testing.assert_close(custom, rows, atol=1e-6, rtol=0)
    model = open_clip.create_model('tiny-rn-custom')
    torch.save(model.state_dict(), path)
    tokens = open_clip.get_tokenizer('tiny-rn')(['a sky'])
    with torch.no_grad():
        expected = model.eval().encode_text(tokens, normalize=True)
    own, _ = embed(
        path, tmp_path, ['sky'], ['a {}'], model_name='tiny-rn-custom'
    )
    torch.testing.assert_close(own, expected, atol=1e-6, rtol=0)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.filterwarnings('ignore::FutureWarning')
def test_archives_of_openai_get_quick_gelu(tiny_clip, tmp_path):
    model = tiny_clip('tiny-rn', force_quick_gelu=True)
    inputs = (torch.zeros(1, 3, 64, 64), torch.zeros(1, 8).long())
    path = tmp_path / 'archive.pt'
    torch.jit.save(torch.jit.trace(model, inputs), path)
    rows, _ = embed(str(path), tmp_path)
    expected = zero_shot_row(model, 'road', [t.format for t in TEMPLATES])
    torch.testing.assert_close(rows[0], expected, atol=1e-6, rtol=0)
    torch.save(model.state_dict(), path)
    plain, _ = embed(str(path), tmp_path)
    assert (plain - rows).abs().max() > 1e-4


def test_tags_trained_with_quick_gelu_are_known():
    def trained_with_it(*names):
        return find_clip(*names, weights=False).quick_gelu

    assert trained_with_it('RN50', 'openai')
    assert not trained_with_it(
        'convnext_large_d_320', 'laion2b_s29b_b131k_ft_soup'
    )
    assert not trained_with_it('RN50', None)


def test_weights_of_another_text_tower(weights, tmp_path):
    model, path = weights
    content = dict(model.state_dict())
    del content['ln_final.weight']
    # Neither of these says anything about text.
    del content['logit_scale']
    del content['visual.conv1.weight']
    torch.save(content, path)
    with pytest.raises(CheckpointMismatchError, match=path) as error:
        embed(path, tmp_path)
    assert set(error.value.missing) == {'ln_final.weight'}
    assert not error.value.unexpected and not error.value.shape_mismatches


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(classes='road'), 'classes must be a list'),
        (dict(classes=[]), 'classes must be a list'),
        (dict(classes=['a', []]), r'classes\[1\] .* at least one'),
        (dict(classes=['a', [3]]), r'classes\[1\]'),
        (dict(classes=['a', ['b', '']]), r'classes\[1\]'),
        (dict(templates='a {}'), 'templates must be a list'),
        (dict(templates=[]), 'templates must be a list'),
        (dict(templates=['a photo']), "one '{}' .* 'a photo'"),
        (dict(model_name='RN5'), 'Near: '),
        (dict(model_name='RN50', path='opanai'), 'its tags'),
        (dict(model_name='RN50', path='openai'), 'timm/resnet50_clip.openai'),
        (dict(model_name='ViT-B-16-SigLIP', path=None), 'tokenizer of'),
        (
            dict(model_name='xlm-roberta-base-ViT-B-32', path=None),
            'text tower of xlm',
        ),
    ],
)
def test_bad_input(kwargs, message, tmp_path):
    path = kwargs.pop('path', None)
    with pytest.raises(UserError, match=message):
        embed(path, tmp_path, **kwargs)
