import pytest
import torch
from safetensors.torch import save_file

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.load import (
    find_last_checkpoint,
    is_remote,
    read_checkpoint,
    require_checkpoint,
)


def test_urls_are_left_to_mmengine():
    assert is_remote('https://example.org/x.pth')
    assert is_remote('torchvision://resnet50')
    assert not is_remote('/disk/x.pth')
    assert require_checkpoint('https://a/b.pth', 'load_from')


def test_a_home_folder_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'x.pth').write_text('')
    assert require_checkpoint('~/x.pth', 'resume') == str(tmp_path / 'x.pth')


def test_nothing_to_resume(tmp_path):
    assert find_last_checkpoint(str(tmp_path)) is None


def test_a_moved_work_dir_is_still_resumed(tmp_path):
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/iter_8.pth')
    (tmp_path / 'iter_8.pth').write_text('')
    found = find_last_checkpoint(str(tmp_path))
    assert found == str(tmp_path / 'iter_8.pth')


def test_a_pointer_to_nothing_is_an_error(tmp_path):
    (tmp_path / 'last_checkpoint').write_text('/elsewhere/iter_8.pth')
    with pytest.raises(UserError, match='last_checkpoint names .*iter_8'):
        find_last_checkpoint(str(tmp_path))


def test_what_mmengine_saves_is_read_safely(trained):
    checkpoint = read_checkpoint(str(trained / 'iter_4.pth'))
    assert checkpoint['meta']['iter'] == 4
    assert {'state_dict', 'optimizer', 'message_hub'} <= set(checkpoint)


def test_safetensors_hold_weights_only(tmp_path):
    path = tmp_path / 'w.safetensors'
    save_file({'a': torch.ones(2)}, path)
    checkpoint = read_checkpoint(str(path))
    assert torch.equal(checkpoint['state_dict']['a'], torch.ones(2))


@pytest.mark.parametrize('size', [0, 100, 5000])
def test_a_truncated_file_is_named(tmp_path, trained, size):
    path = tmp_path / 'cut.pth'
    path.write_bytes((trained / 'iter_4.pth').read_bytes()[:size])
    with pytest.raises(UserError, match=r'cut\.pth'):
        read_checkpoint(str(path))


class Evil:
    def __reduce__(self):
        return (exec, ('raise SystemExit("code of the file ran")',))


def test_code_in_a_checkpoint_never_runs(tmp_path):
    path = tmp_path / 'evil.pth'
    torch.save({'state_dict': {}, 'meta': Evil()}, path)
    with pytest.raises(
        UserError, match=r'evil\.pth is a pickle that needs code'
    ):
        read_checkpoint(str(path))


def test_a_bare_tensor_is_no_checkpoint(tmp_path):
    path = tmp_path / 't.pth'
    torch.save(torch.ones(1), path)
    with pytest.raises(UserError, match='holds a Tensor'):
        read_checkpoint(str(path))
