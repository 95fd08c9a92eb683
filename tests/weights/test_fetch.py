from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
)

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.io import WeightFileError
from clouds_mmseg.weights.locate import missing_error, read_remote


def test_a_named_checkpoint_is_read_from_the_folder(pretrained_folder):
    saved = dict(state_dict=dict(a=torch.ones(2)), meta=dict(iter=3))
    torch.save(saved, pretrained_folder / 'resnet50-0676ba61.pth')
    torch.save(saved, pretrained_folder / 'x.pth')
    for name in ('torchvision://resnet50', 'https://a.invalid/b/x.pth'):
        found = read_remote(name)
        assert found['meta'] == saved['meta']
        assert torch.equal(found['state_dict']['a'], torch.ones(2))


def test_what_cannot_be_read_is_one_error(pretrained_folder):
    with pytest.raises(UserError, match='x.pth is not here'):
        read_remote('https://a.invalid/b/x.pth')
    (pretrained_folder / 'x.pth').write_bytes(b'<html>')
    with pytest.raises(WeightFileError, match='web page'):
        read_remote('https://a.invalid/b/x.pth')
    with pytest.raises(UserError, match='could not be read'):
        read_remote('mmcls-of-old://x')


@pytest.mark.parametrize(
    ('kind', 'status', 'said'),
    [
        (
            GatedRepoError,
            403,
            'ask for access at https://huggingface.co/facebook/gated, then '
            '`hf auth login` and run this again; or hf download',
        ),
        (RepositoryNotFoundError, 404, 'compare the name with https://hugg'),
        (HfHubHTTPError, 401, 'or if it is private, `hf auth login`'),
        (HfHubHTTPError, 500, 'to have it: hf download facebook/gated'),
    ],
)
@pytest.mark.parametrize('wrapped', [False, True])
def test_the_hubs_own_answer_is_told(kind, status, said, wrapped):
    """Also where diffusers or transformers raise an error of their own."""
    response = SimpleNamespace(headers={}, request=None, status_code=status)
    found = kind('what the hub says', response=response)
    if wrapped:
        try:
            try:
                raise found
            except OSError as error:
                raise ValueError('not fully cached') from error
        except ValueError as error:
            found = error
    text = str(
        missing_error(
            'the weights of a tower',
            ['model.safetensors'],
            repository='facebook/gated',
            error=found,
        )
    )
    assert said in text
    assert f'({kind.__name__}: what the hub says)' in text
