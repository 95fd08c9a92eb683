"""EMA updates of the teacher of a self-training segmentor."""

from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS

from clouds_mmseg.engine.run_state import require_finite_weights, unwrap_model
from clouds_mmseg.utils.errors import UserError


@HOOKS.register_module()
class EMATeacherHook(Hook):
    """Initialise the teacher from the student, then update it by EMA.

    The teacher is a copy of the student when self-training begins: at the
    loop's ``warmup_iters``, or before the first iteration. From then on it is
    updated every ``interval`` iterations. Everything depends on the iteration
    and on the teacher's saved step count, so that a resumed run does the
    same.

    Args:
        interval: Iterations between two updates. The official code updates
            every 100 (and writes a decay of 0.999 an update).

    Raises:
        UserError: ``interval`` is not positive.
        NonFiniteError: In a run, before an update: a weight of the student
            is NaN or infinite. It would stay in the average forever.
    """

    priority = 'NORMAL'

    def __init__(self, interval: int = 100):
        if interval < 1:
            raise UserError(f'interval must be at least 1, got {interval}')
        self.interval = interval
        self._initialized = False

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None
    ) -> None:
        """Copy the student when self-training begins."""
        if self._initialized or runner.iter < self._start(runner):
            return
        self._initialized = True
        model = unwrap_model(runner.model)
        if model.teacher.steps == 0:
            self._update(runner)
            runner.logger.info(
                f'Self-training begins at iteration {runner.iter}: the '
                'teacher is a copy of the student.'
            )

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: dict | None = None,
    ) -> None:
        """Update the teacher every ``interval`` iterations."""
        since = runner.iter + 1 - self._start(runner)
        if since > 0 and since % self.interval == 0:
            self._update(runner)

    @staticmethod
    def _update(runner):
        model = unwrap_model(runner.model)
        require_finite_weights(
            runner,
            f'the weights that the teacher would follow at iteration '
            f'{runner.iter + 1}',
            model.student(),
        )
        model.update_teacher()

    @staticmethod
    def _start(runner):
        return getattr(runner.train_loop, 'warmup_iters', 0)
