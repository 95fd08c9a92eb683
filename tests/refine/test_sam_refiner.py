"""SAMRefiner with a real, tiny SAM."""

import multiprocessing

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmseg.registry import MODELS
from safetensors.torch import load_file
from tiny_sam import build_tiny_sam

from clouds_mmseg.refine import SAMRefiner
from clouds_mmseg.refine.arguments import as_rgb_array
from clouds_mmseg.refine.prediction_cache import (
    SAMPredictions,
    no_predictions,
    pack,
    unpack,
)
from clouds_mmseg.refine.sam_model import PromptedSAM
from clouds_mmseg.refine.sam_prompts import find_components
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.hashing import hash_array


@pytest.fixture
def make(tiny_vit_b, tiny_weights):
    """Build a refiner the way a config does."""

    def build(**options):
        cfg = dict(
            type='SAMRefiner',
            variant='vit_b',
            checkpoint=str(tiny_weights),
            min_area=200,
        )
        return MODELS.build({**cfg, **options})

    return build


class Replay:
    """SAMPredictions that were recorded, in the place of a SAM."""

    identity = 'recorded'
    device = torch.device('cpu')

    def __init__(self, masks, quality):
        self.masks, self.quality = masks, quality
        self.prompted = 0

    def embed(self, image):
        return torch.zeros(1)

    def best_masks(self, embedding, points, size, mask_input=None):
        span = slice(self.prompted, self.prompted + len(points))
        self.prompted += len(points)
        masks, quality = self.masks[span], self.quality[span]
        best = quality.argmax(dim=1)
        rows = torch.arange(len(masks))
        return masks[rows, best], quality.amax(dim=1), None


@pytest.fixture(scope='module')
def recorded(reference_dir):
    return load_file(reference_dir / 'clouds_official_sam_refine.safetensors')


def expected_label(recorded, without=()):
    """The label that the official code makes of the recorded masks."""
    label = torch.full(recorded['label_map'].shape, 255)
    kept = [i for i in range(15) if i not in without]
    if not without:
        pairs = zip(
            recorded['refined_labels'], recorded['refined_masks'], strict=True
        )
    else:
        masks = recorded['best_masks'][kept]
        masks = masks & (masks.sum(0) <= 1)
        pairs = zip(recorded['component_class'][kept], masks, strict=True)
    for value, mask in pairs:
        label[mask] = value
    return label


@pytest.mark.parametrize('prompt_batch', [1, 4, 16])
def test_recorded_predictions_give_the_official_label(
    make, recorded, prompt_batch
):
    refiner = make(prompt_batch=prompt_batch)
    refiner.sam = Replay(recorded['sam_masks'], recorded['sam_quality'])
    image = torch.zeros(3, *recorded['label_map'].shape, dtype=torch.uint8)
    refined = refiner(image, recorded['label_map'])
    assert refiner.sam.prompted == 15
    assert torch.equal(refined, expected_label(recorded))


def test_a_skipped_component_does_not_shift_the_others(make, recorded):
    # Room for as many points as the smallest components have not.
    areas = recorded['component_mask'].flatten(1).sum(1)
    skipped = [i for i, area in enumerate(areas) if area < 240]
    assert skipped == [0, 2, 4, 5]
    kept = [i for i in range(15) if i not in skipped]
    refiner = make(points_per_component=240)
    refiner.sam = Replay(
        recorded['sam_masks'][kept], recorded['sam_quality'][kept]
    )
    image = torch.zeros(3, *recorded['label_map'].shape, dtype=torch.uint8)
    refined = refiner(image, recorded['label_map'])
    assert torch.equal(refined, expected_label(recorded, skipped))


def test_best_score_gives_a_pixel_to_the_best_mask(make, recorded):
    refiner = make(overlap='best_score')
    refiner.sam = Replay(recorded['sam_masks'], recorded['sam_quality'])
    label = recorded['label_map']
    refined = refiner(torch.zeros(3, *label.shape, dtype=torch.uint8), label)
    masks = recorded['best_masks']
    score = recorded['sam_quality'].amax(1)[:, None, None] * masks
    winner = recorded['component_class'][score.argmax(0)]
    covered = masks.any(0)
    assert torch.equal(refined[covered], winner[covered])
    assert (refined[~covered] == 255).all()
    assert (masks.sum(0) > 1).any()


