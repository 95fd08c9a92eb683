"""The example of docs/quickstart.md runs, and the page shows it as it is."""

import runpy

import numpy as np
from PIL import Image

EXAMPLE = 'docs/examples/toycity.py'


def test_the_page_shows_the_example(repo_root):
    page = (repo_root / 'docs/quickstart.md').read_text()
    example = (repo_root / EXAMPLE).read_text()
    assert f'```python\n{example}```\n' in page


def test_the_example_draws_a_prediction(repo_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {
        'total_batch_size': 2,
        'model.decode_head.num_queries': 8,
        # No validation: the results of six domains are tested elsewhere.
        'train_cfg.val_interval': 1000,
    }
    for split in ('train', 'val', 'test'):
        options[f'{split}_dataloader.num_workers'] = 0
        options[f'{split}_dataloader.persistent_workers'] = False
    runpy.run_path(str(repo_root / EXAMPLE))['main'](
        iterations=1,
        options=options,
        num_source=2,
        num_source_val=1,
        num_target=1,
        workers=1,
    )
    drawn = np.array(Image.open('work_dirs/example/prediction.png'))
    image = next(tmp_path.glob('data/toycity/acdc/rgb_anon/fog/**/*.png'))
    assert drawn.shape == (128, 256, 3)
    assert not np.array_equal(drawn, np.array(Image.open(image)))
