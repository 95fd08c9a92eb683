"""Training loops with exact resume, and the two stages of CLOUDS."""

from typing import Any

from mmengine.dist import get_rank
from mmengine.runner import IterBasedTrainLoop, Runner
from mmseg.registry import LOOPS

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.hashing import mix_seed, seed_everything


@LOOPS.register_module()
class ExactTrainLoop(IterBasedTrainLoop):
    """Iteration-based training loop whose resume is bit-exact.

    mmengine's loop resumes at the right sample, but not with the same random
    numbers: crops, colours and sampled points differ. Here each sample has a
    seed derived from its index in the stream
    (:class:`~clouds_mmseg.datasets.sampling.KeyedDataset`), and each step a
    seed derived from its iteration. Resuming moves a counter; no sample is
    loaded twice.

    Args:
        runner: The runner; its seed is the run's.
        dataloader: ``train_dataloader`` of the config. Its dataset is wrapped
            and its sampler replaced.
        **kwargs: As for mmengine's ``IterBasedTrainLoop``.
    """

    def __init__(self, runner: Runner, dataloader: dict, **kwargs: Any):
        super().__init__(
            runner,
            self._make_deterministic(runner, dict(dataloader)),
            **kwargs,
        )

    def _make_deterministic(self, runner, dataloader):
        """Return a loader config with deterministic dataset and sampler."""
        dataset = dataloader['dataset']
        if dataset.get('type') != 'KeyedDataset':
            dataset = dict(type='KeyedDataset', datasets=[dataset])
        return dict(
            dataloader,
            dataset=dict(dataset, seed=runner.seed),
            sampler=dict(
                type='KeyedSampler',
                batch_size=dataloader['batch_size'],
                **self._sampler_options(),
            ),
        )

    def _sampler_options(self):
        """Return the sampler's arguments besides the batch size."""
        return {}

    def run_iter(self, data_batch: dict) -> None:
        """Run one iteration with its own seed.

        Args:
            data_batch: Batch of the data loader.
        """
        seed_everything(mix_seed(self.runner.seed, self._iter, get_rank()))
        super().run_iter(data_batch)


@LOOPS.register_module()
class SelfTrainingLoop(ExactTrainLoop):
    """Source-only training, then self-training on generated images as well.

    The two stages of CLOUDS (arXiv 2312.09788, section 4; two commands in
    the official code) in one run. The stage depends on the iteration alone,
    so that a run that was stopped in either stage continues in it.

    Args:
        dataloader: With a ``KeyedDataset`` of two groups: source, generated.
        warmup_iters: Iterations on the source alone. 0 where ``load_from``
            names a finished source-only training; ``max_iters`` for a
            baseline without self-training.
        generated_share: Share of generated samples in the batches after that,
            in (0, 1).
        **kwargs: As for :class:`ExactTrainLoop`.

    Raises:
        UserError: ``warmup_iters`` or ``generated_share`` is out of range.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: dict,
        *,
        max_iters: int,
        warmup_iters: int,
        generated_share: float,
        **kwargs: Any,
    ):
        if not 0 <= warmup_iters <= max_iters:
            raise UserError(
                'train_cfg.warmup_iters must lie in [0, max_iters], got '
                f'{warmup_iters} with max_iters={max_iters}'
            )
        if not 0 < generated_share < 1:
            raise UserError(
                'train_cfg.generated_share must lie in (0, 1), got '
                f'{generated_share}'
            )
        self.warmup_iters = warmup_iters
        self.generated_share = generated_share
        super().__init__(runner, dataloader, max_iters=max_iters, **kwargs)

    def _sampler_options(self):
        return dict(
            warmup_iters=self.warmup_iters,
            generated_share=self.generated_share,
        )
