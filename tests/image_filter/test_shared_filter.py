"""An image set that processes filter together."""

import shutil

from filter_helpers import ByColour
from interrupted_work import share_with_interruptions, tree

from clouds_mmseg.image_filter import FilterRule, filter_bank


def test_interrupted_processes_decide_as_one_does(spoilt, checkpoint):
    root = spoilt.root.with_name('many')
    shutil.copytree(spoilt.root, root)
    options = dict(checkpoint=checkpoint, sheet=4)
    lock = spoilt.root / 'filter/measures/rank-00000.lock'
    alone = filter_bank(spoilt.root, ByColour(), **options)
    lock.unlink()

    def run(**more):
        return filter_bank(
            root, ByColour(), shared=True, lease=1, **options | more
        )

    summary = share_with_interruptions(run, root)
    assert summary.share.finished and summary.share.taken_over
    assert tree(root) == tree(spoilt.root)
    for name in ('num', 'used', 'reasons', 'labelled', 'kept_pixels'):
        assert getattr(summary, name) == getattr(alone, name)
    # With other limits it decides anew, without the model.
    rule = FilterRule(k=2.0)
    filter_bank(spoilt.root, ByColour(), **options, rule=rule)
    model = ByColour()
    filter_bank(root, model, shared=True, lease=1, **options, rule=rule)
    assert not model.calls
    assert tree(root) == tree(spoilt.root)
