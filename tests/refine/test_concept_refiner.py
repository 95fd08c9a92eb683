"""ConceptRefiner on transformers' own SAM 3, tiny and random."""

from types import SimpleNamespace

import pytest
import torch
from mmseg.registry import MODELS

from clouds_mmseg.refine import ConceptRefiner
from clouds_mmseg.refine.concept_model import (
    ConceptModel,
    ScoreRules,
    word_scores,
)
from clouds_mmseg.utils.errors import UserError

WORDS = {'road': ['road', 'wet street'], 'sky': ['sky'], 'car': ['car']}


@pytest.fixture(scope='module')
def make(promptable):
    """Build a refiner the way a config does."""

    def build(family='sam3', **options):
        cfg = dict(
            type='ConceptRefiner',
            weights=str(promptable(family)),
            words=WORDS,
            presence='off',
        )
        return MODELS.build({**cfg, **options})

    return build


@pytest.fixture(scope='module')
def pair(photographs):
    """A photograph with a label of three classes and ignored pixels."""
    image, label = photographs[0]
    return image, torch.where(label < 3, label, 255)


def test_scores_are_those_of_the_library(promptable, pair):
    import transformers

    folder, array = promptable('sam3'), pair[0].permute(1, 2, 0).numpy()
    words = [word for group in WORDS.values() for word in group]
    model = ConceptModel(folder, words)
    assert model.model.text_encoder is None
    whole = transformers.Sam3Model.from_pretrained(folder).eval()
    processor = transformers.Sam3Processor(
        model.processor, transformers.AutoTokenizer.from_pretrained(folder)
    )
    outputs = []
    for word in words:
        inputs = processor(images=array, text=word, return_tensors='pt')
        inputs.pop('original_sizes')
        with torch.no_grad():
            outputs.append(whole(**inputs))
    for batch, rules in (
        (1, ScoreRules('semantic', presence='off')),
        (3, ScoreRules('instance', 0.01, presence='off')),
        (3, ScoreRules('both', 0.01, presence='multiply')),
    ):
        scores = model.scores(array, rules, batch)
        assert scores.shape[0] == 4 and 0 <= scores.min() <= scores.max() <= 1
        for output, score in zip(outputs, scores, strict=True):
            expected = word_scores(output, rules)[0]
            torch.testing.assert_close(score, expected, rtol=1e-3, atol=1e-5)
    assert not torch.equal(scores[0], scores[1])


def test_the_rules_of_scores():
    def logit(values):
        return torch.tensor(values).logit()

    output = SimpleNamespace(
        semantic_seg=logit([[[[0.2, 0.6]]], [[[0.9, 0.1]]]]),
        pred_masks=logit([[[[0.5, 0.5]], [[0.9, 0.1]]]] * 2),
        pred_logits=logit([[0.8, 0.4], [0.1, 0.4]]),
        presence_logits=logit([[0.5], [0.25]]),
    )

    def scores(**rules):
        return word_scores(output, ScoreRules(**rules))[:, 0].tolist()

    def near(*values):
        return [pytest.approx(list(value)) for value in values]

    assert scores(heads='semantic', presence='off') == near(
        (0.2, 0.6), (0.9, 0.1)
    )
    # 0.8 x 0.5 is above 0.3, the scores of all others times presence below.
    instances = dict(heads='instance', instance_threshold=0.3)
    assert scores(**instances, presence='off') == near((0.4, 0.4), (0, 0))
    every = dict(heads='instance', instance_threshold=0.0, presence='off')
    assert scores(**every) == near((0.4, 0.4), (0.36, 0.05))
    assert scores(presence='off') == near((0.4, 0.6), (0.9, 0.1))
    assert scores(presence='multiply') == near((0.2, 0.3), (0.225, 0.025))
    assert scores(presence='gate', min_presence=0.3) == near(
        (0.4, 0.6), (0, 0)
    )


