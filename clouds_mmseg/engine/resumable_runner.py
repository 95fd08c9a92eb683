"""A runner that continues a run as its config says, or says why it cannot."""

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import IterBasedTrainLoop

from clouds_mmseg.checkpoints.saved_config import (
    parse_config_text,
    plain_config,
)
from clouds_mmseg.engine.portable_runner import PortableRunner
from clouds_mmseg.engine.resume import read_checkpoint
from clouds_mmseg.engine.resume_plan import (
    SCHEDULED,
    PlanChange,
    accepted_keys,
    config_changes,
    fact_changes,
    group_changes,
    require_same_plan,
    training_facts,
)
from clouds_mmseg.engine.schedule_replay import (
    NO_SETTINGS,
    can_replay,
    fast_forward,
    first_difference,
    hold_groups,
)
from clouds_mmseg.utils.errors import UserError

# Entries of a scheduler's state that change from step to step.
_MOVING = ('last_step', '_global_step', '_last_value', 'verbose')
# Where a run keeps what makes it differ from a run in one go.
CHANGES_KEY = 'resumed_with_changes'


class ResumableRunner(PortableRunner):
    """The portable runner, with a comparison of plans on resume.

    mmengine takes the whole state of schedulers and optimiser from the
    checkpoint: another length, rate or weight decay of the config is not
    used, and nothing says so. Here

    - what would have left the trained iterations as they are is followed
      (a longer run whose rates began the same);
    - other rates are followed from the checkpoint on, with a warning at the
      start, at the end and in ``results.json``;
    - everything else is one error, unless ``resume_cfg.accept`` names it.
    """

    _resuming = False
    _facts = None

    def train(self):
        """Train, and repeat at the end what was changed on the way.

        Returns:
            nn.Module: The trained model.
        """
        model = super().train()
        changes = self.message_hub.runtime_info.get(CHANGES_KEY) or []
        if changes:
            self.logger.warning(
                'These results are not those of one run with this config: '
                + '; '.join(changes)
            )
        return model

    def resume(self, filename, *args, **kwargs):
        """Continue a run under the plan of this config.

        Args:
            filename (str): The checkpoint.
            *args: As for mmengine.
            **kwargs: As for mmengine.

        Raises:
            UserError: The trained iterations would have been others.
        """
        self._resuming, self._notes = True, []
        try:
            super().resume(filename, *args, **kwargs)
        finally:
            self._resuming = False
        hub = self.message_hub
        # The hub of the checkpoint describes the run before.
        hub.update_info_dict(
            dict(seed=self.seed, experiment_name=self.experiment_name)
        )
        if hub.runtime_info.get('cfg'):
            hub.update_info('cfg', self.cfg.pretty_text)
        known = list(hub.runtime_info.get(CHANGES_KEY) or [])
        hub.update_info(CHANGES_KEY, known + self._notes)
        if known:
            self.logger.warning(
                'The checkpoint is not that of one run: ' + '; '.join(known)
            )

    def save_checkpoint(self, *args, meta=None, **kwargs):
        """Save a checkpoint that knows its images and parameters.

        Args:
            *args: As for mmengine.
            meta (dict, optional): As for mmengine.
            **kwargs: As for mmengine.
        """
        if is_main_process():
            meta = dict(meta or {}, training=self._training_facts())
        super().save_checkpoint(*args, meta=meta, **kwargs)

    def call_hook(self, fn_name, **kwargs):
        """Call hooks; before a checkpoint is saved, make it readable.

        mmengine puts a function of ``OneCycleLR`` into it, and a checkpoint
        that needs code to be read is refused.

        Args:
            fn_name (str): Which method of the hooks.
            **kwargs: Its arguments.
        """
        super().call_hook(fn_name, **kwargs)
        if fn_name == 'before_save_checkpoint':
            states = kwargs['checkpoint'].get('param_schedulers') or []
            if isinstance(states, dict):
                states = [s for each in states.values() for s in each]
            for state in states:
                for key in [k for k, v in state.items() if callable(v)]:
                    del state[key]

    def _training_facts(self):
        if self._facts is None:
            self._facts = training_facts(self)
        return self._facts

    def _adopt_seed(self):
        """Take the seed of the run to resume, where the config has none.

        The training data are built with it, before mmengine would set it.
        """
        if not self._resume or self._randomness_cfg.get('seed') is not None:
            return
        checkpoint = read_checkpoint(self._load_from, 'cpu', resume=True)
        seed = checkpoint.get('meta', {}).get('seed')
        if seed is not None:
            self._randomness_cfg.update(seed=seed)
            self.set_randomness(**self._randomness_cfg)

    def _require_whole_updates(self):
        """Refuse checkpoints that would lack accumulated gradients."""
        counts = _accumulative_counts(self.optim_wrapper)
        for hook in self._hooks:
            if not isinstance(hook, CheckpointHook) or hook.by_epoch:
                continue
            interval = hook.interval
            if interval > 0 and interval % counts:
                lower = interval - interval % counts
                fitting = [n for n in (lower, lower + counts) if n]
                raise UserError(
                    f'default_hooks.checkpoint.interval={interval} is no '
                    f'multiple of optim_wrapper.accumulative_counts={counts}: '
                    'a checkpoint in between lacks the gradients gathered so '
                    'far, and a run could not continue exactly; give '
                    '--cfg-options default_hooks.checkpoint.interval='
                    + ' or '.join(map(str, fitting))
                )

    def _continue_plan(self, checkpoint, filename):
        """Compare plans, and make the checkpoint follow that of the config.

        Args:
            checkpoint (dict): As read. What mmengine would restore wrongly
                is replaced.
            filename (str): Of the checkpoint.

        Raises:
            UserError: The trained iterations would have been others.
        """
        meta = checkpoint['meta']
        # mmengine executes what stands there.
        meta.pop('config', None)
        iteration = self._require_iterations_left(meta, filename)
        if iteration is None:
            # Nothing steps any more: their states need not fit this config.
            checkpoint.pop('optimizer', None)
            checkpoint.pop('param_schedulers', None)
            return
        was = parse_config_text(meta.get('cfg'))
        now = plain_config(self.cfg.to_dict() if self.cfg else {})
        facts = meta.get('training')
        wrapper = self.optim_wrapper
        changes = config_changes(
            was, now, iteration, files_known=facts is not None
        )
        changes += self._seed_change(meta)
        changes += fact_changes(facts, self._training_facts())
        changes += _accumulation_change(wrapper, was, iteration)
        single = isinstance(wrapper, OptimWrapper) and not isinstance(
            wrapper, OptimWrapperDict
        )
        if single:
            changes += group_changes(
                checkpoint['optimizer']['param_groups'],
                checkpoint['optimizer']['state'],
                wrapper.optimizer.param_groups,
                settings=was is None,
            )
        same = self._schedule_unchanged(checkpoint, was, now)
        followed = (
            single
            and can_replay(self.param_schedulers)
            and isinstance(self.train_loop, IterBasedTrainLoop)
        )
        if not same and not followed:
            changes.append(
                PlanChange(
                    'param_scheduler',
                    'a schedule of the checkpoint',
                    'another one of this config',
                    'only a schedule by iterations (by_epoch=False) that '
                    'watches no metric can be followed',
                )
            )
        # One parameter may be named by config and groups alike.
        changes = list({c.key: c for c in reversed(changes)}.values())[::-1]
        notes = require_same_plan(
            changes, accepted_keys(self.cfg), filename, iteration
        )
        meta['seed'] = self.seed
        if facts and facts['processes'] != self.world_size:
            notes.append(
                f'the first {iteration} iterations ran in '
                f'{facts["processes"]} processes, the later ones in '
                f'{self.world_size}: batches are the same, sampled points are '
                'others'
            )
        if not same:
            notes += self._follow_schedule(checkpoint, was, iteration)
        for note in notes:
            self.logger.warning(f'Resumed with changes: {note}')
        self._notes = notes

    def _require_iterations_left(self, meta, filename):
        """Iterations that are trained; None where nothing is left to do."""
        if not isinstance(meta.get('iter'), int):
            raise UserError(
                f'resume names {filename}, which does not say how many '
                'iterations it was trained for; begin a new training with '
                f'--cfg-options load_from={filename}'
            )
        loop = self.train_loop
        by_iter = isinstance(loop, IterBasedTrainLoop)
        unit = 'iter' if by_iter else 'epoch'
        planned = loop.max_iters if by_iter else loop.max_epochs
        done = meta.get(unit, 0)
        if done > planned:
            raise UserError(
                f'{filename} was trained for {done} {unit}s, more than '
                f'train_cfg.max_{unit}s={planned}: nothing is left to train; '
                f'give --cfg-options train_cfg.max_{unit}s=N with a larger N, '
                'or evaluate it with tools/test.py'
            )
        if done == planned:
            self.logger.info(
                f'{filename} was trained for all {done} {unit}s already: '
                'nothing is left to train'
            )
            return None
        return meta['iter']

    def _seed_change(self, meta):
        seed, given = meta.get('seed'), self._randomness_cfg.get('seed')
        if seed is None or given is None or seed == given:
            return []
        return [PlanChange('randomness.seed', seed, given)]

    def _schedule_unchanged(self, checkpoint, was, now):
        """Whether the saved states are those of this config's schedule."""
        states = checkpoint.get('param_schedulers')
        schedulers = self.param_schedulers
        if not _same_states(states, schedulers):
            return False
        if was and now:
            keys = ('optim_wrapper', 'auto_scale_lr', 'param_scheduler')
            return all(was.get(key) == now.get(key) for key in keys)
        saved = checkpoint['optimizer'].get('param_groups', [])
        groups = getattr(self.optim_wrapper, 'param_groups', [])
        return all(
            plain_config(old[key]) == plain_config(new[key])
            for old, new in zip(saved, groups, strict=False)
            for key in old.keys() & new.keys()
            if key.startswith('initial_')
            or key not in (*NO_SETTINGS, *SCHEDULED)
            or not states
        )

    def _follow_schedule(self, checkpoint, was, iteration):
        """Give optimiser and schedulers the rates of this config.

        Returns:
            list[str]: What was trained at other rates, if any.
        """
        wrapper, optimizer = self.optim_wrapper, checkpoint['optimizer']
        schedulers = self.param_schedulers or []
        base = optimizer.pop('base_param_settings', None)
        targets = optimizer['param_groups']
        groups = wrapper.param_groups
        # The last of several groups has the settings of none.
        saved = [dict(g) for g in targets] + ([dict(base)] if base else [])
        saved += [saved[-1]] * (len(groups) - len(saved))
        old = self._rebuild_schedule(was, saved)
        found = recorded = None
        if old is not None:
            found, recorded = first_difference(
                old, (schedulers, groups), iteration
            )
        if schedulers:
            fast_forward(schedulers, iteration)
        for target, group in zip(targets, groups, strict=False):
            indices = target['params']
            target.clear()
            target.update(group, params=indices)
        checkpoint.pop('param_schedulers', None)
        later = f'from iteration {iteration + 1} on the rates are those of '
        later += f'this config (lr {float(groups[0]["lr"]):.6g})'
        if found is not None:
            return [
                f'the first {iteration} iterations were trained at other '
                f'rates than this config has ({found.name} {found.was:.6g} '
                f'instead of {found.now:.6g} in iteration {found.iteration}); '
                + later
            ]
        names = ['lr', *(s.param_name for s in schedulers)]
        apart = _first_apart(saved, recorded or groups, names)
        if apart is None:
            self.logger.info(
                'The rates of this config were those of the checkpoint so '
                f'far; {later}'
            )
            return []
        name, has, expected = apart
        whose = 'its own config' if recorded else 'this config'
        return [
            f'the checkpoint has {name} {has:.6g} after {iteration} '
            f'iterations, where the schedule of {whose} has {expected:.6g}; '
            + later
        ]

    def _rebuild_schedule(self, was, saved):
        """The schedule of the checkpoint at its first iteration.

        Args:
            was (dict | None): Plain config of the checkpoint.
            saved (list[dict]): Its parameter groups.

        Returns:
            tuple | None: Schedulers and groups; None where they cannot be
            had.
        """
        if was is None:
            return None
        holder = hold_groups(
            [_initial_settings(group) for group in saved],
            self.optim_wrapper.defaults,
        )
        configs = was.get('param_scheduler') or []
        length = (was.get('train_cfg') or {}).get('max_iters')
        schedulers = []
        try:
            for config in configs if isinstance(configs, list) else [configs]:
                by_epoch = config.get('by_epoch', True)
                schedulers.append(
                    PARAM_SCHEDULERS.build(
                        dict(dict(end=1 if by_epoch else length), **config),
                        default_args=dict(
                            optimizer=holder,
                            epoch_length=len(self.train_dataloader),
                        ),
                    )
                )
        except Exception as error:
            self.logger.info(
                f'The schedule of the checkpoint cannot be rebuilt: {error}'
            )
            return None
        if not can_replay(schedulers):
            return None
        return schedulers, holder.param_groups


