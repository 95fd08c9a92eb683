"""Files that would run code or take all memory: refused, and nothing runs.

The audit hook sees what Python does before it does it.
"""

import encodings.latin_1  # noqa: F401 - of a codec, which reading imports
import io
import json
import os
import pickle
import sys
import warnings
import zipfile

import pytest
import torch
from hostile_pickles import (
    CALLS,
    calling,
    deep_tuple,
    itself,
    shared_lists,
    wide_tuple,
)

from clouds_mmseg.predict.program_check import check_program
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.frozen_backbone import require_registered
from clouds_mmseg.weights.io import WeightFileError, read_content

FORMS = ('global', 'stack', 'memo', 'object', 'instance', 'broken')
# Of sys.addaudithook, which cannot be taken back.
WATCHED = {
    *('os.system', 'os.exec', 'os.posix_spawn', 'os.fork', 'os.mkdir'),
    *('os.remove', 'os.rename', 'os.link', 'os.symlink', 'shutil.rmtree'),
    *('subprocess.Popen', 'pty.spawn', 'ctypes.dlopen', 'socket.connect'),
    *('socket.getaddrinfo', 'urllib.Request', 'sqlite3.connect', 'compile'),
    *('exec', 'import', 'builtins.breakpoint', 'webbrowser.open'),
}
SEEN = None


def _hook(event, arguments):
    if SEEN is None:
        return
    if event == 'open':
        mode = arguments[1]
        if isinstance(mode, str) and set(mode) & set('wax+'):
            SEEN.append((event, arguments))
    elif event in WATCHED:
        SEEN.append((event, arguments))


sys.addaudithook(_hook)


class watched:
    """Note what Python does; imports that reading needs are done before."""

    def __enter__(self):
        global SEEN
        SEEN = self.seen = []
        return self.seen

    def __exit__(self, *error):
        global SEEN
        SEEN = None


@pytest.fixture(scope='module', autouse=True)
def warm(tmp_path_factory):
    """Let torch and Python import what the first read imports."""
    folder = tmp_path_factory.mktemp('warm')
    for suffix in ('.pth', '.pkl'):
        path = folder / f'x{suffix}'
        path.write_bytes(calling('eval', str(folder / 'x')))
        with pytest.raises(WeightFileError):
            read_content(path)
    torch.save(dict(w=torch.ones(1)), folder / 'y.pth')
    read_content(folder / 'y.pth')


def write_torch(path, payload, *, name='data.pkl', more=()):
    """Write the zip of torch.save around a pickle."""
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr(f'a/{name}', payload)
        archive.writestr('a/byteorder', 'little')
        archive.writestr('a/version', '3\n')
        for member, content in more:
            archive.writestr(member, content)


def refused(path, match=None):
    with watched() as seen, warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises(WeightFileError, match=match) as info:
            read_content(path)
    assert not seen, seen
    assert str(path) in str(info.value)


@pytest.mark.parametrize('name', CALLS)
def test_no_call_of_a_pickle_is_made(tmp_path, name):
    target = tmp_path / 'was_here'
    for form in FORMS:
        payload = calling(name, str(target), form)
        bare, archive = tmp_path / 'x.pkl', tmp_path / 'x.pth'
        bare.write_bytes(payload)
        write_torch(archive, payload)
        refused(bare)
        refused(archive)
    assert not target.exists()
    assert sorted(os.listdir(tmp_path)) == ['x.pkl', 'x.pth']


def test_old_files_of_torch(tmp_path):
    """Magic number, version and system come before the pickle that calls."""
    target, path = tmp_path / 'was_here', tmp_path / 'old.pth'
    torch.save(dict(), path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    stream = io.BytesIO(data)
    for _ in range(3):
        pickle.load(stream)
    head = data[: stream.tell()]
    for place in (0, len(head)):
        for name in ('os.system', 'eval', 'torch._load_from_bytes'):
            call = calling(name, str(target))
            path.write_bytes(head[:place] + call + head[place:])
            refused(path)
    assert not target.exists()


@pytest.mark.parametrize(
    'payload',
    [
        deep_tuple(1_000_000),
        wide_tuple(60),
        shared_lists(60),
        itself(),
        # An object numbered 2**31: room for as many pointers.
        b'\x80\x02}r\xff\xff\xff\x7f.',
        b'\x80\x02}' + b'(' * 20_000 + b'.',
        b'\x80\x02]' + b']' * 20_000 + b'a' * 20_000 + b'.',
        b'\x80\x04\x95' + b'\xff' * 8 + b'}.',
        b'\x80\x02\x8b\xff\xff\xff\x7f.',
    ],
    ids='deep wide laughs itself number marks lists frame long'.split(),
)
def test_bombs_of_pickles(tmp_path, payload):
    path, archive = tmp_path / 'x.pkl', tmp_path / 'x.pth'
    path.write_bytes(payload)
    write_torch(archive, payload)
    refused(path)
    refused(archive)


class Call:
    def __init__(self, function, *arguments):
        self.how = function, arguments

    def __reduce__(self):
        return self.how


@pytest.mark.filterwarnings('ignore:TypedStorage')
@pytest.mark.parametrize('new', [True, False])
@pytest.mark.parametrize(
    'arguments',
    [(0, (10**9,), (0,)), (0, (10**9,), (1,)), (-1, (2,), (1,))],
    ids='repeated larger before'.split(),
)
def test_tensors_beyond_their_storage(tmp_path, new, arguments):
    storage = torch.ones(4).storage()
    rebuild = torch._utils._rebuild_tensor_v2
    weight = Call(rebuild, storage, *arguments, False, {})
    path = tmp_path / 'x.pth'
    torch.save(
        dict(state_dict=dict(w=weight)),
        path,
        _use_new_zipfile_serialization=new,
    )
    refused(path)


def test_archives_that_scanners_misread(tmp_path):
    """What is hidden from a scanner is not hidden from the reader."""
    target = tmp_path / 'was_here'
    call = calling('os.system', str(target))
    fine = pickle.dumps(dict(w=1), 2)
    path = tmp_path / 'x.pth'
    # A second pickle, under a name that scanners pass over.
    write_torch(path, call, more=[('a/data.pkl.bak', fine)])
    refused(path)
    write_torch(path, call, more=[('b/data.pkl', fine)])
    refused(path)
    write_torch(path, call, name='data.bin')
    refused(path)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        write_torch(path, fine, more=[('a/data.pkl', call)])
    refused(path, 'two of its members')
    # A wrong CRC, the flag of encryption, a changed name in the directory.
    write_torch(path, call)
    data = path.read_bytes()
    entry = data.index(b'PK\x01\x02')
    for offset, value in ((16, 0xFF), (8, 0x01), (46, ord('b')), (10, 99)):
        changed = bytearray(data)
        changed[entry + offset] ^= value
        path.write_bytes(changed)
        refused(path)
    # Another format under the name of weights.
    path.write_bytes(b"7z\xbc\xaf'\x1c\0\4" + call)
    refused(path)
    assert not target.exists()


def test_a_zip_that_claims_more_than_it_holds(tmp_path):
    path = tmp_path / 'x.pth'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('a/data.pkl', bytes(100 << 20))
    refused(path, 'its members claim')


class Writes(torch.nn.Module):
    def __init__(self, path: str):
        super().__init__()
        self.w = torch.nn.Parameter(torch.ones(2))
        self.path = path

    def forward(self, x):
        return x + self.w

    @torch.jit.export
    def __getstate__(self):
        return self.w, self.training, self.path

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool, str]):
        self.training = state[1]
        self.path = state[2]
        self.w = torch.from_file(self.path, True, 2)


