"""Inference and training steps: ours and the reference implementation."""

import copy
from types import ModuleType

import torch
from mmengine.optim import build_optim_wrapper

from benchmark.measure import BenchmarkCase, Measurement
from benchmark.parts import TimedMethod
from benchmark.report import OURS, REFERENCE
from benchmark.setting import MEAN, STD, Setting
from clouds_mmseg.models.segmentors.feature_cache import FeatureCache

# The official optimiser, as in configs/_base_/schedules/adamw.py.
_OPTIMIZER = dict(
    optimizer=dict(type='AdamW', lr=1e-5, weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=0.01, norm_type=2),
)


def inference(
    setting: Setting,
    reference: ModuleType | None = None,
    *,
    merge: bool = False,
) -> dict[str, BenchmarkCase]:
    """Build the inference cases: images to labels.

    Args:
        setting: Model and input size.
        reference: Of :func:`load_reference`.
        merge: Merge the adapter of the tower, if it has one.

    Returns:
        Cases whose result is labels (N, H, W).
    """
    model = setting.build_model()
    if merge and getattr(model.backbone, 'adapter', None) is not None:
        model.backbone.merge_adapter()
    head = model.decode_head
    images = setting.images()

    def batch():
        return dict(
            inputs=list(images),
            data_samples=[setting.sample() for _ in images],
        )

    def ours(data):
        with torch.no_grad(), setting.autocast:
            results = model.test_step(data)
        return torch.stack([r.pred_sem_seg.data[0] for r in results])

    cases = {
        OURS: BenchmarkCase(
            ours,
            batch,
            (
                TimedMethod(model.backbone, 'forward', 'tower'),
                TimedMethod(head.pixel_decoder, 'forward', 'pixel decoder'),
                TimedMethod(head, 'last_prediction', 'decoder'),
                TimedMethod(head, 'predict', 'class maps'),
            ),
        )
    }
    if reference:
        other = _reference_model(reference, model)
        cases[REFERENCE] = BenchmarkCase(
            other.predict,
            lambda: images,
            (
                TimedMethod(other, 'tower', 'tower'),
                TimedMethod(other.head, 'pixel_decoder', 'pixel decoder'),
                TimedMethod(other.head, 'forward', 'decoder'),
                TimedMethod(other.head, 'scores', 'class maps'),
            ),
        )
    return _reference_first(cases)


def training(
    setting: Setting,
    reference: ModuleType | None = None,
    *,
    unlabelled: int = 0,
    cache: FeatureCache | None = None,
) -> dict[str, BenchmarkCase]:
    """Build the cases of one optimiser step, optionally with pseudo-labels.

    Args:
        setting: Model and input size.
        reference: Of :func:`load_reference`.
        unlabelled: Number of images in the batch that the teacher labels.
        cache: Of the features of these images; a run before the timed ones
            fills it.

    Returns:
        Cases without result.
    """
    model = setting.build_model().train()
    model.feature_cache = cache
    head = model.decode_head
    images = setting.images()
    labels = setting.labels(setting.batch - unlabelled)
    clean = images[len(labels) :]
    samples = [setting.sample(label=label) for label in labels]
    samples += [setting.sample(clean=view) for view in clean]
    wrapper = build_optim_wrapper(
        model,
        dict(
            _OPTIMIZER,
            type='BF16OptimWrapper'
            if setting.dtype == 'bf16'
            else 'OptimWrapper',
        ),
    )
    cases = {
        OURS: BenchmarkCase(
            lambda data: model.train_step(data, wrapper) and None,
            # A step writes labels into its samples.
            lambda: dict(
                inputs=list(images), data_samples=copy.deepcopy(samples)
            ),
            (
                TimedMethod(model.backbone, 'forward', 'tower'),
                TimedMethod(
                    model.teacher.module['decode_head'],
                    'predict',
                    'teacher',
                    whole=True,
                ),
                TimedMethod(head.pixel_decoder, 'forward', 'pixel decoder'),
                TimedMethod(head, 'predict_for_loss', 'decoder'),
                TimedMethod(head.criterion, 'match', 'matching'),
                TimedMethod(head, 'loss', 'losses'),
                TimedMethod(wrapper, 'backward', 'backward'),
                TimedMethod(wrapper, 'step', 'optimiser'),
            ),
        )
    }
    if reference:
        cases[REFERENCE] = _reference_training(
            _reference_model(reference, model), images, labels, clean
        )
    return _reference_first(cases)


def _reference_training(model, images, labels, clean):
    optimizer = torch.optim.AdamW(model.parameters, 1e-5, weight_decay=0.05)

    def step(_):
        if len(clean):
            model.self_train_step(images, labels, clean, optimizer)
        else:
            model.train_step(images, labels, optimizer)

    return BenchmarkCase(
        step,
        watches=(
            TimedMethod(model, 'tower', 'tower'),
            TimedMethod(model.teacher, 'forward', 'teacher', whole=True),
            TimedMethod(model.teacher, 'scores', 'teacher', whole=True),
            TimedMethod(model.head, 'pixel_decoder', 'pixel decoder'),
            TimedMethod(model.head, 'forward', 'decoder'),
            TimedMethod(model.criterion, 'match', 'matching'),
            TimedMethod(model.criterion, 'losses', 'losses'),
            TimedMethod(model, 'backward', 'backward'),
            TimedMethod(model, 'update', 'optimiser'),
        ),
    )


def teacher_update(
    setting: Setting, reference: ModuleType | None = None
) -> dict[str, BenchmarkCase]:
    """Build the cases of the teacher's EMA update.

    Args:
        setting: Model and input size.
        reference: Of :func:`load_reference`.

    Returns:
        Cases without result.
    """
    model = setting.build_model()
    cases = {OURS: BenchmarkCase(lambda _: model.update_teacher())}
    if reference:
        other = _reference_model(reference, model)
        cases[REFERENCE] = BenchmarkCase(lambda _: other.update_teacher())
    return _reference_first(cases)


def _reference_model(reference, model):
    """Build the reference implementation on the model's own weights."""
    head, device = model.decode_head, next(model.parameters()).device
    attention = head.pixel_decoder.encoder.layers[0].self_attn
    teacher = model.teacher.module['decode_head']
    return reference.PlainModel(
        # Without changes of the memory layout.
        tower=model.backbone.pyramid,
        student=dict(head.named_parameters()),
        teacher=dict(teacher.named_parameters()),
        mean=torch.tensor(MEAN, device=device)[:, None, None],
        std=torch.tensor(STD, device=device)[:, None, None],
        num_points=head.criterion.num_points,
        heads=attention.num_heads,
        groups=head.pixel_decoder.lateral_convs[0].gn.num_groups,
    )


def _reference_first(cases):
    """Order the cases: the reference implementation first."""
    return dict(sorted(cases.items(), key=lambda item: item[0] == OURS))


def agreement(measurements: dict[str, Measurement]) -> tuple[float, int]:
    """Compare the predicted labels of both cases.

    Args:
        measurements: Measurements of :func:`inference`.

    Returns:
        Share of pixels with the same class, and the number of predicted
        classes: agreement on a single class means little.
    """
    a, b = (measurements[name].result for name in (REFERENCE, OURS))
    return (a == b).float().mean().item(), a.unique().numel()
