"""Runner that compares the plans of config and checkpoint on resume."""

from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import IterBasedTrainLoop
from torch import nn

from clouds_mmseg.engine.optim import (
    NO_SETTINGS,
    can_replay,
    fast_forward,
    first_difference,
    hold_groups,
)
from clouds_mmseg.engine.portable_runner import PortableRunner
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
from clouds_mmseg.engine.run_state import WEIGHTS_KEY
from clouds_mmseg.engine.sharding import is_sharded
from clouds_mmseg.utils.config_file import literal_config, parse_config_text
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.load import read_checkpoint

# Entries of a scheduler's state that change with every step.
_VARYING = ('last_step', '_global_step', '_last_value', 'verbose')
# Message hub key: changes on resume that make a run differ from an
# uninterrupted one.
CHANGES_KEY = 'resumed_with_changes'


class ResumableRunner(PortableRunner):
    """Portable runner that compares training plans on resume.

    mmengine takes the whole state of schedulers and optimiser from the
    checkpoint: a changed length, learning rate or weight decay of the config
    is ignored silently. Here

    - changes that leave the trained iterations unaffected are applied (a
      longer run with the same rates so far);
    - other rates are applied from the checkpoint on, with a warning at the
      start, at the end and in ``results.json``;
    - everything else is one error, unless ``resume_cfg.accept`` names it.
    """

    _resuming = False
    _facts = None
    # Of a sharded model: weights and optimiser states of the checkpoint that
    # is being saved.
    _gathered: tuple[dict, dict] = ({}, {})

    def train(self) -> nn.Module:
        """Train, and repeat the warnings about changes on resume at the end.

        Returns:
            The trained model.
        """
        model = super().train()
        changes = self.message_hub.runtime_info.get(CHANGES_KEY) or []
        if changes:
            self.logger.warning(
                'These results are not those of one run with this config: '
                + '; '.join(changes)
            )
        return model

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Resume a run with the training plan of this config.

        Args:
            filename: The checkpoint.
            *args: As for mmengine.
            **kwargs: As for mmengine.

        Raises:
            UserError: The plan would have changed the trained iterations.
        """
        self._resuming, self._notes = True, []
        try:
            super().resume(filename, *args, **kwargs)
        finally:
            self._resuming = False
        hub = self.message_hub
        # The hub of the checkpoint describes the previous run.
        hub.update_info_dict(
            {
                'seed': self.seed,
                'experiment_name': self.experiment_name,
                # Set by each evaluation.
                WEIGHTS_KEY: None,
            }
        )
        if hub.runtime_info.get('cfg'):
            hub.update_info('cfg', self.cfg.pretty_text)
        known = list(hub.runtime_info.get(CHANGES_KEY) or [])
        hub.update_info(CHANGES_KEY, known + self._notes)
        if known:
            self.logger.warning(
                'The checkpoint is not that of one run: ' + '; '.join(known)
            )

    def save_checkpoint(
        self, *args: Any, meta: dict | None = None, **kwargs: Any
    ) -> None:
        """Save a checkpoint with the facts of :func:`training_facts`.

        Args:
            *args: As for mmengine.
            meta: As for mmengine.
            **kwargs: As for mmengine.
        """
        if is_sharded(self.model):
            self._gathered = self.model.gather(self.optim_wrapper)
        if is_main_process():
            meta = dict(meta or {}, training=self._training_facts())
        super().save_checkpoint(*args, meta=meta, **kwargs)
        self._gathered = ({}, {})

    def call_hook(self, fn_name: str, **kwargs: Any) -> None:
        """Call hooks; before saving a checkpoint, remove functions from it.

        mmengine stores a function of ``OneCycleLR``, and checkpoints that
        need code to be loaded are refused. What is sharded is replaced by
        what was gathered.

        Args:
            fn_name: Method of the hooks.
            **kwargs: Its arguments.
        """
        if fn_name == 'before_save_checkpoint':
            weights, states = self._gathered
            kwargs['checkpoint']['state_dict'].update(weights)
            for number, state in states.items():
                kwargs['checkpoint']['optimizer']['state'][number].update(
                    state
                )
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
        """Take the seed from the checkpoint if the config has none.

        The training data depend on it and are built before mmengine sets it.
        """
        if not self._resume or self._randomness_cfg.get('seed') is not None:
            return
        checkpoint = read_checkpoint(self._load_from, 'cpu', resume=True)
        seed = checkpoint.get('meta', {}).get('seed')
        if seed is not None:
            self._randomness_cfg.update(seed=seed)
            self.set_randomness(**self._randomness_cfg)

    def _require_whole_updates(self):
        """Refuse checkpoint intervals that lose accumulated gradients."""
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

    def _continue_plan(self, checkpoint: dict, filename: str):
        """Compare the plans and adapt the checkpoint to that of the config.

        Args:
            checkpoint: As read. Entries that mmengine would restore wrongly
                are replaced.
            filename: Path of the checkpoint.

        Raises:
            UserError: The plan would have changed the trained iterations.
        """
        meta = checkpoint['meta']
        # mmengine would execute this text.
        meta.pop('config', None)
        iteration = self._require_iterations_left(meta, filename)
        if iteration is None:
            # Nothing steps any more: their states need not fit this config.
            checkpoint.pop('optimizer', None)
            checkpoint.pop('param_schedulers', None)
            return
        was = parse_config_text(meta.get('cfg'))
        now = literal_config(self.cfg.to_dict() if self.cfg else {})
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
        # Config and parameter groups may report the same key.
        changes = list({c.key: c for c in reversed(changes)}.values())[::-1]
        notes = require_same_plan(
            changes, accepted_keys(self.cfg), filename, iteration
        )
        meta['seed'] = self.seed
        if facts and facts['processes'] != self.world_size:
            notes.append(
                f'the first {iteration} iterations ran in '
                f'{facts["processes"]} processes, the later ones in '
                f'{self.world_size}: batches, points and views are the same, '
                'sums are made in another order'
            )
        if not same:
            notes += self._follow_schedule(checkpoint, was, iteration)
        for note in notes:
            self.logger.warning(f'Resumed with changes: {note}')
        self._notes = notes

    def _require_iterations_left(self, meta, filename):
        """Return the trained iterations, None if training is complete."""
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
                'or evaluate it with clouds test'
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
        """Return whether the saved states fit the schedule."""
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
            literal_config(old[key]) == literal_config(new[key])
            for old, new in zip(saved, groups, strict=False)
            for key in old.keys() & new.keys()
            if key.startswith('initial_')
            or key not in (*NO_SETTINGS, *SCHEDULED)
            or not states
        )

    def _follow_schedule(self, checkpoint, was, iteration) -> list[str]:
        """Set optimiser and schedulers to the rates of this config.

        Returns:
            Notes on iterations that were trained at other rates.
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
        difference = _first_rate_difference(saved, recorded or groups, names)
        if difference is None:
            self.logger.info(
                'The rates of this config were those of the checkpoint so '
                f'far; {later}'
            )
            return []
        name, has, expected = difference
        whose = 'its own config' if recorded else 'this config'
        return [
            f'the checkpoint has {name} {has:.6g} after {iteration} '
            f'iterations, where the schedule of {whose} has {expected:.6g}; '
            + later
        ]

    def _rebuild_schedule(
        self, was: dict | None, saved: list[dict]
    ) -> tuple | None:
        """Rebuild the schedule of the checkpoint at its first iteration.

        Args:
            was: Plain config of the checkpoint.
            saved: Its parameter groups.

        Returns:
            Schedulers and groups; None if they cannot be rebuilt.
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
    """Return ``accumulative_counts`` of an optimiser wrapper or its config."""
    if isinstance(wrapper, dict):
        return int(wrapper.get('accumulative_counts', 1))
    return getattr(wrapper, '_accumulative_counts', 1)


def _accumulation_change(wrapper, was, iteration):
    """Report a checkpoint in the middle of a gradient accumulation."""
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
    """Return whether saved schedulers have the settings of these."""
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
        for key in (state.keys() | own.keys()) - set(_VARYING):
            a, b = state.get(key), own.get(key)
            if not callable(b) and literal_config(a) != literal_config(b):
                return False
    return True


def _initial_settings(group):
    """Return a saved group's settings before schedulers were built."""
    start = {k: v for k, v in group.items() if not k.startswith('initial_')}
    for key, value in group.items():
        if key.startswith('initial_'):
            start[key.removeprefix('initial_')] = value
    if 'betas' in start and 'momentum' in start:
        # Adam's momentum is its first beta.
        start['betas'] = (start.pop('momentum'), start['betas'][1])
    return start


def _first_rate_difference(saved, expected, names):
    """Return name and both values of the first rate that differs, or None."""
    for old, new in zip(saved, expected, strict=False):
        for name in names:
            if name in old and name in new and old[name] != new[name]:
                return name, float(old[name]), float(new[name])
    return None
