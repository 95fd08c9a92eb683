"""A runner that finds out early, loads strictly and can be read."""

import copy
import importlib.util
import re
from collections import OrderedDict

import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.runner import Runner
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
)
from clouds_mmseg.engine.initial_weights import fetch_initial_weights
from clouds_mmseg.engine.resume import (
    find_last_checkpoint,
    is_remote,
    read_checkpoint,
    require_checkpoint,
)
from clouds_mmseg.engine.run_header import bare_model, run_header
from clouds_mmseg.engine.terminal import install_terminal_filter
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.later_weights import weights_come_later
from clouds_mmseg.utils.zoo_address import fetch_checkpoint


@RUNNERS.register_module()
class DGRunner(Runner):
    """mmengine's runner with the promises of this package.

    - A checkpoint is loaded whole or not at all. ``load_cfg`` of the config
      may name prefixes that ``load_from`` is allowed to lack or to have too
      many: ``load_cfg=dict(allow_missing=['teacher.'])``.
    - ``resume=True`` continues from the newest checkpoint of the work dir
      if there is one, and otherwise starts with ``load_from``;
      ``resume='path'`` continues from that file.
    - Missing checkpoints are reported before a dataset is built, and missing
      or empty datasets of training, validation and test before the first
      iteration.
    - ``total_batch_size`` of the config is divided among the processes, so
      that a schedule means the same on one GPU and on eight.
    - Scalars go to TensorBoard where it is installed.
    - Distributed runs work without a GPU (gloo).
    - The terminal shows the run; the log file has everything.
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
        for key in ('load_from', 'resume'):
            if isinstance(cfg.get(key), str):
                path = require_checkpoint(cfg[key], key)
                if is_remote(path):
                    path = str(fetch_checkpoint(path, key) or path)
                cfg[key] = path
        return super().from_cfg(cfg)

    def setup_env(self, env_cfg):
        """Set up processes, with gloo where there is no GPU.

        Args:
            env_cfg (dict): ``env_cfg`` of the config.

        Raises:
            UserError: A launcher other than ``pytorch`` without a GPU.
        """
        distributed = torch.distributed
        if (
            self.distributed
            and not torch.cuda.is_available()
            and not distributed.is_initialized()
        ):
            # mmengine's init_dist selects a CUDA device first.
            if self._launcher != 'pytorch':
                raise UserError(
                    f'--launcher {self._launcher} needs a GPU and none is '
                    'available; use --launcher pytorch on CPU'
                )
            distributed.init_process_group(backend='gloo')
        super().setup_env(env_cfg)

    def build_logger(self, *args, **kwargs):
        """Build the logger, quieter on the terminal than in its file."""
        logger = super().build_logger(*args, **kwargs)
        install_terminal_filter(logger)
        return logger

    def build_visualizer(self, visualizer=None):
        """Build the visualizer, with TensorBoard where it is installed.

        Args:
            visualizer (Visualizer | dict, optional): As for mmengine.

        Returns:
            Visualizer: The visualizer.
        """
        if isinstance(visualizer, dict):
            visualizer = copy.deepcopy(visualizer)
            backends = visualizer.get('vis_backends') or []
            types = [backend.get('type') for backend in backends]
            if (
                'TensorboardVisBackend' not in types
                and importlib.util.find_spec('tensorboard') is not None
            ):
                backends.append(dict(type='TensorboardVisBackend'))
                visualizer['vis_backends'] = backends
        return super().build_visualizer(visualizer)

    def build_model(self, model):
        """Build the model, without files that a checkpoint replaces.

        Args:
            model (nn.Module | dict): As for mmengine.

        Returns:
            nn.Module: The model.
        """
        if self._resume is True:
            coming = find_last_checkpoint(self.work_dir) is not None
        elif self._resume:
            coming = True
        else:
            lacking = self.cfg.get('load_cfg', {}).get('allow_missing', ())
            coming = bool(self._load_from) and not any(
                prefix.startswith('backbone') or 'backbone.'.startswith(prefix)
                for prefix in lacking
            )
        with weights_come_later(coming):
            return super().build_model(model)

    def wrap_model(self, model_wrapper_cfg, model):
        """Move the model to its device and wrap it for several processes.

        Args:
            model_wrapper_cfg (dict | None): As for mmengine.
            model (nn.Module): The model.

        Returns:
            nn.Module: The model, wrapped in a distributed run.
        """
        if self.distributed and not torch.cuda.is_available():
            # mmengine gives each process the GPU of its local rank.
            model_wrapper_cfg = dict(
                model_wrapper_cfg
                or dict(
                    broadcast_buffers=False,
                    find_unused_parameters=self.cfg.get(
                        'find_unused_parameters', False
                    ),
                ),
                device_ids=None,
            )
            # Configs of MMSegmentation's zoo have it, and it needs GPUs.
            model = revert_sync_batchnorm(model)
        return super().wrap_model(model_wrapper_cfg, model)

    def train(self):
        """Check checkpoint and data, then train.

        Returns:
            nn.Module: The trained model.
        """
        self._choose_checkpoint()
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
        self._has_loaded = True
        self.logger.info(f'Loaded the checkpoint {filename}')
        return checkpoint

    def _choose_checkpoint(self):
        """Turn ``resume`` and ``load_from`` into one existing file."""
        if isinstance(self._resume, str):
            self._load_from = require_checkpoint(self._resume, 'resume')
            self._resume = True
        elif self._resume:
            newest = find_last_checkpoint(self.work_dir)
            if newest is None:
                self.logger.info(
                    f'Nothing to resume in {self.work_dir}: starting anew.'
                )
                self._resume = False
            else:
                self._load_from = newest

    def _loads_everything(self):
        """Whether a checkpoint replaces every weight before training."""
        partly = self.cfg.get('load_cfg', {}).get('allow_missing')
        return bool(self._resume or (self._load_from and not partly))

    def _require(self):
        """See that what training needs is there; no dataset is open yet."""

    def _share_batch(self):
        """Give each process its part of ``total_batch_size``."""
        total = self.cfg.get('total_batch_size')
        if total is None or not isinstance(self._train_dataloader, dict):
            return
        if 'batch_size' in self._train_dataloader:
            raise UserError(
                f'the config has total_batch_size={total} and '
                'train_dataloader.batch_size='
                f'{self._train_dataloader["batch_size"]}; give one of them: '
                '--cfg-options total_batch_size=N, images over all processes'
            )
        if total % self.world_size:
            raise UserError(
                f'total_batch_size={total} cannot be divided among '
                f'{self.world_size} processes; give '
                '--cfg-options total_batch_size=N with a multiple of '
                f'{self.world_size}, and a learning rate that suits it'
            )
        self._train_dataloader['batch_size'] = total // self.world_size

    def _check_data(self, *splits):
        """Open every dataset of some loops before anything else happens."""
        for split in splits:
            loop = getattr(self, f'{split}_loop')
            if loop is None:
                continue
            dataset = loop.dataloader.dataset
            check_dataset(dataset, split)
            check_classes(dataset, bare_model(self.model), split)
            if split != 'train':
                check_domains(dataset, loop.evaluator.metrics, split)
