"""Which exceptions the package raises, and which of them the user is told."""

import ast
import errno
import os
import signal

import pytest
from torch.utils.data import DataLoader

from clouds_mmseg.utils.errors import (
    DataError,
    UserError,
    config_error,
    disk_error,
    lost_worker_error,
)

# Exceptions of Python that the package raises: file -> functions. They are
# contracts between its own functions, or are caught in the same function.
# Whatever a user can cause by a config, an option or a file is a UserError.
CONTRACTS = {
    'bridges/review.py': {'read_review'},
    'data_tools/prepare/archives.py': {'read'},
    'data_tools/verify/report.py': {'read_reports'},
    'generate/conditions.py': {'__init__'},
    'generate/llm.py': {'_load'},
    'generate/model_files.py': {'require_all_weights'},
    'generate/pipeline_parts.py': {'add_lora', 'load_controlnet'},
    'generate/pipelines.py': {'_load_file'},
    'generate/prompt_report.py': {'_load_clip'},
    'models/backbones/clip_source.py': {'_read_config'},
    'models/backbones/lora.py': {'forward'},
    'models/mask2former/deform_attn.py': {'_check'},
    'models/segmentors/pseudo_labels.py': {'flip_label'},
    # Arguments of a config: reached through mmengine's registry.
    'models/segmentors/self_training_segmentor.py': {'__init__'},
    'predict/program_check.py': {'check_program', '_check_json'},
    'refine/arguments.py': {'as_rgb_array', 'check_label'},
    'refine/concept_refiner.py': {'__call__'},
    'refine/sam_prompts.py': {'find_components'},
    'toycity/dataset.py': {'read_manifest'},
    'utils/image_set.py': {'_parse'},
    'utils/locks.py': {'open_locked'},
    'utils/packed_set.py': {'read_pack', '_parse_index'},
    'utils/text_files.py': {'inner_path', 'parse_json'},
    'utils/visualization.py': {'split_strip'},
    'weights/io.py': {'_save_safetensors'},
    'weights/load.py': {'_prefixes'},
    'weights/torchscript.py': {
        'script_weights',
        '_registered',
        'persistent_load',
        '_tensor',
    },
}
_OF_PYTHON = {
    name
    for name, kind in vars(__import__('builtins')).items()
    if isinstance(kind, type) and issubclass(kind, Exception)
}


def raised_in(path):
    """Yield function and name of the exceptions of Python that it raises."""
    tree = ast.parse(path.read_text())
    for function in ast.walk(tree):
        if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                name = ast.unparse(node.exc.func)
                if name in _OF_PYTHON:
                    yield function.name, name


def test_mistakes_of_the_user_have_a_type(repo_root):
    package = repo_root / 'clouds_mmseg'
    found = [
        (str(path.relative_to(package)), function, kind)
        for path in sorted(package.rglob('*.py'))
        for function, kind in raised_in(path)
    ]
    assert len(found) >= 10
    unknown = [
        each for each in found if each[1] not in CONTRACTS.get(each[0], ())
    ]
    assert unknown == []


def test_callers_that_expect_a_value_error_get_one():
    for kind in (UserError, DataError):
        with pytest.raises(ValueError, match='x'):
            raise kind('x')


def test_an_error_of_no_config_is_none():
    with pytest.raises(ZeroDivisionError) as caught:
        1 / 0  # noqa: B018
    assert config_error(caught.value) is None


def test_an_error_of_the_disk_says_what_to_do():
    full = OSError(errno.ENOSPC, 'No space left on device', b'/a/b.pth')
    text = disk_error(full)
    assert text.startswith('/a/b.pth: No space left on device; make room')
    assert '--resume' in text
    missing = FileNotFoundError(errno.ENOENT, 'No such file', '/a')
    assert disk_error(missing) == '/a: No such file'


@pytest.mark.parametrize(
    'text, words',
    [
        ('DataLoader worker (pid 7) is killed by signal: Killed. ', 'dmesg'),
        ('DataLoader worker (pid(s) 7, 8) exited unexpectedly', 'memory'),
        (
            'DataLoader worker (pid 7) is killed by signal: Bus error. It is '
            'possible that ...',
            '/dev/shm',
        ),
    ],
)
def test_a_lost_worker_is_explained(text, words):
    told = str(lost_worker_error(RuntimeError(text)))
    assert words in told and 'num_workers' in told and '--resume' in told
    assert lost_worker_error(RuntimeError('Caught ' + text)) is None


class KilledWhileReading:
    """A dataset whose second sample ends its worker, as the kernel does."""

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return index


def test_torchs_error_for_a_killed_worker_is_known():
    loader = DataLoader(KilledWhileReading(), num_workers=2)
    with pytest.raises(RuntimeError) as caught:
        list(loader)
    # 'is killed by signal: Killed' or 'exited unexpectedly', as it comes.
    assert 'memory ran out' in str(lost_worker_error(caught.value))
