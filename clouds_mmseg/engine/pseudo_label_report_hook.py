"""Say how the pseudo labels look in numbers."""

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmseg.registry import HOOKS

from clouds_mmseg.engine.run_header import bare_model


@HOOKS.register_module()
class PseudoLabelReportHook(Hook):
    """Log what a user needs to trust the pseudo labels.

    Share of pixels kept, the teacher's mean confidence, agreement of labels
    before and after refinement, and the share of each class. In a
    distributed run the numbers are those of the first process.

    Args:
        interval (int): Iterations between two reports.

    Raises:
        ValueError: ``interval`` is not positive.
    """

    # Before LoggerHook, which reads the message hub.
    priority = 'NORMAL'

    def __init__(self, interval=500):
        if interval < 1:
            raise ValueError(f'interval must be at least 1, got {interval}')
        self.interval = interval

    def after_train_iter(
        self, runner, batch_idx, data_batch=None, outputs=None
    ):
        """Report the labels made since the last report.

        Args:
            runner (Runner): The runner.
            batch_idx (int): Unused.
            data_batch (dict, optional): Unused.
            outputs (dict, optional): Unused.
        """
        if (runner.iter + 1) % self.interval:
            return
        report = bare_model(runner.model).statistics.pop()
        if report is None or not is_main_process():
            return
        classes = runner.train_loop.dataloader.dataset.metainfo['classes']
        shares = dict(zip(classes, report.pop('histogram'), strict=True))
        scalars = {
            f'pseudo_label/{name}': value for name, value in report.items()
        } | {f'pseudo_label/share/{k}': v for k, v in shares.items()}
        runner.visualizer.add_scalars(scalars, step=runner.iter + 1)
        largest = sorted(shares, key=shares.get, reverse=True)
        runner.logger.info(
            f'Pseudo labels of {report["images"]} images: '
            f'{report["kept"]:.1%} of pixels kept, '
            f'confidence {report["confidence"]:.3f}, '
            f'unchanged by refinement {report["agreement"]:.1%}\n  '
            + '  '.join(f'{c} {shares[c]:.1%}' for c in largest)
        )
