"""Run Triton's kernels on the CPU: python run_kernels.py CASES RESULTS.

Triton decides when it is imported whether kernels are interpreted, so this
is a process of its own, with TRITON_INTERPRET=1 in its environment; and so
was the process of which it is a fork, see warm_python.py.
"""

import sys

import torch

from clouds_mmseg.models.mask2former.deform_attn_triton import (
    ms_deform_attn_triton,
)


def run(value, shapes, locations, weights, direction):
    """Return the output and the gradients of its product with a direction."""
    inputs = [x.requires_grad_() for x in (value, locations, weights)]
    out = ms_deform_attn_triton(value, shapes, locations, weights)
    grads = torch.autograd.grad((out * direction).sum(), inputs)
    return [out.detach(), *grads]


if __name__ == '__main__':
    cases = torch.load(sys.argv[1])
    torch.save(
        {name: run(**case) for name, case in cases.items()}, sys.argv[2]
    )
