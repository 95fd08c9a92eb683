"""Warm-up on the source, then self-training, in one run."""

from mmseg.registry import LOOPS

from clouds_mmseg.engine.exact_train_loop import ExactTrainLoop


@LOOPS.register_module()
class SelfTrainingLoop(ExactTrainLoop):
    """Train on the source alone, then on source and generated images.

    The two stages of CLOUDS (arXiv 2312.09788, section 4; two commands in
    the official code) follow one another at an iteration's number: a run
    that was stopped in either stage continues in it.

    Args:
        runner (Runner): The runner.
        dataloader (dict): With a ``KeyedDataset`` of two groups: source,
            generated.
        warmup_iters (int): Iterations on the source alone. 0 where
            ``load_from`` names a finished warm-up; ``max_iters`` for a run
            without self-training, to compare with.
        generated_share (float): Share of generated samples in the batches
            after that, in (0, 1).
        **kwargs: As for :class:`ExactTrainLoop`.

    Raises:
        ValueError: ``warmup_iters`` or ``generated_share`` is out of range.
    """

    def __init__(
        self,
        runner,
        dataloader,
        *,
        max_iters,
        warmup_iters,
        generated_share,
        **kwargs,
    ):
        if not 0 <= warmup_iters <= max_iters:
            raise ValueError(
                'train_cfg.warmup_iters must lie in [0, max_iters], got '
                f'{warmup_iters} with max_iters={max_iters}'
            )
        if not 0 < generated_share < 1:
            raise ValueError(
                'train_cfg.generated_share must lie in (0, 1), got '
                f'{generated_share}'
            )
        self.warmup_iters = warmup_iters
        self.generated_share = generated_share
        super().__init__(runner, dataloader, max_iters=max_iters, **kwargs)

    def _mixture(self):
        return dict(
            warmup_iters=self.warmup_iters,
            generated_share=self.generated_share,
        )
