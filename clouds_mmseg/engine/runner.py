"""Runner with early checks of data and strict loading of checkpoints."""

import copy
import re
from collections import OrderedDict
from collections.abc import Sequence

import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.runner.checkpoint import load_state_dict
from mmseg.registry import RUNNERS
from torch import nn

from clouds_mmseg.conversion.diagnose import (
    classes_of,
    classes_of_config,
    diagnose_mismatch,
)
from clouds_mmseg.engine.data_check import (
    check_classes,
    check_dataset,
    check_domains,
    check_ignored,
    check_overlap,
    check_same_classes,
    write_parts,
)
from clouds_mmseg.engine.dataset_options import apply_dataset_options
from clouds_mmseg.engine.lost_ranks import naming_lost_ranks
from clouds_mmseg.engine.resumable_runner import ResumableRunner
from clouds_mmseg.engine.run_state import (
    AVERAGE_KEY,
    WEIGHTS_KEY,
    last_good_checkpoint,
    run_header,
    stop,
    swap_average,
    unwrap_model,
)
from clouds_mmseg.engine.sharding import is_sharded
from clouds_mmseg.models import DGSegmentor
from clouds_mmseg.utils.config_file import (
    model_differences,
    require_same_resize,
)
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.finite import NonFiniteError
from clouds_mmseg.utils.result_warnings import warn_about_results
from clouds_mmseg.weights.load import (
    CheckpointMismatchError,
    fetch_initial_weights,
    find_last_checkpoint,
    has_prefix,
    is_remote,
    load_strictly,
    read_checkpoint,
    require_checkpoint,
    without_pretrained_init,
)
from clouds_mmseg.weights.locate import fetch_checkpoint
from clouds_mmseg.weights.partial import (
    LoadOptions,
    check_class_names,
    load_options,
    reinitialise_parts,
)

# Datasets of more domains than this are summarised, not listed.
_MAX_LISTED_DOMAINS = 12


