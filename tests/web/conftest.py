"""A small model as a file, and the page that ``clouds demo`` serves of it."""

from importlib.util import find_spec
from signal import SIGTERM

import pytest
import torch
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from tiny_run import CLASSES, PALETTE, read_config, write_config
from web_page import Page

from clouds_mmseg.predict.segmenter import Segmenter


@pytest.fixture(scope='session')
def small_checkpoint(tmp_path_factory):
    """A checkpoint of the tiny run before its first iteration."""
    folder = tmp_path_factory.mktemp('small')
    config = write_config(folder / 'tiny.py', folder)
    cfg = read_config(config, folder)
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    meta = dict(
        cfg=cfg.pretty_text,
        dataset_meta=dict(classes=CLASSES, palette=PALETTE),
    )
    path = folder / 'iter_2.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return path


@pytest.fixture(scope='session')
def small_segmenter(small_checkpoint):
    return Segmenter.from_pretrained(small_checkpoint, device='cpu')


@pytest.fixture(scope='session')
def page(small_checkpoint, tmp_path_factory, repo_root):
    """The page in a process of its own, as a user starts it."""
    if find_spec('gradio') is None:
        pytest.skip('needs gradio: pip install "clouds_mmseg[web]"')
    served = Page(small_checkpoint, tmp_path_factory.mktemp('page'))
    yield served
    # Ended as by a service manager: nothing is left, neither where it was
    # told to write nor elsewhere.
    assert served.stop() == 128 + SIGTERM
    written = [
        path.relative_to(served.folder).as_posix()
        for path in served.folder.rglob('*')
        if path.is_file()
    ]
    assert sorted(written) == ['log', 'private.png', 'secret.png']
    # Gradio writes stub files beside the sources of some classes.
    assert not list((repo_root / 'clouds_mmseg').rglob('*.pyi'))
