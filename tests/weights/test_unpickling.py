import builtins
import io
import pickle
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mmengine.logging import HistoryBuffer

from clouds_mmseg.weights.io import (
    ArrayUnpickler,
    WeightFileError,
    as_tensors,
    read_content,
    read_state_dict,
)

DTYPES = ['<f4', '>f4', 'f8', 'f2', 'i8', '>i4', 'u1', '?']
ARRAYS = hnp.arrays(
    st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, min_side=0)
)


@settings(max_examples=40, deadline=None)
@given(array=ARRAYS, protocol=st.integers(2, 5))
def test_arrays_of_every_protocol(array, protocol):
    content = {'model': OrderedDict(w=array), 'n': array.dtype.type(1)}
    data = pickle.dumps(content, protocol)
    old = data.replace(b'numpy._core', b'numpy.core')
    for version in {data, old} if protocol < 4 else {data}:
        found = as_tensors(ArrayUnpickler(io.BytesIO(version)).load())
        weight = found['model']['w']
        assert isinstance(weight, torch.Tensor)
        np.testing.assert_array_equal(weight.numpy(), array)
        assert found['n'] == 1
        weight.flatten()  # its memory is its own
        assert weight.is_contiguous()


def test_detectron2_pickles_are_weights(tmp_path):
    path = tmp_path / 'model_final.pkl'
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    weights = {'a': array, 'b': array.T}
    path.write_bytes(
        pickle.dumps({'model': weights, '__author__': 'third_party'}, 2)
    )
    found = read_state_dict(path)
    assert torch.equal(found['a'], torch.from_numpy(array))
    assert torch.equal(found['b'], torch.from_numpy(array).T)
    assert read_content(path)['__author__'] == 'third_party'
    data = path.read_bytes()
    # Under another name, and cut.
    (tmp_path / 'm.pth').write_bytes(data)
    assert read_state_dict(tmp_path / 'm.pth').keys() == {'a', 'b'}
    path.write_bytes(data[:-30])
    with pytest.raises(WeightFileError, match=r'model_final\.pkl.*truncated'):
        read_state_dict(path)


class Call:
    """A pickle of it calls a function."""

    def __init__(self, function, *args):
        self.how = (function, args)

    def __reduce__(self):
        return self.how


def attacks(target):
    """Pickled objects that would write a file, in several disguises."""
    write = f'open({str(target)!r}, "w").close()'
    return {
        'exec': Call(exec, write),
        'open': Call(open, str(target), 'w'),
        'import': Call(builtins.__import__, 'os'),
        'tofile': Call(np.ndarray.tofile, np.zeros(1), str(target)),
        'getattr': Call(getattr, np.ndarray, 'tofile'),
        'globals': Call(getattr, HistoryBuffer.update, '__globals__'),
        'hidden': {'model': {'w': np.zeros(1), 'x': [Call(exec, write)]}},
        'object': np.array([Call(exec, write)], dtype=object),
    }


@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
@pytest.mark.parametrize('name', attacks(''))
@pytest.mark.parametrize('form', ['torch', 'old torch', 'pkl', 'pkl 5'])
def test_a_malicious_pickle_is_refused_and_never_run(tmp_path, name, form):
    target, path = tmp_path / 'was_here', tmp_path / 'evil.pth'
    content = {'model': {'w': torch.ones(1)}, 'x': attacks(target)[name]}
    if form.startswith('pkl'):
        content['model'] = {'w': np.ones(1)}
        path = path.with_suffix('.pkl')
        path.write_bytes(pickle.dumps(content, 5 if '5' in form else 2))
    else:
        torch.save(
            content, path, _use_new_zipfile_serialization=form == 'torch'
        )
    with pytest.raises(WeightFileError, match=r'evil\.p.*is refused') as info:
        read_content(path)
    assert not target.exists()
    assert 'clouds publish ' in str(info.value)


def test_the_refused_name_is_said(tmp_path):
    path = tmp_path / 'evil.pkl'
    path.write_bytes(pickle.dumps({'model': {}, 'x': Call(exec, '1')}))
    with pytest.raises(WeightFileError, match=r'names builtins\.exec'):
        read_content(path)


def test_trust_runs_it(tmp_path):
    target = tmp_path / 'was_here'
    for path in (tmp_path / 'mine.pkl', tmp_path / 'mine.pth'):
        content = {
            'model': {'w': np.ones(2)},
            'x': Call(exec, f'open({str(target)!r}, "w").close()'),
        }
        if path.suffix == '.pkl':
            path.write_bytes(pickle.dumps(content))
        else:
            torch.save({**content, 'model': {'w': torch.ones(2)}}, path)
        weights = read_state_dict(path, trust=True)
        assert torch.equal(weights['w'].float(), torch.ones(2))
        assert target.exists()
        target.unlink()


@pytest.mark.parametrize('module', ['numpy._core', 'numpy.core'])
def test_log_buffers_of_runs_are_read(tmp_path, module):
    """numpy 1 named its modules otherwise, as the zoo's files do."""
    path = tmp_path / 'epoch.pth'
    hub = {
        'log_scalars': {'loss': HistoryBuffer([1.0, 2.0], [1, 1])},
        'lr': np.float64(0.5),
    }
    torch.save({'state_dict': {'w': torch.ones(1)}, 'message_hub': hub}, path)
    renamed = tmp_path / 'renamed.pth'
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(renamed, 'w') as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith('data.pkl'):
                assert b'numpy._core' in data and b'getattr' in data
                data = data.replace(b'numpy._core', module.encode())
            new.writestr(name, data)
    found = read_content(renamed)['message_hub']
    assert found['log_scalars']['loss'].mean() == 1.5
    assert found['lr'] == 0.5