def test_uncovered_pixels_can_keep_their_label(make, recorded):
    label = recorded['label_map']
    image = torch.zeros(3, *label.shape, dtype=torch.uint8)
    refiner = make(uncovered='keep')
    refiner.sam = Replay(recorded['sam_masks'], recorded['sam_quality'])
    official = expected_label(recorded)
    expected = torch.where(official == 255, label, official)
    assert torch.equal(refiner(image, label), expected)


def test_a_photograph_is_refined_by_a_real_sam(make, photographs):
    """The whole refinement, against SAM's own predictor."""
    from segment_anything import SamPredictor

    refiner = make(seed=5, prompt_batch=4)
    image, label = photographs[0]
    array = image.permute(1, 2, 0).numpy()
    expected = reference.refine(
        SamPredictor(refiner.sam.model),
        array,
        label.numpy(),
        min_area=200,
        seed=[5, int(hash_array(array), 16)],
    )
    assert len(reference.find_components(label.numpy(), 200)[0]) > 8
    refined = refiner(image, label)
    np.testing.assert_array_equal(refined.numpy(), expected)
    assert 0 < (refined != 255).float().mean() < 1
    assert refined.dtype == torch.int64


def test_the_second_pass_asks_again(make, photographs):
    once, twice = make(), make(second_pass=True)
    calls = []
    decoder = twice.sam.model.prompt_encoder
    decoder.register_forward_pre_hook(
        lambda module, args, kwargs: calls.append(kwargs['masks']),
        with_kwargs=True,
    )
    a, b = once(*photographs[0]), twice(*photographs[0])
    assert not torch.equal(a, b)
    assert [c is None for c in calls] == [True, False] * (len(calls) // 2)


def test_a_label_without_large_components_comes_back(make, photographs):
    image, label = photographs[0]
    refiner = make(min_area=10**6)
    refined = refiner(image, label)
    assert torch.equal(refined, label) and refined is not label


def test_nothing_is_encoded_without_a_prompt(make, photographs):
    refiner = make(points_per_component=10**6)
    refiner.sam.model.image_encoder = None
    image, label = photographs[0]
    assert torch.equal(refiner(image, label), label)


def test_a_share_of_the_area_follows_the_size(make, photographs):
    image, label = photographs[0]
    pixels = make(min_area=432)(image, label)
    share = make(min_area=0.01)(image, label)
    assert label.numel() * 0.01 == 432
    assert torch.equal(pixels, share)
    half = image[:, ::2, ::2], label[::2, ::2]
    assert torch.equal(make(min_area=0.01)(*half), make(min_area=108)(*half))


def test_the_result_is_a_function_of_image_and_label(make, photographs):
    image, label = photographs[0]
    first = make()(image, label)
    torch.manual_seed(1)
    np.random.seed(1)
    state = torch.get_rng_state(), np.random.get_state()[1]
    refiner = make()
    refiner(*photographs[1])
    assert torch.equal(refiner(image, label), first)
    assert torch.equal(torch.get_rng_state(), state[0])
    np.testing.assert_array_equal(np.random.get_state()[1], state[1])
    assert not torch.equal(make(seed=1)(image, label), first)


def count_calls(refiner):
    calls = []
    refiner.sam.model.image_encoder.register_forward_hook(
        lambda *args: calls.append(1)
    )
    return calls


def test_the_second_epoch_runs_no_encoder(make, photographs, tmp_path):
    refiner = make(cache_dir=str(tmp_path))
    calls = count_calls(refiner)
    first = [refiner(*pair) for pair in photographs]
    assert len(calls) == 2
    second = [refiner(*pair) for pair in photographs]
    assert len(calls) == 2
    # Not in a later process either, and with labels that have changed.
    again = make(cache_dir=str(tmp_path))
    calls = count_calls(again)
    third = [again(*pair) for pair in photographs]
    image, label = photographs[0]
    again(image, torch.zeros_like(label))
    assert not calls
    for a, b, c in zip(first, second, third, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    # An embedding of 32 x 4 x 4 values of 2 bytes and the predictions, each.
    stored = list(tmp_path.rglob('*.arr'))
    sizes = [path.stat().st_size for path in stored]
    assert len(stored) == 4 and sum(size < 1300 for size in sizes) == 2
    assert max(sizes) < 40_000


def count_prompts(refiner):
    """Numbers of prompts, one for each call of the mask decoder."""
    prompted = []
    refiner.sam.model.mask_decoder.register_forward_pre_hook(
        lambda module, args, kwargs: prompted.append(
            len(kwargs['sparse_prompt_embeddings'])
        ),
        with_kwargs=True,
    )
    return prompted


@pytest.mark.parametrize('options', [{}, dict(second_pass=True)])
def test_only_what_changed_is_asked_again(
    make, photographs, tmp_path, options
):
    image, label = photographs[0]
    refiner = make(cache_dir=str(tmp_path), **options)
    first = refiner(image, label)
    prompted = count_prompts(refiner)
    assert torch.equal(refiner(image, label), first) and not prompted
    # Another class at the place of one component, and nothing else new.
    (component, *_) = find_components(label.numpy(), 200)
    changed = label.numpy().copy()
    changed[component.box][component.mask] = 77
    changed = torch.from_numpy(changed)
    again = refiner(image, changed)
    assert not prompted and (again[again != first] == 77).all()
    # The points of the component go, a part of it stays.
    y, x = np.argwhere(component.full_mask(label.shape)).T
    changed[y[: len(y) // 3 * 2], x[: len(y) // 3 * 2]] = 255
    refined = refiner(image, changed)
    assert sum(prompted) in (1, 2)
    plain = make(**options)
    reference.sam = refiner.sam
    wrong = refined != _rounded(plain, refiner)(image, changed)
    assert wrong.float().mean() < 1e-3


def _rounded(refiner, cached):
    """Let a refiner without a cache use the cached embeddings."""
    refiner._of_image = cached._of_image
    return refiner


def test_predictions_survive_packing():
    rng = np.random.default_rng(0)
    predictions = SAMPredictions(
        rng.random((3, 5, 2), np.float32),
        rng.random((3, 7, 13)) < 0.5,
        rng.random(3, np.float32),
    )
    again = unpack(pack(predictions), 13)
    for a, b in zip(predictions, again, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    points = predictions.points[[2, 0]]
    assert predictions.find(points).tolist() == [2, 0]
    assert predictions.find(points[:, ::-1]).tolist() == [-1, -1]
    assert no_predictions(5, (7, 13)).concat(predictions).find(points)[0] == 2


@pytest.mark.parametrize('kind', ['predictions', 'embedding'])
def test_a_damaged_entry_is_made_again(make, photographs, tmp_path, kind):
    refiner = make(cache_dir=str(tmp_path))
    first = refiner(*photographs[0])
    calls, prompted = count_calls(refiner), count_prompts(refiner)
    stored = sorted(tmp_path.rglob('*.arr'), key=lambda p: p.stat().st_size)
    assert len(stored) == 2
    small, large = stored
    damaged = large if kind == 'predictions' else small
    damaged.write_bytes(damaged.read_bytes()[:-7])
    if kind == 'embedding':
        large.unlink()
    assert torch.equal(refiner(*photographs[0]), first)
    assert len(calls) == (kind == 'embedding') and prompted
    prompted.clear()
    assert torch.equal(refiner(*photographs[0]), first)
    assert len(calls) == (kind == 'embedding') and not prompted


def test_other_weights_use_other_entries(
    make, photographs, tmp_path, tiny_weights
):
    make(cache_dir=str(tmp_path / 'cache'))(*photographs[0])
    weights = torch.load(tiny_weights)
    weights['mask_decoder.iou_token.weight'] += 1
    other = tmp_path / 'other.pth'
    torch.save(weights, other)
    refiner = make(checkpoint=str(other), cache_dir=str(tmp_path / 'cache'))
    calls = count_calls(refiner)
    refiner(*photographs[0])
    assert len(calls) == 1


def refine_in_a_process(make, folder, pairs, results):
    torch.set_num_threads(1)
    refiner = make(cache_dir=folder)
    calls = count_calls(refiner)
    labels = [refiner(*pair).numpy() for _ in range(3) for pair in pairs]
    results.put((labels, len(calls)))


def test_processes_share_the_embeddings(make, photographs, tmp_path):
    context = multiprocessing.get_context('fork')
    results = context.Queue()
    arguments = (make, str(tmp_path), photographs, results)
    workers = [
        context.Process(target=refine_in_a_process, args=arguments)
        for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    outcomes = [results.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    expected = [make(cache_dir=str(tmp_path))(*p).numpy() for p in photographs]
    for labels, calls in outcomes:
        assert calls <= 2
        for index, label in enumerate(labels):
            np.testing.assert_array_equal(label, expected[index % 2])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), options=st.data())
def test_any_label_gives_classes_it_had(shared_refiner, seed, options):
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 40, 2)
    coarse = rng.choice([0, 3, 18, 255], (3, 4))
    rows = np.minimum(np.arange(size[0]) // 10, 2)
    columns = np.minimum(np.arange(size[1]) // 10, 3)
    label = torch.from_numpy(coarse[rows][:, columns])
    image = torch.from_numpy(rng.integers(0, 256, (3, *size), np.uint8))
    refiner = shared_refiner
    refiner.overlap = options.draw(st.sampled_from(['drop', 'best_score']))
    refiner.uncovered = options.draw(st.sampled_from(['ignore', 'keep']))
    refined = refiner(image, label)
    assert refined.shape == label.shape and refined.dtype == torch.int64
    classes = {*label.unique().tolist()}
    assert {*refined.unique().tolist()} <= classes | {255}
    if refiner.uncovered == 'keep':
        assert (refined[label != 255] != 255).all()


@pytest.fixture(scope='module')
def shared_refiner(tiny_weights):
    import segment_anything

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            segment_anything.sam_model_registry, 'vit_b', build_tiny_sam
        )
        return SAMRefiner(
            variant='vit_b', checkpoint=tiny_weights, min_area=20
        )


@pytest.mark.parametrize(
    'option, value, said',
    [
        ('point_mode', 'grid', 'random, center, largest_component'),
        ('overlap', 'union', 'drop, best_score'),
        ('uncovered', None, 'ignore, keep'),
        ('points_per_component', 0, 'a whole number of at least 1'),
        ('prompt_batch', 2.5, 'a whole number'),
        ('min_area', -1, 'a number of at least 0'),
        ('min_area', True, 'a number'),
        ('erosion', '3', 'a whole number'),
        ('seed', -1, 'of at least 0'),
    ],
)
def test_bad_options_are_named_before_weights_are_read(option, value, said):
    with pytest.raises(UserError) as error:
        SAMRefiner(variant='vit_b', checkpoint='absent', **{option: value})
    message = str(error.value)
    assert f'SAMRefiner: {option} must be' in message
    assert said in message and repr(value) in message


@pytest.mark.parametrize(
    'image, label',
    [
        (torch.zeros(3, 8, 8), torch.zeros(8, 8, dtype=torch.int64)),
        (torch.zeros(8, 8, 3).byte(), torch.zeros(8, 8).long()),
        (torch.zeros(3, 8, 8).byte(), torch.zeros(8, 9).long()),
        (torch.zeros(3, 8, 8).byte(), torch.zeros(1, 8, 8).long()),
        (torch.zeros(3, 8, 8).byte(), torch.zeros(8, 8).byte()),
    ],
)
def test_other_tensors_are_refused(make, image, label):
    with pytest.raises(ValueError, match='got '):
        make()(image, label)


def test_as_rgb_array_keeps_every_pixel():
    image = torch.arange(24, dtype=torch.uint8).reshape(3, 2, 4)
    array = as_rgb_array(image)
    assert array.shape == (2, 4, 3) and array.flags.c_contiguous
    assert (array[1, 2] == image[:, 1, 2].numpy()).all()


def test_nothing_but_the_sam_moves(make):
    refiner = make()
    assert refiner.to('cpu') is refiner
    assert isinstance(refiner.sam, PromptedSAM)
    assert not isinstance(refiner, torch.nn.Module)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
def test_cuda_gives_the_label_of_the_cpu(make, photographs):
    image, label = photographs[0]
    expected = make()(image, label)
    refined = make().to('cuda')(image.cuda(), label.cuda())
    assert refined.device.type == 'cuda'
    assert (refined.cpu() == expected).float().mean() > 0.999
