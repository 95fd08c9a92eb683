"""MMSegmentation's own functions with every config that is shipped.

Models are small, images too; pipelines and all else are the configs'.
"""

import copy
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmseg.apis import (
    MMSegInferencer,
    inference_model,
    init_model,
    show_result_pyplot,
)
from mmseg.models.decode_heads.ham_head import NMF2D
from mmseg.registry import MODELS
from test_configs import CONFIG_DIR, shrink
from tiny_benchmarks import shrink_model

from clouds_mmseg.datasets import DGConcatDataset
from clouds_mmseg.utils.errors import UserError

CONFIGS = sorted(
    path.relative_to(CONFIG_DIR).as_posix()
    for path in CONFIG_DIR.rglob('*.py')
    if '_base_' not in path.parts
)
OTHER_NETWORKS = ('baselines', 'deeplabv3plus')
SIDE = 64


@pytest.fixture(scope='module', autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


@pytest.fixture(autouse=True)
def _same_bases(monkeypatch):
    """SegNeXt's head draws random bases in each prediction."""
    build = NMF2D._build_bases

    def seeded(self, *args, **kwargs):
        torch.manual_seed(0)
        return build(self, *args, **kwargs)

    monkeypatch.setattr(NMF2D, '_build_bases', seeded)


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Paths of two images of different sizes."""
    folder = tmp_path_factory.mktemp('images')
    rng = np.random.default_rng(0)
    paths = []
    for index, (height, width) in enumerate([(70, 110), (64, 96)]):
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        pixels[: height // 2, : width // 3] //= 4
        paths.append(str(folder / f'{index}.png'))
        assert cv2.imwrite(paths[-1], pixels)
    return paths


def read(name):
    """A shipped config with a small model, and images of a small size."""
    cfg = Config.fromfile(CONFIG_DIR / name)
    if any(part in name for part in OTHER_NETWORKS):
        shrink_model(cfg.model)
    else:
        shrink(cfg)
    pipelines = [cfg.test_pipeline, cfg.test_dataloader.dataset.pipeline]
    leaves = cfg.test_dataloader.dataset.datasets
    for pipeline in pipelines + [leaf.pipeline for leaf in leaves]:
        for step in pipeline:
            if step.type == 'Resize':
                step.scale = (4 * SIDE, SIDE)
    return cfg


def checkpoint_of(cfg, path):
    """Save a model as a run does."""
    torch.manual_seed(1)
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(copy.deepcopy(cfg.model)).eval()
    # Not those that a model of another seed would have.
    for name, values in model.named_parameters():
        if 'cls_embed' in name or 'conv_seg' in name:
            torch.nn.init.normal_(values)
    classes = [f'class {i}' for i in range(model.num_classes)]
    palette = [[i, 255 - i, 7 * i] for i in range(len(classes))]
    meta = dict(dataset_meta=dict(classes=classes, palette=palette))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return model


def image_steps(cfg):
    """Steps of the test pipeline of a dataset that concern the image."""
    leaf = cfg.test_dataloader.dataset.datasets[0]
    return [
        dict(step, domain='x') if step.type == 'PackDGInputs' else step
        for step in leaf.pipeline
        if step.type not in ('LoadSegLabels', 'EvaluateAtInputSize')
    ]


def ours(model, cfg, paths):
    """Results by the test pipeline of a dataset, image by image."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        pipeline = Compose(copy.deepcopy(image_steps(cfg)))
    results = []
    for path in paths:
        data = pipeline(dict(img_path=path))
        with torch.no_grad():
            (result,) = model.test_step({k: [v] for k, v in data.items()})
        assert result.pred_sem_seg.data.shape[1:] == cv2.imread(path).shape[:2]
        assert result.seg_logits.data.std() > 0
        results.append(result)
    return results


def equal(results, wanted):
    """Whether labels and scores are the same."""
    return all(
        torch.equal(found.get(key).data, expected.get(key).data)
        for found, expected in zip(results, wanted, strict=True)
        for key in ('pred_sem_seg', 'seg_logits')
    )


def what_is_read(cfg):
    """All of a config that a prediction depends on, for comparison."""
    test = cfg.test_dataloader.dataset
    rest = {key: value for key, value in test.items() if key != 'datasets'}
    sections = [cfg.model, cfg.test_pipeline, cfg.get('visualizer')]
    return repr([*sections, rest, image_steps(cfg)])


@pytest.fixture(scope='module')
def compared():
    """What the configs that have been compared contain."""
    return set()


@pytest.mark.parametrize('name', CONFIGS)
def test_same_labels_as_by_our_pipeline(
    name, images, tmp_path, monkeypatch, compared
):
    # No data of a checkout may help.
    monkeypatch.chdir(tmp_path)
    cfg = read(name)
    # Many differ in their training alone, and would compute the same again.
    content = what_is_read(cfg)
    if content in compared:
        return
    weights = str(tmp_path / 'iter_1.pth')
    wanted = ours(checkpoint_of(cfg, weights), cfg, images)

    model = init_model(copy.deepcopy(cfg), weights, device='cpu')
    assert equal([inference_model(model, images[0])], wanted[:1])
    assert equal(inference_model(model, images), wanted)
    arrays = [cv2.imread(path) for path in images]
    result = inference_model(model, arrays[0])
    assert equal([result], wanted[:1])
    assert equal(inference_model(model, arrays), wanted)
    drawn = show_result_pyplot(
        model, arrays[0], result, show=False, draw_gt=False
    )
    assert drawn.shape == arrays[0].shape

    inferencer = MMSegInferencer(
        copy.deepcopy(cfg), weights, device='cpu', show_progress=False
    )
    found = inferencer(images, batch_size=2, return_datasamples=True)
    assert equal(found, wanted)
    found = inferencer(
        arrays[0],
        out_dir=str(tmp_path / 'out'),
        return_vis=True,
    )
    assert np.array_equal(
        found['predictions'], wanted[0].pred_sem_seg.data[0].numpy()
    )
    assert found['visualization'].shape == arrays[0].shape
    assert len(list(Path(tmp_path, 'out').rglob('*.*'))) == 2
    compared.add(content)


@pytest.mark.parametrize(
    'name', ['toycity/warmup.py', 'baselines/segformer_mitb5_gta2cs.py']
)
def test_a_path_and_no_checkpoint(name, images, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = str(tmp_path / 'small.py')
    read(name).dump(path)
    model = init_model(path, device='cpu')
    assert inference_model(model, images[0]).pred_sem_seg.data.dim() == 3
    inferencer = MMSegInferencer(path, device='cpu', show_progress=False)
    assert len(inferencer(images)['predictions']) == 2


def test_a_checkpoint_is_enough_without_pretrained_files(images, tmp_path):
    cfg = read('clouds/gta2cs_r50.py')
    weights = str(tmp_path / 'iter_1.pth')
    checkpoint_of(cfg, weights)
    cfg.model.backbone.weights = str(tmp_path / 'absent.pth')
    model = init_model(copy.deepcopy(cfg), weights, device='cpu')
    assert inference_model(model, images[0]).pred_sem_seg is not None
    # Without one, the error comes before random weights predict anything.
    model = init_model(copy.deepcopy(cfg), device='cpu')
    with pytest.raises(UserError, match='absent.pth'):
        inference_model(model, images[0])
    with pytest.raises(UserError, match='absent.pth'):
        model.init_weights()


@pytest.mark.parametrize('step', ['LoadSegLabels', 'PackDGInputs'])
def test_a_pipeline_meant_for_the_datasets(step):
    pipeline = [dict(type='LoadImageFromFile'), dict(type=step)]
    with pytest.raises(UserError, match=f'has {step}.*each of its datasets'):
        DGConcatDataset([], pipeline=pipeline)


def test_configs_are_read_where_nobody_imported_the_package():
    """MMSegmentation's functions read the config before anything else.

    And the package is imported where Python has no module fcntl.
    """
    path = CONFIG_DIR / 'toycity/deeplabv3plus.py'
    code = (
        "import sys; sys.modules['fcntl'] = None\n"
        f'from mmengine import Config; Config.fromfile({str(path)!r})\n'
        'import clouds_mmseg\n'
        'from clouds_mmseg.weights import locate\n'
        'from clouds_mmseg.generate import image_bank\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
