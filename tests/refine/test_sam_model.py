"""PromptedSAM against segment-anything's own predictor."""

import builtins
import http.server
import sys
import threading
import types

import numpy as np
import pytest
import torch
from tiny_sam import build_tiny_sam

from clouds_mmseg.refine.sam_model import PromptedSAM, build_sam, find_weights
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.io import WeightFileError
from clouds_mmseg.weights.load import CheckpointMismatchError

SIZES = [(64, 64), (48, 80), (130, 70), (9, 31)]


@pytest.fixture
def sam(tiny_vit_b, tiny_weights):
    return PromptedSAM('vit_b', tiny_weights)


def picture(size, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (*size, 3), np.uint8)


def prompts(size, count, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.random((count, 5, 2)) * [size[1], size[0]]).astype(int)


@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('second_pass', [False, True])
def test_predictions_are_those_of_the_predictor(sam, size, second_pass):
    from segment_anything import SamPredictor

    predictor = SamPredictor(sam.model)
    image, points = picture(size), prompts(size, 4)
    predictor.set_image(image)
    coords = torch.from_numpy(
        predictor.transform.apply_coords(points, size)
    ).float()
    labels = torch.ones(coords.shape[:2])
    masks, quality, low = predictor.predict_torch(coords, labels)
    if second_pass:
        best = quality.argmax(dim=1)
        masks, quality, low = predictor.predict_torch(
            coords, labels, mask_input=low[range(4), best][:, None]
        )
    embedding = sam.embed(image)
    torch.testing.assert_close(
        embedding, predictor.get_image_embedding(), rtol=0, atol=0
    )
    prediction = sam.best_masks(embedding, points, size)
    if second_pass:
        prediction = sam.best_masks(embedding, points, size, prediction[2])
    best = quality.argmax(dim=1)
    assert (
        prediction[0].shape == (4, *size) and prediction[0].dtype == torch.bool
    )
    assert torch.equal(prediction[0], masks[range(4), best])
    torch.testing.assert_close(prediction[1], quality.amax(dim=1))
    torch.testing.assert_close(prediction[2], low[range(4), best])
    # Masks that are all empty or all full would agree by themselves.
    assert 0 < prediction[0].float().mean() < 1


def test_one_call_for_many_prompts_equals_many_calls(sam):
    size = (48, 80)
    embedding, points = sam.embed(picture(size)), prompts(size, 6)
    together = sam.best_masks(embedding, points, size)
    for index in range(6):
        alone = sam.best_masks(embedding, points[index : index + 1], size)
        assert torch.equal(alone[0][0], together[0][index])
        torch.testing.assert_close(alone[2][0], together[2][index])


def test_autocast_of_the_caller_changes_nothing(sam):
    size = (48, 80)
    image, points = picture(size), prompts(size, 3)
    embedding = sam.embed(image)
    masks = sam.best_masks(embedding, points, size)[0]
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(sam.embed(image), embedding)
        assert torch.equal(sam.best_masks(embedding, points, size)[0], masks)


def test_building_draws_no_random_numbers(tiny_vit_b, tiny_weights):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    sam = PromptedSAM('vit_b', tiny_weights)
    assert torch.equal(torch.rand(4), expected)
    assert not sam.model.training
    assert not any(p.requires_grad for p in sam.model.parameters())


def test_weights_of_another_variant_are_named(tmp_path, tiny_vit_b):

    other = tmp_path / 'other.pth'
    torch.save(build_tiny_sam(depth=3).state_dict(), other)
    with pytest.raises(CheckpointMismatchError) as error:
        build_sam('vit_b', other)
    message = str(error.value)
    assert str(other) in message and 'unexpected' in message
    assert 'image_encoder.blocks.2.attn.qkv.weight' in message


@pytest.mark.parametrize(
    'keys, guess',
    [
        ({'image_encoder.pos_embed': (1, 4, 4, 1280)}, 'vit_h'),
        ({'image_encoder.layers.0.blocks.0.attn.qkv.weight': (2,)}, 'vit_t'),
        ({'image_encoder.pos_embed': (1, 4, 4, 17)}, None),
        ({'backbone.weight': (2,)}, None),
    ],
)
def test_the_variant_of_wrong_weights_is_guessed(
    tmp_path, tiny_vit_b, keys, guess
):
    path = tmp_path / 'w.pth'
    torch.save({k: torch.zeros(shape) for k, shape in keys.items()}, path)
    with pytest.raises(CheckpointMismatchError) as error:
        build_sam('vit_b', path)
    if guess:
        assert f'looks like {guess}' in str(error.value)
    else:
        assert 'looks like' not in str(error.value)


def test_a_web_page_under_the_name_of_weights_is_named(tmp_path, tiny_vit_b):
    path = tmp_path / 'sam.pth'
    path.write_text('<!DOCTYPE html><html>Sign in</html>')
    with pytest.raises(WeightFileError, match='web page'):
        PromptedSAM('vit_b', path)


