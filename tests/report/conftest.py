"""Two runs of one config with different seeds, as a report reads them."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from tiny_run import CLASSES, PALETTE, read_config, write_config, write_data

from clouds_mmseg.cli.config import build_runner
from clouds_mmseg.utils.visualization import strip


@pytest.fixture(scope='session')
def seeds(tmp_path_factory):
    """Folder with seed0/tiny and seed1/tiny. Not to be changed."""
    root = tmp_path_factory.mktemp('report')
    config = write_config(root / 'tiny.py', write_data(root / 'data'))
    for seed in (0, 1):
        cfg = read_config(
            config,
            root / f'seed{seed}' / 'tiny',
            randomness__seed=seed,
            train_cfg__val_interval=2,
            default_hooks__logger__interval=1,
            val_evaluator__source_domains=['day'],
        )
        build_runner(cfg).train()
    # What hooks of self-training leave behind.
    folder = root / 'seed1' / 'tiny'
    (log,) = (p.parent for p in folder.glob('*/vis_data'))
    for iteration in (2, 4):
        label = np.zeros((16, 32), np.uint8)
        label[:iteration] = 1
        drawing = strip(
            np.full((16, 32, 3), 90, np.uint8),
            label,
            label.T.repeat(2, 1)[:16],
            PALETTE,
            width=64,
            caption='pseudo label',
            titles=('image', 'teacher', 'refined'),
        )
        path = log / f'vis_data/vis_image/pseudo_label_0_{iteration}.png'
        path.parent.mkdir(exist_ok=True)
        drawing.save(path)
    measured = {
        str(iteration): {
            'images': 5,
            **{
                when: dict(mIoU=value, aAcc=50.0, IoU={CLASSES[0]: value})
                for when, value in (('before', 20.0), ('after', 30.5))
            },
        }
        for iteration in (2, 4)
    }
    (folder / 'pseudo_labels.json').write_text(json.dumps(measured))
    return root


@pytest.fixture
def copied(seeds, tmp_path):
    """A copy of the work dir of seed 0, to be changed."""
    return shutil.copytree(seeds / 'seed0' / 'tiny', tmp_path / 'tiny')


@pytest.fixture
def change(copied):
    """Change results.json of the copy, also in its log folder."""

    def change_results(**values):
        for path in (copied / 'results.json', *copied.glob('*/results.json')):
            results = json.loads(path.read_text())
            path.write_text(json.dumps({**results, **values}))

    return change_results


@pytest.fixture
def panel(copied):
    """The drawing of the first image of a domain."""
    return lambda domain: Image.open(
        next(copied.glob(f'*/pictures/iter_4/{domain}/000.png'))
    ).convert('RGB')
