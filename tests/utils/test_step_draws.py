import torch

from clouds_mmseg.utils.step_draws import ImageDraws


def test_a_process_alone_draws_as_torch_does():
    """Bit for bit: results of earlier versions stay what they were."""
    draws = ImageDraws([2, 0, 3], 'cpu')
    torch.manual_seed(0)
    found = [
        draws.images(2, 7, 2),
        draws.common(5, 2),
        draws.rows(2, 4, 2),
    ]
    torch.manual_seed(0)
    expected = [
        torch.rand(2, 3, 7, 2),
        torch.rand(5, 2),
        torch.rand(10, 4, 2),
    ]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.equal(theirs)


def test_images_without_rows_get_none():
    assert ImageDraws([0, 0], 'cpu').rows(3, 4, 2).shape == (0, 4, 2)
