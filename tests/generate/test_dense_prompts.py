"""Dense prompts, rare classes, diversity, and the limit of a text encoder."""

import pytest
from generate_helpers import build_pipeline

from clouds_mmseg.generate import dense_prompts
from clouds_mmseg.generate.dense_prompts import (
    DETAILED,
    KINDS,
    MAX_WORDS,
    make_prompts,
    naming_shares,
)
from clouds_mmseg.generate.pipeline_parts import TextLimit
from clouds_mmseg.generate.prompt_report import clip_spread, diversity
from clouds_mmseg.generate.prompts import (
    class_coverage,
    classes_in,
    template_prompts,
)
from clouds_mmseg.utils.cityscapes import CLASSES
from clouds_mmseg.utils.errors import GenerationError


def test_short_prompts_are_those_of_before():
    assert make_prompts('short', 40, seed=3) == template_prompts(40, seed=3)


@pytest.mark.parametrize('kind', KINDS)
def test_a_short_list_is_the_beginning_of_a_longer_one(kind):
    long, _ = make_prompts(kind, 60, seed=2)
    assert make_prompts(kind, 25, seed=2)[0] == long[:25]
    assert len(set(long)) == 60
    assert make_prompts(kind, 25, seed=1)[0] != long[:25]


def test_dense_prompts_name_more_and_fit():
    dense, _ = make_prompts('dense', 300)
    short, _ = make_prompts('short', 300)
    assert max(len(p.split()) for p in dense) <= MAX_WORDS
    assert diversity(dense)['classes'] > 1.5 * diversity(short)['classes']
    counts = class_coverage(dense)
    assert min(counts.values()) > 300 * 8 / 19 * 0.85


@pytest.mark.parametrize('name', CLASSES)
def test_every_detailed_thing_is_recognised(name):
    for thing in DETAILED[name]:
        assert name in classes_in(thing), thing


def test_rare_classes_are_named_as_often_as_the_source_lacks_them():
    pixels = {name: 10**6 for name in CLASSES}
    pixels.update(road=10**8, train=0, bicycle=10**4)
    shares = naming_shares(pixels, 4)
    assert sum(shares.values()) == pytest.approx(4)
    assert shares['road'] == pytest.approx(shares['car'] / 10)
    # The rarest ones would be named more often than always.
    assert shares['train'] == shares['bicycle'] == 1
    prompts, _ = make_prompts(
        'dense', 400, shares=shares, per_prompt=4, fits=lambda text: True
    )
    counts = class_coverage(prompts)
    assert counts['train'] == counts['bicycle'] == 400
    assert counts['fence'] == pytest.approx(400 * shares['fence'], abs=4)
    with pytest.raises(GenerationError, match='no pixel of a class of City'):
        naming_shares({'lane': 5})


def test_bad_arguments():
    for options, message in (
        (dict(kind='long', num=1), '--kind must be one of dense'),
        (dict(kind='edit', num=0), '--num must be 1 or more'),
        (dict(kind='dense', num=1, per_prompt=20), 'must be in 1..19'),
        (dict(kind='dense', num=1, fits=lambda t: False), 'is short enough'),
        (dict(kind='edit', num=1, fits=lambda t: False), 'longer than the'),
    ):
        with pytest.raises(GenerationError, match=message):
            make_prompts(**options)


def test_an_exhausted_grammar_says_so(monkeypatch):
    for table in ('_LENSES', '_BY_DAY', '_BY_NIGHT', 'TIMES', 'SEASONS'):
        monkeypatch.setattr(
            dense_prompts, table, getattr(dense_prompts, table)[:1]
        )
    with pytest.raises(GenerationError, match='Ask for fewer'):
        make_prompts('restyle', 100)


def test_instructions_and_styles_name_no_objects_to_add():
    for kind in ('restyle', 'edit'):
        for prompt in make_prompts(kind, 50)[0]:
            named = set(classes_in(prompt))
            assert not named & {'truck', 'train', 'rider', 'bicycle'}, prompt


def test_diversity_counts_different_words():
    found = diversity(['a car, a bus', 'a car'])
    assert found == dict(
        words=3, classes=1.5, distinct_1=0.5, distinct_2=0.75, distinct_3=1.0
    )


def test_prompts_fit_the_text_encoder(tiny_sd, tmp_path):
    limit = TextLimit(str(tiny_sd))
    assert limit.tokens == 77 and limit.name == 'tiny-sd'
    # One token a letter, and two around them.
    assert limit.fits('a' * 75) and not limit.fits('a' * 76)
    with pytest.raises(GenerationError, match='longer than the text encoder'):
        make_prompts('restyle', 1, fits=limit.fits)
    with pytest.raises(GenerationError, match='--for-model owner/m is not he'):
        TextLimit('owner/m')
    (tmp_path / 'model_index.json').write_text(
        '{"_class_name": "StableDiffusionPipeline"}'
    )
    with pytest.raises(GenerationError, match='none of its tokenizers says'):
        TextLimit(str(tmp_path))


def test_spread_of_prompts_in_clip(tmp_path):
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    pipe = build_pipeline()
    pipe.tokenizer.save_pretrained(tmp_path)
    config = CLIPTextConfig(
        **{**pipe.text_encoder.config.to_dict(), 'projection_dim': 8}
    )
    CLIPTextModelWithProjection(config).save_pretrained(tmp_path)
    same = clip_spread(['a car', 'a car'], str(tmp_path))
    assert same == pytest.approx(0, abs=1e-4)
    assert clip_spread(['a car', 'fog at night'], str(tmp_path)) > 1e-3
    with pytest.raises(GenerationError, match='2 or more'):
        clip_spread(['a car'], str(tmp_path))
