"""PromptableRefiner on transformers' own models, tiny and random."""

import json

import numpy as np
import pytest
import torch
from mmseg.registry import MODELS
from safetensors.torch import load_file, save_file

from clouds_mmseg.refine import (
    ConceptRefiner,
    MajorityVoteRefiner,
    PromptableRefiner,
    SAMRefiner,
)
from clouds_mmseg.refine.sam_model import PromptedSAM, from_transformers
from clouds_mmseg.refine.sam_prompts import find_components, sample_prompts
from clouds_mmseg.refine.transformers_sam import TransformersSAM
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.finite import NonFiniteError

FAMILIES = ('sam', 'sam_hq', 'sam2', 'edgetam', 'sam3_tracker', 'sam3_video')
PROCESSORS = dict(
    sam='SamProcessor',
    sam_hq='SamHQProcessor',
    sam2='Sam2Processor',
    edgetam='Sam2Processor',
    sam3_tracker='Sam3TrackerProcessor',
)


@pytest.fixture(scope='module')
def make(promptable):
    """Build a refiner of a family the way a config does."""

    def build(family, **options):
        cfg = dict(
            type='PromptableRefiner',
            weights=str(promptable(family)),
            min_area=200,
        )
        return MODELS.build({**cfg, **options})

    return build


@pytest.fixture(scope='module', params=['original', 'transformers'])
def sam_file(request, promptable, tmp_path_factory):
    """Weights of the tiny SAM as a file, by both ways to name them."""
    path = promptable('sam') / 'model.safetensors'
    if request.param == 'transformers':
        return path
    weights = from_transformers(load_file(path))
    assert 'image_encoder.pos_embed' in weights
    renamed = tmp_path_factory.mktemp('original') / 'sam.pth'
    torch.save(weights, renamed)
    return renamed


def test_sam_equals_the_original_package(
    promptable, sam_file, tiny_vit_b, photographs
):
    ours = TransformersSAM(promptable('sam'))
    theirs = PromptedSAM('vit_b', sam_file)
    image = photographs[0][0].permute(1, 2, 0).numpy()
    points = np.array([[[30, 40], [200, 17]], [[9, 170], [0, 0]]], np.float32)
    first, second = (sam.embed(image) for sam in (ours, theirs))
    scale = second.abs().max()
    torch.testing.assert_close(
        first / scale, second / scale, rtol=0, atol=1e-5
    )
    found = [
        sam.decode(embedding, points, image.shape[:2])
        for sam, embedding in ((ours, first), (theirs, second))
    ]
    full = [
        sam.upscale(logits[:, 0], image.shape[:2])
        for sam, (logits, _) in zip((ours, theirs), found, strict=True)
    ]
    for a, b in (*zip(*found, strict=True), full):
        scale = b.abs().max()
        assert scale > 0.01
        torch.testing.assert_close(a / scale, b / scale, rtol=0, atol=1e-5)


def test_sam_gives_the_labels_of_the_original_package(
    make, sam_file, tiny_vit_b, photographs
):
    theirs = SAMRefiner(
        variant='vit_b', checkpoint=str(sam_file), min_area=200
    )
    ours = make('sam')
    for second_pass in (False, True):
        ours.second_pass = theirs.second_pass = second_pass
        for image, label in photographs:
            refined = ours(image, label)
            assert torch.equal(refined, theirs(image, label))
            assert not torch.equal(refined, label)


def prompts_of(label, **options):
    components = find_components(label.numpy(), 200)
    return sample_prompts(components, label.shape, 3, [0], **options)[0]