@RUNNERS.register_module()
class DGRunner(ResumableRunner):
    """Resumable runner with early checks and strict loading.

    - A checkpoint is loaded completely or not at all. ``load_cfg`` of the
      config may name parts that ``load_from`` may lack or have in addition,
      and parts that are reinitialised (:mod:`clouds_mmseg.weights.partial`).
      A test takes all weights from the checkpoint, whatever is named.
    - ``resume=True`` continues from the newest checkpoint of the work dir
      if there is one, and otherwise starts at iteration 0, with the weights
      of ``load_from`` if it is given, and warns of it;
      ``resume='path'`` continues from that file.
    - Missing checkpoints are reported before a dataset is built, and missing
      or empty datasets of training, validation and test before the first
      iteration.
    """

    # Purpose of loading a checkpoint, unless training is resumed.
    _use = 'train'

    @classmethod
    def from_cfg(cls, cfg: Config) -> 'DGRunner':
        """Build a runner after checking that its checkpoints exist.

        Raises:
            UserError: A checkpoint does not exist, or cannot be fetched.
        """
        cfg = copy.deepcopy(cfg)
        apply_dataset_options(cfg)
        for key in ('load_from', 'resume'):
            if isinstance(cfg.get(key), str):
                path = require_checkpoint(cfg[key], key)
                if is_remote(path):
                    path = str(fetch_checkpoint(path, key) or path)
                cfg[key] = path
        return super().from_cfg(cfg)

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        """Build the model; skip pretrained weights that a checkpoint replaces.

        Evaluation needs class indices only: results have no ``seg_logits``,
        unless ``model.test_cfg.keep_scores`` is True or a wrapper averages
        them.

        Args:
            model: As for mmengine.

        Returns:
            The model.

        Raises:
            UserError: Pretrained weights are missing.
        """
        overwritten = self._checkpoint_to_resume() is not None
        if self._load_from and not overwritten:
            overwritten = self._fills('backbone')
        if overwritten and isinstance(model, dict):
            model = without_pretrained_init(model)
        model = super().build_model(model)
        missing = getattr(unwrap_model(model), 'missing_weights', None)
        if missing is not None:
            raise missing
        if isinstance(model, DGSegmentor):
            model.keep_scores = False
        return model

    def register_default_hooks(
        self, hooks: dict[str, dict] | None = None
    ) -> None:
        """Register the default hooks and ``NonFiniteCheckHook``.

        Args:
            hooks: ``default_hooks`` of the config; ``nonfinite_check=None``
                disables the check.
        """
        hooks = dict(hooks or {})
        check = hooks.pop('nonfinite_check', {})
        if check is not None:
            default = dict(type='NonFiniteCheckHook')
            hooks['nonfinite_check'] = default | dict(check)
        super().register_default_hooks(hooks)

    def train(self) -> nn.Module:
        """Check checkpoint and data, then train, alone in the work dir.

        Returns:
            The trained model.

        Raises:
            UserError: Another training has the work dir, or the checks fail.
        """
        with self._own_work_dir():
            return self._check_and_train()

    def _check_and_train(self):
        self._choose_checkpoint()
        self._adopt_seed()
        self._require_whole_updates()
        fetch_initial_weights(
            unwrap_model(self.model), overwritten=self._replaces
        )
        self._check_prerequisites()
        self._split_batch_size()
        self._check_data('train', 'val')
        write_parts(self.train_loop.dataloader.dataset, self.work_dir)
        if (self._test_dataloader, self._test_evaluator) != (
            self._val_dataloader,
            self._val_evaluator,
        ):
            self._check_data('test')
        if self.val_loop is not None:
            trained = self.train_loop.dataloader.dataset
            tested = self.val_loop.dataloader.dataset
            metrics = self.val_loop.evaluator.metrics
            check_same_classes(trained, tested, 'val')
            check_overlap(trained, tested, metrics, 'val')
        self.logger.info(run_header(self, 'train', 'val'))
        env = self.cfg.get('env_cfg') or {}
        timeout = (env.get('dist_cfg') or {}).get('timeout')
        try:
            with naming_lost_ranks(timeout, self.work_dir):
                return super().train()
        except NonFiniteError as error:
            if error.is_told:
                raise
            # Of the model, which does not know where the training stands.
            done = f'training stopped after iteration {self.iter}'
            stop(self, f'{done}: {error}. {last_good_checkpoint(self)}')

    def val(self) -> dict:
        """Check the data, then validate.

        Returns:
            The metrics.
        """
        self._use = 'test'
        self._check_data('val')
        self.logger.info(run_header(self, 'val'))
        return super().val()

    def test(self) -> dict:
        """Check the data, then test.

        Returns:
            The metrics.
        """
        self._use = 'test'
        self._check_data('test')
        self.logger.info(run_header(self, 'test'))
        return super().test()

    def load_checkpoint(
        self,
        filename: str,
        map_location: str | torch.device = 'cpu',
        strict: bool = True,
        revise_keys: Sequence[tuple[str, str]] = ((r'^module\.', ''),),
    ) -> dict:
        """Load every weight of a checkpoint into the model, or none.

        Args:
            filename: Local path, or a URL that mmengine fetches.
            map_location: Device of the tensors.
            strict: False loads the matching weights only; this package never
                does.
            revise_keys: Pattern and replacement pairs applied to the keys.

        Returns:
            The checkpoint.

        Raises:
            UserError: The file is missing, damaged or no checkpoint, or its
                keys or shapes differ from the model's.
        """
        if is_sharded(self.model):
            # A device need not hold all of it.
            map_location = 'cpu'
        checkpoint = read_checkpoint(
            filename, map_location, resume=bool(self._resume)
        )
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        self._choose_weights(checkpoint, filename)
        state_dict = checkpoint['state_dict']
        for pattern, replacement in revise_keys:
            state_dict = OrderedDict(
                (re.sub(pattern, replacement, key), value)
                for key, value in state_dict.items()
            )
        model = unwrap_model(self.model)
        use = 'resume' if self._resume else self._use
        options = load_options(self.cfg.get('load_cfg'), use, model)
        found = classes_of(checkpoint.get('meta'))
        classes = self._classes(use)
        own = model.state_dict()
        if strict and use != 'resume':
            require_same_resize(checkpoint.get('meta'), self.cfg, filename)
        if strict:
            check_class_names(
                own, state_dict, found, classes, options, filename
            )
            state_dict, lines = reinitialise_parts(
                own, state_dict, options, found=found, classes=classes
            )
        if is_sharded(self.model):
            state_dict = self.model.shard_weights(state_dict)
        try:
            if strict:
                load_strictly(
                    model,
                    state_dict,
                    source=filename,
                    allow_missing=options.allow_missing,
                    allow_unexpected=options.allow_unexpected,
                )
            else:
                load_state_dict(model, state_dict, strict=False)
        except CheckpointMismatchError as error:
            raise diagnose_mismatch(
                error, filename, checkpoint, model, self.cfg, use
            ) from None
        if self._resuming:
            self._continue_plan(checkpoint, filename)
            if is_sharded(self.model) and 'optimizer' in checkpoint:
                self.model.shard_states(
                    checkpoint['optimizer'], self.optim_wrapper
                )
        if use == 'test':
            self._warn_of_differences(checkpoint, filename)
        if strict and lines:
            self.logger.info('\n  '.join([f'From {filename}:', *lines]))
        self._has_loaded = True
        self.logger.info(f'Loaded the checkpoint {filename}')
        return checkpoint

    def _warn_of_differences(self, checkpoint, filename):
        """Warn where the tested model differs from the trained one."""
        differences = model_differences(checkpoint.get('meta'), self.cfg)
        if differences:
            warn_about_results(
                f'{filename} was trained with other settings of the model '
                '(there -> here), and its scores are those of another model '
                'than it was:\n  ' + '\n  '.join(differences),
                key='other_model_settings',
                hub=self.message_hub,
            )
        averaged = (checkpoint.get('meta') or {}).get('weights')
        if AVERAGE_KEY in checkpoint:
            averaged = averaged or 'moving average of the weights (EMAHook)'
            warn_about_results(
                f'{filename} was saved by EMAHook: tested are the averaged '
                f'weights, not those that were trained ({AVERAGE_KEY})',
                key='averaged_weights',
                hub=self.message_hub,
            )
        self.message_hub.update_info(WEIGHTS_KEY, averaged)

    def _choose_weights(self, checkpoint, filename):
        """Take the trained weights where there are averaged ones as well."""
        if AVERAGE_KEY not in checkpoint:
            return
        if not self._resume:
            if self._use == 'train':
                self.logger.info(
                    f'{filename} was saved by EMAHook: training starts from '
                    'the averaged weights'
                )
            return
        # A hook has exchanged them already.
        if not any(isinstance(hook, EMAHook) for hook in self._hooks):
            swap_average(checkpoint)
            self.logger.warning(
                f'{filename} was saved by EMAHook, and this run has none: it '
                'continues from the trained weights, without the average'
            )

    def _classes(self, use):
        """Return the class names of the model's outputs."""
        split = 'test' if use == 'test' else 'train'
        loop = getattr(self, f'_{split}_loop')
        if hasattr(loop, 'dataloader'):
            return getattr(loop.dataloader.dataset, 'metainfo', {}).get(
                'classes'
            )
        known = classes_of_config(self.cfg.get(f'{split}_dataloader'))
        return known and known['classes']

    def _checkpoint_to_resume(self):
        """Return the checkpoint that ``resume`` refers to, if any."""
        if isinstance(self._resume, str):
            return require_checkpoint(self._resume, 'resume')
        return find_last_checkpoint(self.work_dir) if self._resume else None

    def _choose_checkpoint(self):
        """Resolve ``resume`` and ``load_from`` to one existing file."""
        path = self._checkpoint_to_resume()
        if path is not None:
            self._load_from = path
            self._resume = True
        elif self._resume:
            said = (
                f'--resume: there is no checkpoint in {self.work_dir}, so '
                'training starts at iteration 0'
            )
            if self._load_from:
                # MMEngine's own runner would resume load_from itself.
                said += (
                    f', with the weights of load_from={self._load_from}. To '
                    'continue that training, with its optimizer and '
                    f'iteration: resume={self._load_from}'
                )
            self.logger.warning(said)
            self._resume = False

    def _replaces(self, part):
        """Return whether a checkpoint overwrites a part of the model."""
        # A checkpoint of the same run is complete: load_cfg does not apply.
        return bool(self._resume or (self._load_from and self._fills(part)))

    def _fills(self, part):
        """Return whether ``load_from`` fills a part, given ``load_cfg``."""
        # The teacher is initialised from the student.
        if has_prefix(part, ['teacher']):
            return True
        return LoadOptions.of(self.cfg.get('load_cfg')).fills(part)

    def _check_prerequisites(self):
        """Check or create what training needs, before datasets are built."""

    def _check_data(self, *splits):
        """Open and check every dataset of some loops before the run starts."""
        for split in splits:
            try:
                loop = getattr(self, f'{split}_loop')
            except ValueError as error:
                # The error of mmengine's ConcatDataset.
                if 'meta information' not in str(error):
                    raise
                raise UserError(
                    f'the {split} datasets differ in classes or palette, and '
                    'datasets that are joined must have the same: '
                    f'{error}'
                ) from error
            if loop is None:
                continue
            dataset = loop.dataloader.dataset
            check_dataset(dataset, split)
            model = unwrap_model(self.model)
            metrics = [] if split == 'train' else loop.evaluator.metrics
            check_classes(dataset, model, split)
            check_ignored(dataset, model, metrics, split)
            check_domains(dataset, metrics, split)
