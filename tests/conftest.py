"""Fixtures that more than one part of the suite uses."""

import functools
import os
import sys
import uuid
from pathlib import Path

import pytest
from warm_python import WarmPython, keep_imports, quicken_runners

# Must be set before torch's first import in the test process.
os.environ.setdefault('HF_HUB_OFFLINE', '1')
# ONNX Runtime collects reports of its use in the home folder.
os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
# Compiling a corruption takes seconds, running it on a few pixels does not.
os.environ.setdefault('NUMBA_DISABLE_JIT', '1')

ROOT = Path(__file__).resolve().parents[1]
# Half a minute and more.
LONGEST = (
    'engine/test_self_training.py',
    'web/test_browser.py',
    'test_mmseg_api.py',
    'engine/test_resume_plan.py',
    'test_configs.py',
    'predict/test_export.py',
    'ablation/test_run.py',
    'engine/test_nonfinite_check.py',
    'models/test_clip_backbone.py',
    'tools/test_faults.py',
    'tools/test_convert_checkpoint.py',
    'test_guard.py',
    'tools/test_train_and_test.py',
    'tools/test_benchmark.py',
    'engine/test_safe_checkpoint.py',
    'test_baselines.py',
    'models/test_frozen_timm_backbone.py',
    'engine/test_fine_tuning.py',
    'test_towers_run.py',
)
# Files that begin so go to one process together: they share the page of
# `clouds demo`, or what the exporter imports.
TOGETHER = ('tests/web/', 'tests/predict/test_export')
# CamVid's licence keeps it out of the repository.
CAMVID = (
    os.environ.get('CAMVID_ROOT', ''),
    ROOT / 'data' / 'camvid_mini',
    ROOT.parent / 'shared' / 'data' / 'camvid_mini',
)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """Begin each test with the same random numbers of torch, in any order.

    Before the fixtures, so that those of a module do not depend on the test
    that asks for them first. pytest-randomly does so for random and numpy.
    """
    if 'torch' in sys.modules:
        sys.modules['torch'].manual_seed(0)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Begin with the files that take longest: processes end together.

    The others keep the order that pytest-randomly gave them.
    """
    places = {ROOT / 'tests' / name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Distribute files as ``--dist loadfile`` does, some of them together."""
    if config.getoption('dist') != 'loadfile':
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return next(filter(file.startswith, TOGETHER), file)

    return Scheduling(config, log)


def pytest_collection_finish():
    """Keep all that was imported out of the search for garbage.

    mmengine searches for each dataset that is built, which takes a third of a
    second with half a million objects of the imported packages.
    """
    keep_imports()


@pytest.fixture(scope='session', autouse=True)
def _zoo_read_once():
    """Keep the zoo's index: mmengine reads all metafiles for each config."""
    if 'mmengine' not in sys.modules:
        yield
        return
    utils = sys.modules['mmengine'].config.utils
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, 'load', functools.cache(utils.load))
        yield