@pytest.mark.parametrize('family', PROCESSORS)
def test_masks_are_those_of_the_library(promptable, photographs, family):
    """Against its own processor, which prepares points and boxes."""
    import transformers

    image, label = photographs[0]
    array, size = image.permute(1, 2, 0).numpy(), label.shape
    model = TransformersSAM(promptable(family), prompt='both')
    processor = getattr(transformers, PROCESSORS[family])(model.processor)
    embedding = model.embed(array)
    for prompt in ('points', 'both', 'boxes'):
        model.prompt = prompt
        prompts = prompts_of(label, boxes=prompt != 'points')[:4]
        given = dict(images=array, return_tensors='pt')
        if prompt != 'points':
            given['input_boxes'] = [prompts[:, -2:].reshape(-1, 4).tolist()]
        if prompt != 'boxes':
            points = prompts[:, :3]
            given['input_points'] = [points.tolist()]
            given['input_labels'] = [[[1] * 3] * len(points)]
        else:
            prompts = prompts[:, -2:]
        inputs = processor(**given)
        sizes = [
            inputs.pop(key)
            for key in ('original_sizes', 'reshaped_input_sizes')
            if key in inputs
        ]
        with torch.no_grad():
            output = model.model(**inputs)
        expected = processor.post_process_masks(
            output.pred_masks, *sizes, binarize=False
        )[0]
        logits, quality = model.decode(embedding, prompts, size)
        assert quality.shape == (len(prompts), 3)
        full = torch.stack(
            [model.upscale(x, size) for x in logits.unbind(1)], dim=1
        )
        scale = expected.abs().max()
        torch.testing.assert_close(
            full / scale, expected / scale, rtol=0, atol=1e-4
        )
        torch.testing.assert_close(
            quality, output.iou_scores[0], rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize('family', FAMILIES)
def test_each_family_refines_and_its_cache_is_exact(
    make, photographs, tmp_path, family
):
    refiner = make(family, cache_dir=str(tmp_path))
    calls = []
    refiner.sam.model.vision_encoder.register_forward_hook(
        lambda *args: calls.append(1)
    )
    first = [refiner(*pair) for pair in photographs]
    for (_, label), refined in zip(photographs, first, strict=True):
        assert refined.dtype == torch.int64
        assert {*refined.unique().tolist()} <= {*label.unique().tolist(), 255}
        assert not torch.equal(refined, label)
    assert len(calls) == 2
    for pair, refined in zip(photographs, first, strict=True):
        assert torch.equal(refiner(*pair), refined)
    # Predictions are gone, embeddings are not.
    for path in tmp_path.rglob('*.arr'):
        if b'quality' in path.read_bytes():
            path.unlink()
    image, label = photographs[0]
    assert torch.equal(refiner(image, label), first[0])
    assert len(calls) == 2
    # Without a cache only rounding differs.
    refiner.cache = None
    plain = refiner(image, label)
    assert len(calls) == 3
    assert (plain == first[0]).float().mean() > 0.98


def test_boxes_and_points_are_other_prompts(make, photographs, tmp_path):
    image, label = photographs[0]
    refiner = make('sam', prompt='boxes', cache_dir=str(tmp_path))
    assert refiner.prompt == refiner.sam.prompt == 'boxes'
    labels = []
    for prompt in ('points', 'boxes', 'both'):
        refiner.prompt = refiner.sam.prompt = prompt
        labels.append(refiner(image, label))
    assert not torch.equal(labels[0], labels[1])
    assert not torch.equal(labels[1], labels[2])
    # One embedding, and the predictions of each.
    assert len(list(tmp_path.rglob('*.arr'))) == 4


def test_boxes_lie_around_their_components():
    label = np.full((20, 30), 255)
    label[3:9, 5:25] = 1
    label[12:20, 0:4] = 2
    components = find_components(label, 10)
    prompts, classes = sample_prompts(
        components, label.shape, 0, [0], boxes=True
    )
    assert classes.tolist() == [1, 2]
    assert prompts.tolist() == [[[5, 3], [24, 8]], [[0, 12], [3, 19]]]
    both, _ = sample_prompts(components, label.shape, 5, [0], boxes=True)
    points, _ = sample_prompts(components, label.shape, 5, [0])
    np.testing.assert_array_equal(both[:, :5], points)
    np.testing.assert_array_equal(both[:, 5:], prompts)


def test_bf16_is_close_and_has_its_own_cache(make, photographs):
    image, label = photographs[0]
    exact, coarse = make('sam2'), make('sam2', dtype='bfloat16')
    array = image.permute(1, 2, 0).numpy()
    assert exact.sam.identity != coarse.sam.identity
    for a, b in zip(
        exact.sam.embed(array), coarse.sam.embed(array), strict=True
    ):
        assert b.dtype == torch.float32
        assert not torch.equal(a, b)
        assert (a - b).abs().mean() < 0.05 * a.abs().mean()
    with torch.autocast('cpu', torch.bfloat16):
        again = exact.sam.embed(array)
    for a, b in zip(exact.sam.embed(array), again, strict=True):
        assert torch.equal(a, b)


def test_loading_draws_no_random_numbers(make):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    make('edgetam')
    assert torch.equal(torch.get_rng_state(), state)


def test_an_embedding_that_overflows_is_told(make, photographs):
    refiner = make('sam')
    with torch.no_grad():
        refiner.sam.model.vision_encoder.neck.layer_norm2.weight += torch.inf
    with pytest.raises(NonFiniteError, match='not finite'):
        refiner(*photographs[0])


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        (dict(prompt='words'), 'prompt must be one of points, boxes, both'),
        (dict(dtype='half'), 'dtype must be one of float32, float16'),
        (dict(min_area=-1), 'min_area must be a number of at least 0'),
    ],
)
def test_bad_options_are_named_before_weights_are_read(options, said):
    with pytest.raises(UserError, match=f'PromptableRefiner: {said}'):
        PromptableRefiner(weights='absent', **options)


