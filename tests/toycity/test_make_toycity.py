import runpy
import sys

import numpy as np
import pytest
from PIL import Image

ARGS = ['--size', '96', '48', '--num-source', '2', '--num-source-val', '1',
        '--num-target', '1', '--workers', '1']  # fmt: skip


@pytest.fixture
def tool(repo_root, monkeypatch, capsys):
    def call(*args):
        path = str(repo_root / 'tools' / 'make_toycity.py')
        monkeypatch.setattr(sys, 'argv', [path, *map(str, args)])
        code = 0
        try:
            runpy.run_path(path, run_name='__main__')
        except SystemExit as error:
            code = error.code
        shown = capsys.readouterr()
        return code, shown.out or shown.err

    return call


def test_tool_writes_once_and_refuses_other_arguments(tool, tmp_path):
    root = tmp_path / 'toycity'
    code, out = tool(root, *ARGS)
    assert code == 0 and '8 images and labels' in out
    sheet = Image.open(root / 'contact_sheet.png')
    # Seven rows of two columns, an image beside its label each.
    assert sheet.width > 4 * 96 and sheet.height > 7 * 48
    colours = np.unique(np.array(sheet).reshape(-1, 3), axis=0)
    assert (colours == (128, 64, 128)).all(1).any()

    code, out = tool(root, *ARGS)
    assert code == 0 and 'all 8 images exist already' in out

    code, out = tool(root, *ARGS, '--seed', '5')
    assert code == 1 and out.startswith('error: ') and 'seed is 0' in out

    code, out = tool(root, *ARGS, '--seed', '5', '--overwrite')
    assert code == 0 and 'images and labels' in out


def test_contact_sheet_can_be_left_out(tool, tmp_path):
    code, _ = tool(tmp_path, *ARGS, '--no-contact-sheet')
    assert code == 0
    assert not (tmp_path / 'contact_sheet.png').exists()
