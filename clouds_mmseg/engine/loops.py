"""Training loops with exact resume, and the two stages of CLOUDS."""

from typing import Any

from mmengine.dist import get_rank, get_world_size
from mmengine.runner import IterBasedTrainLoop, Runner
from mmseg.registry import LOOPS

from clouds_mmseg.engine.data_check import leaf_datasets
from clouds_mmseg.engine.run_state import unwrap_model
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.hashing import mix_seed, seed_everything
from clouds_mmseg.utils.step_draws import seed_step


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
        seed_step(mix_seed(self.runner.seed, self._iter, 0))
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
        generated_beside: Instead of a share: so many generated samples in a
            batch beside its labelled ones, over all processes.
        **kwargs: As for :class:`ExactTrainLoop`.

    Raises:
        UserError: ``warmup_iters`` or ``generated_share`` is out of range,
            neither or both of share and number are given, the number cannot
            be divided among the processes, or the model mixes images
            and a batch may have no labelled one, or the generated images are
            smaller than the crops.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: dict,
        *,
        max_iters: int,
        warmup_iters: int,
        generated_share: float | None = None,
        generated_beside: int | None = None,
        **kwargs: Any,
    ):
        if not 0 <= warmup_iters <= max_iters:
            raise UserError(
                'train_cfg.warmup_iters must lie in [0, max_iters], got '
                f'{warmup_iters} with max_iters={max_iters}'
            )
        if (generated_share is None) == (generated_beside is None):
            raise UserError(
                'train_cfg needs generated_share, the share of generated '
                'images in a batch, or generated_beside, their number beside '
                f'the labelled ones; got {generated_share} and '
                f'{generated_beside}'
            )
        if generated_beside is not None and (
            generated_beside < 1 or generated_beside % get_world_size()
        ):
            raise UserError(
                'train_cfg.generated_beside must be a positive multiple of '
                f'the {get_world_size()} processes, got {generated_beside}'
            )
        if generated_share is not None and not 0 < generated_share < 1:
            raise UserError(
                'train_cfg.generated_share must lie in (0, 1), got '
                f'{generated_share}'
            )
        self.warmup_iters = warmup_iters
        self.generated_share = generated_share or 0.0
        self.generated_beside = (generated_beside or 0) // get_world_size()
        super().__init__(runner, dataloader, max_iters=max_iters, **kwargs)
        if warmup_iters < max_iters:
            self._check_mixing()

    def _make_deterministic(self, runner, dataloader):
        if self.generated_beside:
            dataloader = dict(
                dataloader,
                batch_size=dataloader['batch_size'] + self.generated_beside,
                collate_fn=dict(type='collate_present'),
            )
        return super()._make_deterministic(runner, dataloader)

    def _sampler_options(self):
        return dict(
            warmup_iters=self.warmup_iters,
            generated_share=self.generated_share,
            generated_beside=self.generated_beside,
        )

    def _check_mixing(self):
        """Check what a model that mixes images needs of the batches."""
        model = unwrap_model(self.runner.model)
        if getattr(model, 'mixing', None) is None:
            return
        sampler = self.dataloader.sampler
        if sampler.least_labelled() < 1:
            raise UserError(
                'model.mixing pastes parts of labelled images, but with '
                f'{sampler.batch_size * sampler.world_size} images in all and '
                f'generated_share={self.generated_share} a batch may have '
                'none: raise total_batch_size, lower '
                'train_cfg.generated_share, or give generated_beside'
            )
        source, generated = self.dataloader.dataset.datasets[:2]
        size = getattr(generated, 'least_size', None)
        for crop in _crop_sizes(source) if size else ():
            if any(
                side < length
                for side, length in zip(size[::-1], crop, strict=True)
            ):
                raise UserError(
                    f'model.mixing pastes crops of {crop[1]}x{crop[0]} '
                    '(width x height) onto generated images, of which some '
                    f'are only {size[0]}x{size[1]}: make the image bank '
                    f'{getattr(generated, "bank", "")} with --size '
                    f'{crop[1]}x{crop[0]} or more, or lower crop_size'
                )


def _crop_sizes(source):
    """Yield (height, width) of the crops of a source, or of several."""
    for dataset in leaf_datasets(source):
        steps = getattr(getattr(dataset, 'pipeline', None), 'transforms', ())
        for step in steps:
            if hasattr(step, 'crop_size'):
                yield tuple(step.crop_size)
                break