@pytest.fixture(scope='session', autouse=True)
def _no_wait_for_disks():
    """Do not wait until data is on the disk: no test cuts the power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, 'fsync', lambda descriptor: None)
        yield


@pytest.fixture(scope='session', autouse=True)
def quick_runners():
    """Leave the text of configs unformatted; gives what formats it."""
    if 'mmengine.runner' not in sys.modules:
        yield
        return
    from yapf.yapflib import yapf_api

    format_code = yapf_api.FormatCode
    with pytest.MonkeyPatch.context() as patch:
        quicken_runners(patch.setattr)
        yield format_code


@pytest.fixture
def formatted_configs(quick_runners, monkeypatch):
    """Let mmengine format the text of configs."""
    monkeypatch.setattr('yapf.yapflib.yapf_api.FormatCode', quick_runners)


def pytest_terminal_summary(terminalreporter, config):
    """Say how the order and the random numbers are had again."""
    seed = config.getoption('randomly_seed', None)
    if seed is not None:
        terminalreporter.write_line(f'repeat with --randomly-seed={seed}')


@pytest.fixture(scope='session')
def warm_python():
    """A process that has imported the stack, whose forks run scripts."""
    python = WarmPython()
    yield python
    python.close()


@pytest.fixture(scope='session')
def reference_dir():
    """Folder of outputs recorded from other implementations."""
    return ROOT / 'tests' / 'data' / 'reference'


@pytest.fixture(scope='session')
def camvid_dir():
    """Folder of the 36 real driving photographs."""
    for path in filter(None, CAMVID):
        if (Path(path) / 'images').is_dir():
            return Path(path)
    pytest.skip(
        'needs the photographs of CamVid: CAMVID_ROOT=FOLDER, or '
        'data/camvid_mini'
    )


@pytest.fixture(scope='session')
def repo_root():
    """Root of the checkout: configs/ and tools/ are found from here."""
    return ROOT


@pytest.fixture(autouse=True)
def no_folder_is_chosen():
    """What an option of a tool has set for the process ends with the test."""
    yield
    folders = sys.modules.get('clouds_mmseg.utils.data_root')
    if folders is not None:
        folders._chosen.clear()


@pytest.fixture
def pretrained_folder(tmp_path, monkeypatch):
    """The folder where alone weights are looked for, without network."""
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setenv('CLOUDS_PRETRAINED_DIR', str(tmp_path))
    monkeypatch.setattr('torch.hub._hub_dir', str(tmp_path / 'hub'))
    return tmp_path


@pytest.fixture
def s3_requests(monkeypatch):
    """Names of the requests of this process to stores, as they are sent."""
    import s3fs

    sent = []
    call = s3fs.S3FileSystem._call_s3

    def recorded(self, method, *args, **kwargs):
        sent.append(method)
        return call(self, method, *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, '_call_s3', recorded)
    return sent


@pytest.fixture(scope='session')
def promptable(tmp_path_factory):
    """Folder of a tiny model of a family of transformers. Not to change."""
    from tiny_promptable import write_model

    @functools.cache
    def folder(family):
        return write_model(tmp_path_factory.mktemp(family), family)

    return folder


@pytest.fixture(scope='session')
def s3_address():
    """Address of an S3-compatible server; tests share it, not buckets."""
    pytest.importorskip('s3fs', reason='pip install "clouds_mmseg[remote]"')
    pytest.importorskip('moto', reason='pip install "moto[server]"')
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer('127.0.0.1', 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f'http://{host}:{port}'
    server.stop()


@pytest.fixture
def s3_account(s3_address, monkeypatch, tmp_path):
    """An account of the server, and nothing of the user's own.

    Gives a function to call after a change of the environment: fsspec keeps
    file systems with the account that they began with.
    """
    import s3fs

    for name in list(os.environ):
        if name.startswith('AWS_'):
            monkeypatch.delenv(name)
    monkeypatch.setenv('AWS_ENDPOINT_URL', s3_address)
    monkeypatch.setenv('AWS_ACCESS_KEY_ID', 'someone')
    monkeypatch.setenv('AWS_SECRET_ACCESS_KEY', 'secret')
    monkeypatch.setenv('AWS_DEFAULT_REGION', 'us-east-1')
    monkeypatch.setenv('AWS_EC2_METADATA_DISABLED', 'true')
    # Copies of what is fetched are kept there.
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    for name in ('AWS_CONFIG_FILE', 'AWS_SHARED_CREDENTIALS_FILE'):
        monkeypatch.setenv(name, str(tmp_path / 'none'))
    forget = s3fs.S3FileSystem.clear_instance_cache
    forget()
    yield forget
    forget()


@pytest.fixture
def s3_folder(s3_account):
    """Address of an empty folder in a bucket of its own."""
    import s3fs

    bucket = f'test-{uuid.uuid4().hex}'
    s3fs.S3FileSystem().mkdir(bucket)
    return f's3://{bucket}/folder'