def _accumulative_counts(wrapper):
    """``accumulative_counts`` of an optimiser wrapper or its config."""
    if isinstance(wrapper, dict):
        return int(wrapper.get('accumulative_counts', 1))
    return getattr(wrapper, '_accumulative_counts', 1)


def _accumulation_change(wrapper, was, iteration):
    """A checkpoint inside of an accumulation lacks gradients."""
    now = _accumulative_counts(wrapper)
    before = _accumulative_counts((was or {}).get('optim_wrapper') or {})
    for counts in (before, now):
        if iteration % counts:
            return [
                PlanChange(
                    'optim_wrapper.accumulative_counts',
                    before,
                    now,
                    f'iteration {iteration} is no multiple of {counts}: the '
                    'gradients gathered since the last update are not in the '
                    'checkpoint; resume one that was saved at a multiple',
                )
            ]
    return []


def _same_states(states, schedulers):
    """Whether saved schedulers have the settings of these."""
    if not states and not schedulers:
        return True
    if isinstance(states, dict) and isinstance(schedulers, dict):
        return states.keys() == schedulers.keys() and all(
            _same_states(states[k], schedulers[k]) for k in states
        )
    if not (isinstance(states, list) and isinstance(schedulers, list)):
        return False
    if len(states) != len(schedulers):
        return False
    for state, scheduler in zip(states, schedulers, strict=False):
        own = scheduler.state_dict()
        for key in (state.keys() | own.keys()) - set(_MOVING):
            a, b = state.get(key), own.get(key)
            if not callable(b) and plain_config(a) != plain_config(b):
                return False
    return True


def _initial_settings(group):
    """Settings of a saved group before the first scheduler was built."""
    start = {k: v for k, v in group.items() if not k.startswith('initial_')}
    for key, value in group.items():
        if key.startswith('initial_'):
            start[key.removeprefix('initial_')] = value
    if 'betas' in start and 'momentum' in start:
        # The momentum of Adam: its first beta.
        start['betas'] = (start.pop('momentum'), start['betas'][1])
    return start


def _first_apart(saved, expected, names):
    """Name and both values of the first rate that differs, or None."""
    for old, new in zip(saved, expected, strict=False):
        for name in names:
            if name in old and name in new and old[name] != new[name]:
                return name, float(old[name]), float(new[name])
    return None
