import pytest
import torch
from torch import nn

from clouds_mmseg.engine.optim import BF16OptimWrapper


def test_products_run_in_bfloat16_and_weights_stay():
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    wrapper = BF16OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    before = model.weight.clone()
    with wrapper.optim_context(model):
        out = model(torch.ones(2, 4))
    assert out.dtype == torch.bfloat16
    wrapper.update_params(out.float().sum())
    assert model.weight.dtype == torch.float32
    assert torch.allclose(model.weight, before - 0.1 * 2)


def test_training_in_bfloat16_is_close_to_float32(build, tmp_path):
    losses = []
    for kind in ('OptimWrapper', 'BF16OptimWrapper'):
        runner = build(
            tmp_path / kind, optim_wrapper__type=kind, val_interval=100
        )
        runner.train()
        scalar = runner.message_hub.get_scalar('train/loss')
        losses.append(scalar.data[0])
    # The same start, rounded to eight bits of mantissa along the way.
    assert losses[0][0] == pytest.approx(losses[1][0], rel=0.02)
    assert losses[0][0] != losses[1][0]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs CUDA')
def test_cuda_runs_in_bfloat16():
    model = nn.Linear(4, 3).cuda()
    wrapper = BF16OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    with wrapper.optim_context(model):
        assert model(torch.ones(2, 4).cuda()).dtype == torch.bfloat16