@pytest.mark.parametrize('checkpoint', [None, '', 'weights/absent.pth'])
def test_absent_weights_say_where_they_are_published(tiny_vit_b, checkpoint):
    with pytest.raises(UserError, match='sam_vit_b_01ec64.pth') as error:
        PromptedSAM('vit_b', checkpoint)
    assert repr(checkpoint) in str(error.value) or checkpoint in str(
        error.value
    )


@pytest.mark.parametrize(
    'variant, package',
    [('vit_b', 'segment_anything'), ('vit_t', 'mobile_sam')],
)
def test_a_missing_package_is_named(
    monkeypatch, tiny_weights, variant, package
):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=f'needs the package {package}'):
        PromptedSAM(variant, tiny_weights)


def test_a_package_that_fails_inside_is_not_called_missing(monkeypatch):
    monkeypatch.delitem(sys.modules, 'segment_anything', raising=False)
    original = builtins.__import__

    def without_a_dependency(name, *args, **kwargs):
        if name == 'torchvision.transforms.functional':
            raise ModuleNotFoundError('no torchvision', name='torchvision')
        return original(name, *args, **kwargs)

    for name in [n for n in sys.modules if n.startswith('segment_anything')]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, '__import__', without_a_dependency)
    with pytest.raises(ModuleNotFoundError, match='no torchvision'):
        PromptedSAM('vit_b', 'x.pth')


def test_an_unknown_variant_lists_the_known_ones(tiny_weights):
    pytest.importorskip('segment_anything')
    with pytest.raises(UserError, match="vit_b', 'vit_h', 'vit_l', 'vit_t"):
        PromptedSAM('vit_x', tiny_weights)


def test_mobile_sam_is_used_through_its_own_module(monkeypatch, tiny_weights):
    # The package is not on PyPI. Its modules have the interfaces of
    # segment-anything's, from which it was made; the stand-in offers those
    # under its name, and everything behind the name is real.
    from segment_anything import SamPredictor

    module = types.ModuleType('mobile_sam')
    module.sam_model_registry = {'vit_t': build_tiny_sam}
    module.SamPredictor = SamPredictor
    monkeypatch.setitem(sys.modules, 'mobile_sam', module)
    sam = PromptedSAM('vit_t', tiny_weights)
    assert sam.identity.startswith('vit_t-')
    assert sam.embed(picture((20, 30))).shape == (1, 32, 4, 4)


def test_what_eval_derives_follows_weights_and_device(
    monkeypatch, tiny_weights
):
    """MobileSAM's attention biases are indexed once, in eval."""
    from segment_anything import sam_model_registry
    from segment_anything.modeling import ImageEncoderViT

    class Deriving(ImageEncoderViT):
        def train(self, mode=True):
            super().train(mode)
            self.derived = self.pos_embed.detach() * 2

        def forward(self, x):
            return super().forward(x) + self.derived.mean()

    def build():
        sam = build_tiny_sam()
        sam.image_encoder.__class__ = Deriving
        return sam.eval()

    weights = torch.load(tiny_weights)
    weights['image_encoder.pos_embed'] += 1
    changed = tiny_weights.parent / 'changed.pth'
    torch.save(weights, changed)
    monkeypatch.setitem(sam_model_registry, 'vit_b', build)
    sam = PromptedSAM('vit_b', changed)
    encoder = sam.model.image_encoder
    assert torch.equal(encoder.derived, encoder.pos_embed * 2)
    assert encoder.derived.mean() > 1
    sam.to('meta')
    assert encoder.derived.is_meta


@pytest.fixture
def server(tiny_weights, tmp_path, monkeypatch):
    """A local web server that offers the weights and counts requests."""
    monkeypatch.delenv('HF_HUB_OFFLINE', raising=False)
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=tiny_weights.parent)

        def log_message(self, *args):
            requests.append(args)

    with http.server.HTTPServer(('127.0.0.1', 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{running.server_port}', requests
        running.shutdown()


def test_an_address_is_fetched_once(
    server, monkeypatch, tmp_path, tiny_vit_b, tiny_weights
):
    address, requests = server
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
    sam = PromptedSAM('vit_b', f'{address}/tiny.pth?download=1')
    again = PromptedSAM('vit_b', f'{address}/tiny.pth?download=1')
    assert len(requests) == 1
    assert sam.identity == again.identity
    assert sam.identity == PromptedSAM('vit_b', tiny_weights).identity


@pytest.mark.parametrize('kind', ['offline', 'absent'])
def test_what_cannot_be_fetched_is_one_error(
    server, monkeypatch, tmp_path, kind
):
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path))
    # Port 9 of this machine has no server: what a machine without network
    # looks like to a client.
    base = server[0] if kind == 'absent' else 'http://127.0.0.1:9'
    with pytest.raises(UserError) as error:
        find_weights(f'{base}/absent.pth', 'vit_h')
    message = str(error.value)
    assert f'{base}/absent.pth' in message
    assert str(tmp_path / 'checkpoints' / 'absent.pth') in message
    assert '404' in message or 'refused' in message
    assert not list(tmp_path.rglob('*.pth*'))
