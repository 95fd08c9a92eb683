"""Two processes report what one reports."""

import json
from datetime import timedelta
from multiprocessing import get_context

import numpy as np
import pytest
import torch.distributed as dist
from mmengine.dataset import DefaultSampler, pseudo_collate
from mmengine.registry import init_default_scope
from PIL import Image
from torch.utils.data import ConcatDataset, DataLoader

from clouds_mmseg.datasets import FolderDataset
from clouds_mmseg.evaluation import DGIoUMetric

CLASSES = ['road', 'car', 'sky']
# Seven images on two ranks: the sampler repeats one to make eight.
COUNTS = dict(fog=5, night=2)


def run(root, batch_size):
    """Evaluate a fixed prediction over the images of all domains."""
    init_default_scope('mmseg')
    dataset = ConcatDataset(
        [
            FolderDataset(
                domain=domain,
                data_root=f'{root}/{domain}',
                metainfo=dict(classes=CLASSES),
                pipeline=[
                    dict(type='LoadSegImage'),
                    dict(type='LoadSegLabels'),
                    dict(type='PackDGInputs'),
                ],
            )
            for domain in COUNTS
        ]
    )
    loader = DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=DefaultSampler(dataset, shuffle=False),
        collate_fn=pseudo_collate,
    )
    metric = DGIoUMetric(domains=list(COUNTS))
    metric.dataset_meta = dict(classes=CLASSES)
    for batch in loader:
        outputs = []
        for image, sample in zip(
            batch['inputs'], batch['data_samples'], strict=True
        ):
            sample = sample.to_dict()
            sample['pred_sem_seg'] = dict(data=image[:1].long() % 3)
            outputs.append(sample)
        metric.process(batch, outputs)
    values = metric.evaluate(len(dataset))
    return values, metric.last_results, metric.last_images


def worker(rank, root):
    """Be one of two processes; leave the values in a file."""
    dist.init_process_group(
        'gloo',
        init_method=f'file://{root}/store',
        rank=rank,
        world_size=2,
        timeout=timedelta(minutes=3),
    )
    try:
        outcome = run(root, batch_size=2)
    finally:
        dist.destroy_process_group()
    with open(f'{root}/rank{rank}.json', 'w') as stream:
        json.dump(outcome, stream)


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for domain, count in COUNTS.items():
        for number in range(count):
            for kind, shape in (('images', (6, 8, 3)), ('labels', (6, 8))):
                path = tmp_path / domain / kind / f'{number}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 3, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(path)
    return tmp_path


def test_two_processes_equal_one(root):
    values, results, images = run(root, 1)
    assert len(images) == 7
    assert results['domains']['fog']['images'] == 5
    assert 0 < values['mean_mIoU'] < 100
    # This process is one of the two.
    other = get_context('fork').Process(target=worker, args=(1, str(root)))
    other.start()
    try:
        worker(0, str(root))
    finally:
        other.join(60)
        other.kill()
    for rank in range(2):
        got = json.loads((root / f'rank{rank}.json').read_text())
        # All ranks know the values; the main one has the details.
        assert got[0] == values
        assert got[1] == (results if rank == 0 else {})
        assert got[2] == (images if rank == 0 else [])