def copy_of(folder, target, skip=()):
    target.mkdir()
    for path in folder.iterdir():
        if path.name not in skip:
            (target / path.name).write_bytes(path.read_bytes())
    return target


def test_a_model_for_words_takes_no_points(promptable):
    with pytest.raises(UserError) as caught:
        PromptableRefiner(weights=str(promptable('sam3')))
    said = str(caught.value)
    assert 'the family sam3, which takes no points but words' in said
    assert 'ConceptRefiner' in said and 'sam2' in said


def test_families_and_words_are_checked_before_anything_is_built(promptable):
    folder = str(promptable('sam3'))
    for kind in (PromptableRefiner, MajorityVoteRefiner):
        with pytest.raises(UserError, match=f'{kind.__name__}=.* no points'):
            kind.find_weights(dict(weights=folder))
        kind.find_weights(dict(weights=str(promptable('sam2'))))
    with pytest.raises(UserError, match='takes no boxes but words'):
        PromptableRefiner.find_weights(dict(weights=folder, prompt='boxes'))
    # Before weights are asked for that it takes days to get.
    same = dict(weights='facebook/sam3', words={'a': ['car'], 'b': ['car']})
    with pytest.raises(UserError, match="'car' stands in both"):
        ConceptRefiner.find_weights(same)


def test_other_families_and_damaged_folders_are_told(promptable, tmp_path):
    folder = copy_of(promptable('sam'), tmp_path / 'sam')
    config = folder / 'config.json'
    good = json.loads(config.read_text())
    for family, said in (
        ('clip', 'the family clip, which takes no points. Families that do'),
        ('sam9', 'config.json is of no model that transformers'),
    ):
        config.write_text(json.dumps(dict(model_type=family)))
        with pytest.raises(UserError, match=said):
            PromptableRefiner(weights=str(folder))
    config.write_text(json.dumps(good))
    path = folder / 'model.safetensors'
    weights = load_file(path)
    lost = 'mask_decoder.iou_token.weight'
    rest = {key: value for key, value in weights.items() if key != lost}
    save_file(rest, path, metadata=dict(format='pt'))
    with pytest.raises(
        UserError, match=f'lack 1 of a SamModel, such as {lost}'
    ):
        PromptableRefiner(weights=str(folder))
    wider = dict(weights, **{lost: torch.zeros(1, 7)})
    save_file(wider, path, metadata=dict(format='pt'))
    with pytest.raises(UserError, match='cannot be loaded as a SamModel'):
        PromptableRefiner(weights=str(folder))
    path.write_bytes(b'no weights')
    with pytest.raises(UserError, match='cannot be loaded as a SamModel'):
        PromptableRefiner(weights=str(folder))
    path.unlink()
    with pytest.raises(UserError, match='lacks model.safetensors or'):
        PromptableRefiner(weights=str(folder))


def test_too_little_memory_is_told_before_loading(promptable, monkeypatch):
    from clouds_mmseg.weights import model_folder

    monkeypatch.setattr(model_folder, 'free_memory', lambda device: 1000)
    with pytest.raises(UserError, match=r'take 0\.0 GiB, and cpu has 0\.0'):
        PromptableRefiner(weights=str(promptable('sam')))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
@pytest.mark.parametrize('family', FAMILIES)
def test_cuda_gives_the_label_of_the_cpu(make, photographs, family):
    image, label = photographs[0]
    expected = make(family)(image, label)
    refined = make(family).to('cuda')(image.cuda(), label.cuda())
    assert refined.device.type == 'cuda'
    assert (refined.cpu() == expected).float().mean() > 0.99
