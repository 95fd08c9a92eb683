"""A runner that finds out early, loads strictly and can be read."""

import copy
import re
from collections import OrderedDict

from mmengine.runner.checkpoint import load_state_dict
from mmseg.registry import RUNNERS

from clouds_mmseg.checkpoints.explain import explain_mismatch
from clouds_mmseg.checkpoints.strict import (
    CheckpointMismatchError,
    load_strictly,
)
from clouds_mmseg.engine.data_check import (
    check_classes,
    check_dataset,
    check_domains,
    check_ignored,
    check_overlap,
    check_same_classes,
)
from clouds_mmseg.engine.dataset_options import apply_dataset_options
from clouds_mmseg.engine.initial_weights import fetch_initial_weights
from clouds_mmseg.engine.resumable_runner import ResumableRunner
from clouds_mmseg.engine.resume import (
    find_last_checkpoint,
    is_remote,
    read_checkpoint,
    require_checkpoint,
)
from clouds_mmseg.engine.run_header import bare_model, run_header
from clouds_mmseg.models import DGSegmentor
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.later_weights import weights_come_later
from clouds_mmseg.utils.zoo_address import fetch_checkpoint


@RUNNERS.register_module()
class DGRunner(ResumableRunner):
    """The resumable runner with the promises of this package.

    - A checkpoint is loaded whole or not at all. ``load_cfg`` of the config
      may name prefixes that ``load_from`` is allowed to lack or to have too
      many: ``load_cfg=dict(allow_missing=['teacher.'])``.
    - ``resume=True`` continues from the newest checkpoint of the work dir
      if there is one, and otherwise starts with ``load_from``;
      ``resume='path'`` continues from that file.
    - Missing checkpoints are reported before a dataset is built, and missing
      or empty datasets of training, validation and test before the first
      iteration.
    """

    @classmethod
    def from_cfg(cls, cfg):
        """Build a runner, once the checkpoints that it names exist.

        Args:
            cfg (Config): The config.

        Returns:
            DGRunner: The runner.

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

    def build_model(self, model):
        """Build the model, without files that a checkpoint replaces.

        The runs compare labels: results have no ``seg_logits``, unless
        ``model.test_cfg.keep_scores`` is True or a wrapper averages them.

        Args:
            model (nn.Module | dict): As for mmengine.

        Returns:
            nn.Module: The model.

        Raises:
            UserError: Pretrained weights are missing.
        """
        coming = self._checkpoint_to_resume() is not None
        if self._load_from and not coming:
            lacking = self.cfg.get('load_cfg', {}).get('allow_missing', ())
            coming = not any(
                prefix.startswith('backbone') or 'backbone.'.startswith(prefix)
                for prefix in lacking
            )
        with weights_come_later(coming):
            model = super().build_model(model)
        missing = getattr(bare_model(model), 'missing_weights', None)
        if missing is not None:
            raise missing
        if isinstance(model, DGSegmentor):
            model.keep_scores = False
        return model

    def register_default_hooks(self, hooks=None):
        """Register the default hooks and, for any config, NonFiniteCheckHook.

        Args:
            hooks (dict[str, dict], optional): ``default_hooks`` of the
                config; ``nonfinite_check=None`` leaves the check out.
        """
        hooks = dict(hooks or {})
        check = hooks.pop('nonfinite_check', {})
        if check is not None:
            kind = dict(type='NonFiniteCheckHook')
            hooks['nonfinite_check'] = kind | dict(check)
        super().register_default_hooks(hooks)

    def train(self):
        """Check checkpoint and data, then train.

        Returns:
            nn.Module: The trained model.
        """
        self._choose_checkpoint()
        self._adopt_seed()
        self._require_whole_updates()
        fetch_initial_weights(
            bare_model(self.model), overwritten=self._loads_everything()
        )
        self._require()
        self._share_batch()
        self._check_data('train', 'val')
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
        return super().train()

    def val(self):
        """Check the data, then validate.

        Returns:
            dict: The metrics.
        """
        self._check_data('val')
        self.logger.info(run_header(self, 'val'))
        return super().val()

    def test(self):
        """Check the data, then test.

        Returns:
            dict: The metrics.
        """
        self._check_data('test')
        self.logger.info(run_header(self, 'test'))
        return super().test()

    def load_checkpoint(
        self,
        filename,
        map_location='cpu',
        strict=True,
        revise_keys=((r'^module\.', ''),),
    ):
        """Load every weight of a checkpoint into the model, or none.

        Args:
            filename (str): Local path, or a URL that mmengine fetches.
            map_location (str | torch.device): Where the tensors go.
            strict (bool): False takes what fits, which nothing in this
                package asks for.
            revise_keys (Sequence[tuple[str, str]]): Pattern and replacement
                pairs applied to the keys.

        Returns:
            dict: The checkpoint.

        Raises:
            UserError: The file is missing, damaged or no checkpoint, or its
                keys or shapes differ from the model's.
        """
        checkpoint = read_checkpoint(
            filename, map_location, resume=bool(self._resume)
        )
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        state_dict = checkpoint['state_dict']
        for pattern, replacement in revise_keys:
            state_dict = OrderedDict(
                (re.sub(pattern, replacement, key), value)
                for key, value in state_dict.items()
            )
        model = bare_model(self.model)
        # What a run saved itself is complete: no exceptions on resume.
        allowed = {} if self._resume else self.cfg.get('load_cfg', {})
        try:
            if strict:
                load_strictly(model, state_dict, source=filename, **allowed)
            else:
                load_state_dict(model, state_dict, strict=False)
        except CheckpointMismatchError as error:
            raise explain_mismatch(
                error, filename, checkpoint, model, self.cfg
            ) from None
        if self._resuming:
            self._continue_plan(checkpoint, filename)
        self._has_loaded = True
        self.logger.info(f'Loaded the checkpoint {filename}')
        return checkpoint

    def _checkpoint_to_resume(self):
        """The file that ``resume`` means, or None if there is none."""
        if isinstance(self._resume, str):
            return require_checkpoint(self._resume, 'resume')
        return find_last_checkpoint(self.work_dir) if self._resume else None

    def _choose_checkpoint(self):
        """Turn ``resume`` and ``load_from`` into one existing file."""
        path = self._checkpoint_to_resume()
        if path is not None:
            self._load_from = path
            self._resume = True
        elif self._resume:
            self.logger.info(
                f'Nothing to resume in {self.work_dir}: starting anew.'
            )
            self._resume = False

    def _loads_everything(self):
        """Whether a checkpoint replaces every weight before training."""
        partly = self.cfg.get('load_cfg', {}).get('allow_missing')
        return bool(self._resume or (self._load_from and not partly))

    def _require(self):
        """See that what training needs is there; no dataset is open yet."""

    def _check_data(self, *splits):
        """Open every dataset of some loops before anything else happens."""
        for split in splits:
            try:
                loop = getattr(self, f'{split}_loop')
            except ValueError as error:
                # Of mmengine's ConcatDataset.
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
            model = bare_model(self.model)
            metrics = [] if split == 'train' else loop.evaluator.metrics
            check_classes(dataset, model, split)
            check_ignored(dataset, model, metrics, split)
            check_domains(dataset, metrics, split)
