"""The examples of CONTRIBUTING.md run, and do what the text says."""

import re

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, METRICS, MODELS
from mmseg.structures import SegDataSample
from PIL import Image
from prepare_fake import write_archives

from clouds_mmseg.data_tools.prepare.run import prepare_dataset
from clouds_mmseg.data_tools.verify import listing
from clouds_mmseg.datasets import driving
from clouds_mmseg.generate import run
from clouds_mmseg.utils.image_set import read_entries


@pytest.fixture(scope='module')
def names(repo_root):
    """What the examples define; registering a class twice is an error."""
    text = (repo_root / 'CONTRIBUTING.md').read_text()
    blocks = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
    assert len(blocks) == 7
    found = dict(__name__='contributing')
    for block in blocks:
        exec(compile(block, 'CONTRIBUTING.md', 'exec'), found)
    return found


def test_dataset(names, tmp_path, monkeypatch):
    """Entry, config piece and fake: prepared, verified and read."""
    fake = names['mycity']()
    monkeypatch.setitem(driving.SETS, 'mycity', names['MyCityDataset'])
    monkeypatch.setattr(
        listing, 'VERIFIED_SETS', (*listing.VERIFIED_SETS, 'mycity')
    )
    out = tmp_path / 'mycity'
    result = prepare_dataset(
        'mycity', write_archives(tmp_path / 'src', fake), out
    )
    assert result.manifest.splits == fake.splits
    # What a runner does.
    with DefaultScope.overwrite_default_scope('mmseg'):
        (task,) = listing.named_tasks('mycity', str(out))
        dataset = DATASETS.build(dict(names['val_mycity'], data_root=str(out)))
    assert task.name == 'mycity val' and task.dataset.expected == 500
    sample = dataset[0]['data_samples']
    assert sample.domain == 'mycity'
    np.testing.assert_array_equal(
        sample.gt_sem_seg.data[0], fake.expected['1.png']
    )


@pytest.mark.usefixtures('names')
def test_backbone():
    model = MODELS.build(
        dict(
            type='DGSegmentor',
            backbone=dict(type='PoolingBackbone'),
            decode_head=dict(
                type='CLOUDSHead',
                num_classes=3,
                feat_channels=32,
                out_channels=32,
                num_queries=4,
                num_encoder_layers=1,
                num_decoder_layers=1,
                encoder_ffn_channels=32,
                decoder_ffn_channels=32,
            ),
            train_cfg={},
            test_cfg=dict(mode='whole'),
        )
    ).train()
    assert not model.backbone.training
    maps = model.backbone(torch.rand(1, 3, 64, 96))
    assert [m.shape[-1] for m in maps] == [24, 12, 6, 3]
    assert not any(m.requires_grad for m in maps)
    # The head has asked for the widths.
    model.decode_head(maps)


@pytest.mark.usefixtures('names')
def test_refiner():
    refiner = MODELS.build(dict(type='IgnoreDarkRefiner')).to('cpu')
    image = torch.zeros(3, 2, 2, dtype=torch.uint8)
    image[:, 0] = 200
    refined = refiner(image, torch.ones(2, 2, dtype=torch.int64))
    assert refined.tolist() == [[1, 1], [255, 255]]


def test_generator(names, tmp_path, monkeypatch):
    def build(name, **kwargs):
        assert name == 'noise'
        return names['NoiseBackend']()

    monkeypatch.setattr(run, '_build_backend', build)
    prompts = tmp_path / 'prompts.txt'
    prompts.write_text('a street\n')
    summary = run.generate_images(
        tmp_path / 'set', prompts=prompts, num=2, backend='noise'
    )
    assert summary.complete
    entries = read_entries(tmp_path / 'set')
    images = [
        np.asarray(Image.open(tmp_path / 'set' / entry['file']))
        for entry in entries.values()
    ]
    assert [image.shape for image in images] == [(32, 64, 3)] * 2
    assert not np.array_equal(*images)


@pytest.mark.usefixtures('names')
def test_metric():
    metric = METRICS.build(dict(type='WorstDomainMetric'))
    metric.dataset_meta = dict(classes=('road', 'car'))
    for domain, right in (('fog', 1), ('night', 0)):
        sample = SegDataSample(metainfo=dict(domain=domain))
        label = torch.tensor([[[0, 1]]])
        sample.gt_sem_seg = PixelData(data=label)
        sample.pred_sem_seg = PixelData(data=label if right else 1 - label)
        metric.process({}, [sample.to_dict()])
    assert metric.evaluate(2)['worst_mIoU'] == 0