def test_fusions_pixel_by_pixel(make, pair):
    image, label = pair
    refiner = make()
    scores = refiner.scores(image.permute(1, 2, 0).numpy())
    assert scores.shape == (3, *label.shape)
    best, concept = scores.max(dim=0)
    refiner.threshold = float(best.median())
    found = best >= refiner.threshold
    assert 0.1 < found.float().mean() < 0.9
    torch.manual_seed(0)
    confidence = torch.rand(label.shape)
    sure = (confidence >= 0.8) & (label != 255)
    for uncovered, other in (
        ('keep', label),
        ('ignore', torch.full_like(label, 255)),
    ):
        refiner.uncovered = uncovered
        replaced = torch.where(found, concept, other)
        same = torch.where(concept == label, label, 255)
        for fusion, expected in (
            ('replace', replaced),
            ('agree', torch.where(found, same, other)),
            ('uncertain', torch.where(sure, label, replaced)),
        ):
            refiner.fusion = fusion
            refined = refiner(image, label, confidence)
            assert torch.equal(refined, expected), (fusion, uncovered)
            assert refined.dtype == torch.int64
    with pytest.raises(ValueError, match="fusion='uncertain'.* got None"):
        refiner(image, label)


def test_model_and_text_encoder_run_once(make, pair, tmp_path):
    image, label = pair
    refiner = make(cache_dir=str(tmp_path), threshold=0.3)
    refined = refiner(image, label)
    cache, refiner.cache = refiner.cache, None
    assert torch.equal(refiner(image, label), refined)
    refiner.cache = cache
    again = make(cache_dir=str(tmp_path), threshold=0.3)
    # No word was embedded anew.
    assert not hasattr(again.model, '_tokenizer')
    assert torch.equal(again.model.text, refiner.model.text)
    again.model.scores = None
    assert torch.equal(again(image, label), refined)
    # Four words, and the scores of one image.
    assert len(list(tmp_path.rglob('*.arr'))) == 5
    again.rules = again.rules._replace(heads='semantic')
    with pytest.raises(TypeError):
        again(image, label)


def test_published_files_of_sam3_give_words_too(make, pair):
    refiner = make('sam3_video', threshold=0.0)
    refined = refiner(*pair)
    assert {*refined.unique().tolist()} <= {0, 1, 2}


def test_a_model_without_text_takes_no_words(promptable, tmp_path):
    with pytest.raises(UserError, match='there is no such folder'):
        ConceptRefiner(weights=f'{promptable("sam3")}/no', words=WORDS)
    with pytest.raises(UserError) as caught:
        ConceptRefiner(weights=str(promptable('sam2')), words=WORDS)
    said = str(caught.value)
    assert 'the family sam2, which has no text encoder' in said
    assert 'sam3, sam3_video' in said
    for path in promptable('sam3').iterdir():
        if 'tokenizer' not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match='lacks tokenizer.json or vocab.json'):
        ConceptRefiner(weights=str(tmp_path), words=WORDS)


def test_too_many_tokens_and_classes_are_told(make, pair):
    with pytest.raises(UserError, match='have 42 tokens; .* takes 32'):
        make(words={'road': ['x' * 40]})
    image, label = pair
    refiner = make(words={'road': ['road']})
    with pytest.raises(UserError, match='for 1 classes, and .* class 2'):
        refiner(image, label)


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (dict(words=['road']), 'words must be a dict'),
        (dict(words={'road': 'street'}), r"words\['road'\] must be a list"),
        (dict(words={'road': []}), r"words\['road'\] must be a list"),
        (
            dict(words={'road': ['way', 'road'], 'car': [' Road']}),
            r"the word ' Road' stands in both words\['road'\] and "
            r"words\['car'\]",
        ),
        (dict(fusion='vote'), 'fusion must be one of replace, agree'),
        (dict(presence=True), 'presence must be one of multiply, gate'),
        (dict(heads='all'), 'heads must be one of both'),
        (dict(threshold=50), r'threshold must be a number in \[0, 1\]'),
        (dict(word_batch=0), 'word_batch must be a whole number'),
    ],
)
def test_bad_options_are_named(options, said):
    with pytest.raises(UserError, match=f'ConceptRefiner: {said}'):
        ConceptRefiner(**dict(dict(weights='absent', words=WORDS), **options))
