"""A training loop whose every iteration depends on its number alone."""

from mmengine.dist import get_rank
from mmengine.runner import IterBasedTrainLoop
from mmseg.registry import LOOPS

from clouds_mmseg.datasets.seeds import mix_seed, seed_everything


@LOOPS.register_module()
class ExactTrainLoop(IterBasedTrainLoop):
    """Continue a stopped run exactly as if it had not been stopped.

    mmengine's loop resumes at the right sample, but not at the right random
    numbers: crops, colours and sampled points come out otherwise. Here each
    sample is drawn under a seed made of its place in the stream
    (:class:`~clouds_mmseg.datasets.keyed.KeyedDataset`) and each step under
    one made of its iteration. Resuming moves a counter; nothing is loaded
    twice.

    Args:
        runner (Runner): The runner; its seed is the run's.
        dataloader (dict): ``train_dataloader`` of the config. Its dataset
            is wrapped and its sampler replaced.
        **kwargs: As for mmengine's ``IterBasedTrainLoop``.
    """

    def __init__(self, runner, dataloader, **kwargs):
        super().__init__(
            runner, self._keyed(runner, dict(dataloader)), **kwargs
        )

    def _keyed(self, runner, dataloader):
        """A dataloader config with keyed dataset and sampler."""
        dataset = dataloader['dataset']
        if dataset.get('type') != 'KeyedDataset':
            dataset = dict(type='KeyedDataset', datasets=[dataset])
        return dict(
            dataloader,
            dataset=dict(dataset, seed=runner.seed),
            sampler=dict(
                type='KeyedSampler',
                batch_size=dataloader['batch_size'],
                **self._mixture(),
            ),
        )

    def _mixture(self):
        """Arguments of the sampler beyond the batch size."""
        return {}

    def run_iter(self, data_batch):
        """Do one iteration under its own seed.

        Args:
            data_batch (dict): A batch of the data loader.
        """
        seed_everything(mix_seed(self.runner.seed, self._iter, get_rank()))
        super().run_iter(data_batch)