@pytest.mark.filterwarnings('ignore')
def test_torchscript_runs_nothing(tmp_path):
    target, path = tmp_path / 'was_here', tmp_path / 'script.pt'
    torch.jit.save(torch.jit.script(Writes(str(target))), path)
    refused(path, 'TorchScript archive that only its own code')
    assert not target.exists()
    torch.jit.load(path)
    assert target.exists()  # The archive is what it is said to be.


def write_program(path, **changes):
    """Write an archive like torch.export's with something else in it."""
    graph = dict(nodes=[dict(target='torch.ops.aten.add.Tensor')])
    content = dict(graph_module=dict(graph=graph), guards_code=[])
    weights = dict(config=dict(w=dict(path_name='weight_0')))
    members = {
        'models/model.json': content | changes.pop('model', {}),
        'data/weights/model_weights_config.json': weights,
        **changes.pop('members', {}),
    }
    with zipfile.ZipFile(path, 'w') as archive:
        for name, value in members.items():
            if not isinstance(value, bytes):
                value = json.dumps(value)
            archive.writestr(f'x/{name}', value)


TARGETS = (
    *(
        'torch.os.system',
        'torch.serialization.pickle.loads',
        'math.__loader__',
    ),
    *('torch.ops.aten.from_file.default', 'torch.ops.aten.save.default'),
    *('_operator.methodcaller', '#custom:x', 'torch.ops.load_library'),
    *('torch.ops.image.write_file.default', 'torch.hub.load'),
)
EXPRESSIONS = (
    "__import__('os').system('x')",
    "open('x', 'w')",
    "L['image'].size.__globals__",
    '(lambda: 0)()',
    '[x for x in ()]',
    '1 # x',
    'exec(s0)',
    "Symbol('a b()')",
    '9**9**9',
)


@pytest.mark.parametrize(
    'changes',
    [
        *(dict(model=dict(nodes=[dict(target=t)])) for t in TARGETS),
        *(dict(model=dict(guards_code=[e])) for e in EXPRESSIONS),
        *(dict(model=dict(expr_str=e)) for e in EXPRESSIONS),
        dict(model=dict(range_constraints={'exec(1)': {}})),
        dict(model=dict(in_spec='{"__enum__": true, "fqn": "antigravity:x"}')),
        dict(members={'data/weights/weight_1.pt': b''}),
        dict(members={'data/constants/opaque_obj_0': b''}),
        dict(members={'data/aotinductor/model/x.so': b''}),
        dict(
            members={
                'data/weights/model_weights_config.json': dict(
                    config=dict(w=dict(use_pickle=True))
                )
            }
        ),
        dict(
            members={
                'data/constants/model_constants_config.json': dict(
                    config=dict(w=dict(path_name='../x'))
                )
            }
        ),
    ],
)
def test_exported_programs_only_compute(tmp_path, changes):
    path = tmp_path / 'x.pt2'
    write_program(path)
    check_program(path)
    write_program(path, **changes)
    with pytest.raises(ValueError, match=r'^(it|a weight in it) '):
        check_program(path)


@pytest.mark.parametrize(
    'cfg',
    [
        dict(type='os.system', command='x'),
        dict(type='ResNet', norm_cfg=dict(type='subprocess:run')),
        dict(type='ResNet', _scope_='evil'),
        dict(layers=[dict(a=[dict(type='builtins.exec')])]),
    ],
)
def test_configs_in_checkpoints_import_nothing(cfg):
    with pytest.raises(UserError, match='would import code'):
        require_registered(cfg, 'x.pth')
