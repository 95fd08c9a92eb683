"""The config of experiment trackers in the docs."""

import importlib.util
import re

import pytest
from mmengine.config import Config
from mmengine.registry import VISBACKENDS, init_default_scope
from mmseg.registry import VISUALIZERS

PACKAGES = dict(WandbVisBackend='wandb', MLflowVisBackend='mlflow')


def test_trackers_are_built_up_to_their_packages(repo_root, tmp_path):
    page = (repo_root / 'docs/share.md').read_text()
    (text,) = re.findall(r'```python\n(visualizer = .*?)```', page, re.DOTALL)
    cfg = Config.fromstring(text, '.py').visualizer
    init_default_scope('mmseg')
    built = VISUALIZERS.build(dict(cfg, save_dir=str(tmp_path), name='docs'))
    assert len(built._vis_backends) == 3
    for backend in cfg.vis_backends[1:]:
        package = PACKAGES[backend.type]
        if importlib.util.find_spec(package) is None:
            with pytest.raises(ImportError, match=f'pip install {package}'):
                _ = VISBACKENDS.build(
                    dict(backend, save_dir=str(tmp_path))
                ).experiment
