"""Export of a checkpoint to ONNX, torch.export or OpenVINO, checked.

Letters: N images, H and W of an image.
"""

import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from mmengine.config import ConfigDict

from clouds_mmseg.predict.exported import (
    METADATA_KEY,
    open_program,
    require,
    to_batch,
)
from clouds_mmseg.predict.inputs import find_images
from clouds_mmseg.predict.network import OUTPUTS, ExportNetwork, record
from clouds_mmseg.predict.onnx_file import (
    OPSETS,
    to_fp16,
    write_metadata,
    write_onnx,
    write_openvino,
)
from clouds_mmseg.predict.predictor import resized
from clouds_mmseg.predict.quantize import to_int8
from clouds_mmseg.predict.segmenter import Segmenter
from clouds_mmseg.toycity.render import render_scene
from clouds_mmseg.utils.atomic import rename, work_folder
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.image_set import sha256_of
from clouds_mmseg.utils.images import read_image
from clouds_mmseg.version import __version__

# Format -> suffix of its file.
FORMATS = dict(onnx='.onnx', pt2='.pt2', openvino='.xml')
# Precision -> least share of equal labels, percent, unless another is given.
LIMITS = dict(fp32=99.9, fp16=99.0, int8=95.0)
CALIBRATION_IMAGES = 64
# Of the way from the limit to 100 %, on the calibration images.
_INT8_MARGIN = 0.7
# Height, width and number of the images that are rendered for the check:
# two sizes, one of them odd, and two numbers.
_RENDERED = ((128, 256, 2), (149, 203, 1))


@dataclass
class Export:
    """Outcome of :func:`export`.

    Attributes:
        path: The file.
        equal: Share of the pixels with the label of torch, in percent.
        difference: Greatest difference of a score from that of torch; None
            if the file has no scores.
        images: Number of images that were compared.
        sizes: Heights and widths of these images.
        size: Of the files, bytes.
        notes: What a user of the file has to know.
    """

    path: Path
    equal: float
    difference: float | None
    images: int
    sizes: list[tuple[int, int]]
    size: int
    notes: list[str]


def export(
    checkpoint: str | Path,
    out: str | Path,
    *,
    format: str | None = None,
    config: str | Path | None = None,
    outputs: Sequence[str] = OUTPUTS,
    precision: str = 'fp32',
    calibration: str | Path | None = None,
    calibration_images: int = CALIBRATION_IMAGES,
    check: Sequence[str | Path] = (),
    min_equal: float | None = None,
    opset: int = OPSETS[0],
    log: Callable[[str], None] = lambda line: None,
) -> Export:
    """Write a trained model as a program that needs no Python code of ours.

    The program takes images (N, 3, H, W) uint8 RGB of any number and size,
    normalises and pads them, and returns labels (N, H, W) uint8 and scores.
    It is compared with torch before the file gets its name.

    Args:
        checkpoint: As for :meth:`Segmenter.from_pretrained`.
        out: The file; of OpenVINO the ``.xml``, whose ``.bin`` lies beside.
        format: One of :data:`FORMATS`; by default that of the suffix.
        config: Used instead of the config in the checkpoint.
        outputs: ``labels``, ``scores`` or both, in this order.
        precision: ``fp32``; ``fp16``: weights and products of ONNX, weights
            of OpenVINO; ``int8``: convolutions and linear layers of ONNX, and
            of OpenVINO, which reads the quantised ONNX file.
        calibration: Folder of images, whose values set the ranges of int8.
        calibration_images: The most that are read, spread over the folder.
        check: Images to compare on; by default rendered street scenes of two
            sizes.
        min_equal: Least share of equal labels, in percent; by default that of
            :data:`LIMITS`.
        opset: Of ONNX, one of :data:`~clouds_mmseg.predict.onnx_file.OPSETS`.
        log: Called with a line for each step.

    Raises:
        UserError: An option or a file is wrong, a package is missing, the
            model cannot be exported, or the labels differ more than allowed.
    """
    out = Path(out).expanduser()
    format = _format_of(out, format)
    _check_options(format, outputs, precision, calibration, opset, min_equal)
    calibrating = _calibration_images(calibration, calibration_images)
    checked = [path for path, _ in find_images(check)] if check else []
    _check_writable(out)
    if format == 'openvino':
        require('openvino')
    if format != 'pt2':
        require('onnxruntime', 'onnx', 'onnxscript')
    limit = LIMITS[precision] if min_equal is None else min_equal

    segmenter = Segmenter.from_pretrained(
        checkpoint, config=config, device='cpu'
    )
    model = segmenter.model
    notes = _predict_whole(model)
    network = ExportNetwork(model, outputs).eval()
    metadata = _metadata(segmenter, network, precision)
    metadata['format'] = format
    metadata['source'] = dict(
        file=Path(checkpoint).name, sha256=sha256_of(checkpoint)
    )
    if format != 'pt2':
        metadata['opset'] = opset
    text = json.dumps(metadata)
    log('recording the network')
    program = record(network)
    with _temporary_files(out) as temporary:
        log(f'writing {format}, {precision}')
        if format == 'pt2':
            extra = {f'{METADATA_KEY}.json': text}
            # As in weights/io.py: torch has its own errors for a full disk.
            stream = io.BytesIO()
            torch.export.save(program, stream, extra_files=extra)
            temporary.write_bytes(stream.getbuffer())
        else:
            source = temporary.with_name('fp32.onnx')
            write_onnx(program, source, outputs=outputs, opset=opset)
            if precision == 'int8':
                log(f'calibrating on {len(calibrating)} images')
                full, source = source, temporary.with_name('int8.onnx')
                quantized = to_int8(
                    full,
                    source,
                    list(_batches(calibrating, segmenter)),
                    # On other images fewer stay.
                    limit + _INT8_MARGIN * (100 - limit),
                    log,
                )
                notes.append(_int8_note(quantized))
            elif precision == 'fp16' and format == 'onnx':
                full, source = source, temporary.with_name('fp16.onnx')
                to_fp16(full, source)
            if format == 'onnx':
                write_metadata(source, text)
                os.replace(source, temporary)
            else:
                halve = precision == 'fp16'
                write_openvino(source, temporary, text, halve=halve)
        del program
        log('comparing with torch')
        # The same network; its images are resized before both.
        reference = Segmenter(
            model, segmenter.classes, segmenter.palette, max_pixels=2**62
        )
        batches = _batches(checked, segmenter) if checked else _rendered()
        equal, difference, sizes = _compare(reference, temporary, batches)
        done = Export(
            out, equal, difference, sum(n for _, n in sizes),
            sorted({size for size, _ in sizes}), 0, notes,
        )  # fmt: skip
        if not equal >= limit:
            raise UserError(
                f'{out} was not written: '
                f'{_comparison(done)}; at least {limit:g} % must be equal '
                '(--min-equal)'
            )
    files = [out, out.with_suffix('.bin')] if format == 'openvino' else [out]
    done.size = sum(file.stat().st_size for file in files)
    return done


def export_lines(done: Export) -> list[str]:
    """Describe what was written, as lines for a terminal."""
    lines = [
        f'{done.path} ({done.size / 2**20:.1f} MiB)',
        f'  compared with torch: {_comparison(done)}',
    ]
    return lines + [f'  note: {note}' for note in done.notes]


def _comparison(done):
    sizes = ', '.join(f'{w}x{h}' for h, w in done.sizes[:4])
    sizes += ', ...' if len(done.sizes) > 4 else ''
    text = f'{done.equal:.3f} % equal labels'
    if done.difference is not None:
        text += f', greatest difference of a score {done.difference:.2g}'
    return f'{text}, on {done.images} images ({sizes})'


def _int8_note(quantized):
    text = (
        f'int8 keeps {quantized.equal:.2f} % of the labels of the calibration '
        f'images, and {quantized.equal_changed:.2f} % where they are '
        'darkened, hazy or noisy'
    )
    if not quantized.left:
        return text
    shown = ', '.join(quantized.left[:4])
    more = len(quantized.left) - 4
    return (
        f'{text}; {len(quantized.left)} of {quantized.groups} groups of '
        f'layers stay in float32 ({shown}{f" and {more} more" * (more > 0)}), '
        f'{quantized.weights:.0f} % of the weights are int8'
    )


def _format_of(out, format):
    """Return the format, given or that of the suffix."""
    if format is None:
        suffixes = {suffix: name for name, suffix in FORMATS.items()}
        if out.suffix not in suffixes:
            raise UserError(
                f'{out} ends in none of {", ".join(suffixes)}: rename it, or '
                'give --format'
            )
        return suffixes[out.suffix]
    if format not in FORMATS:
        raise UserError(
            f'format must be one of {", ".join(FORMATS)}, got {format!r}'
        )
    if out.suffix != FORMATS[format]:
        raise UserError(
            f'a file of format {format} ends in {FORMATS[format]}, got {out}'
        )
    return format


def _check_options(format, outputs, precision, calibration, opset, min_equal):
    if not outputs or len(set(outputs)) < len(outputs):
        raise UserError(f'outputs must be given once each, got {outputs}')
    for name in outputs:
        if name not in OUTPUTS:
            raise UserError(
                f'outputs are {" and ".join(OUTPUTS)}, got {name!r}'
            )
    if 'labels' not in outputs:
        raise UserError('outputs must include labels')
    if precision not in LIMITS:
        raise UserError(
            f'precision must be one of {", ".join(LIMITS)}, got {precision!r}'
        )
    if format == 'pt2' and precision != 'fp32':
        raise UserError(
            f'pt2 is written in fp32 only, not in {precision}: choose onnx or '
            'openvino'
        )
    if precision == 'int8' and calibration is None:
        raise UserError(
            'int8 needs images like those it will see, which set the ranges '
            'of its values: --calibration DIR'
        )
    if precision != 'int8' and calibration is not None:
        raise UserError(f'--calibration is for int8, not for {precision}')
    if opset not in OPSETS:
        raise UserError(
            f'opset must be one of {", ".join(map(str, OPSETS))}, got {opset}'
        )
    if min_equal is not None and not 0 <= min_equal <= 100:
        raise UserError(f'--min-equal is a percentage, got {min_equal}')


def _calibration_images(folder, most):
    """Return images of a folder, evenly spread over it."""
    if folder is None:
        return []
    if most < 1:
        raise UserError(f'--calibration-images must be at least 1, got {most}')
    if not Path(folder).expanduser().is_dir():
        raise UserError(f'--calibration {folder}: there is no such folder')
    found = [path for path, _ in find_images([folder])]
    picked = np.linspace(0, len(found) - 1, min(most, len(found)))
    return [found[int(index)] for index in picked.round()]


def _check_writable(out):
    """Refuse a file that cannot be written, before the long work."""
    if out.is_dir():
        raise UserError(f'{out} is a folder; give the name of a file')
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=out.parent)
    except OSError as error:
        raise UserError(
            f'the folder {out.parent} cannot be written: {error.strerror}'
        ) from error
    os.close(handle)
    os.unlink(name)


@contextmanager
def _temporary_files(out: Path) -> Iterator[Path]:
    """Yield a file in a folder beside ``out``; it and its ``.bin`` move.

    Nothing moves if the block raises. Not ``atomic_path``: OpenVINO writes
    two files, and finds the second by its name.
    """
    with work_folder(out) as folder:
        temporary = folder / out.name
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        # First the .bin: an .xml without it cannot be read.
        for path in (temporary.with_suffix('.bin'), temporary):
            if path.is_file():
                os.chmod(path, 0o666 & ~umask)
                with open(path, 'rb') as stream:
                    os.fsync(stream.fileno())
                rename(path, out.with_suffix(path.suffix))


def _predict_whole(model):
    """Switch off sliding windows; return what a user has to know of it."""
    if model.test_cfg.get('mode', 'whole') != 'slide':
        return []
    crop = model.test_cfg.crop_size
    model.test_cfg = ConfigDict(mode='whole')
    return [
        'its config predicts sliding windows of '
        f'{crop[1]}x{crop[0]}; the exported program predicts an image whole, '
        'which gives other labels: cut the windows before it'
    ]


def _metadata(segmenter, network, precision):
    """Return what is stored in the file, as JSON values."""
    return dict(
        classes=list(segmenter.classes),
        palette=np.asarray(segmenter.palette).tolist(),
        outputs=list(network.outputs),
        precision=precision,
        preprocessing=dict(
            input='image: (N, 3, H, W) uint8 RGB; any N, H and W',
            inside='(image - mean) / std, then padding at the right and the '
            'bottom to multiples, then cropping of the result',
            mean=network.mean.flatten().tolist(),
            std=network.std.flatten().tolist(),
            channel_order='RGB' if network.takes_rgb else 'BGR',
            multiple=network.multiple,
            resize_outside=segmenter.resize_steps,
        ),
        clouds_mmseg=__version__,
        torch=torch.__version__,
    )


def _batches(paths, segmenter):
    """Read images, resized as for the network: (1, 3, H, W) each."""
    for path in paths:
        image = read_image(path)
        image = resized(image, segmenter.resize)
        yield to_batch([image])


def _rendered():
    """Render street scenes: (N, 3, H, W) uint8 each."""
    for height, width, number in _RENDERED:
        yield to_batch(
            [
                render_scene(seed, 'clear', (width, height))[0]
                for seed in range(number)
            ]
        )


def _compare(segmenter, path, batches):
    """Compare a file with the model it was made of.

    Returns:
        Share of equal labels in percent, the greatest difference of a score,
        and the size and number of each batch.
    """
    program, metadata = open_program(path)
    with_scores = 'scores' in metadata['outputs']
    equal = pixels = 0
    difference = 0.0
    sizes = []
    for batch in batches:
        images = list(batch.transpose(0, 2, 3, 1))
        expected = segmenter(
            images, scores=with_scores, batch_size=len(images)
        )
        found = program(batch)
        labels = np.stack([p.labels for p in expected])
        if found['labels'].shape != labels.shape:
            raise UserError(
                f'the exported program returns labels of shape '
                f'{found["labels"].shape} for images {batch.shape}'
            )
        equal += int((found['labels'] == labels).sum())
        pixels += labels.size
        if with_scores:
            scores = np.stack([p.scores for p in expected])
            worst = np.abs(found['scores'] - scores).max()
            difference = max(float(worst), difference)
            if not np.isfinite(worst):
                raise UserError(
                    'the exported program returns scores that are not finite'
                )
        sizes.append((batch.shape[2:], len(batch)))
    share = 100 * equal / pixels
    return share, difference if with_scores else None, sizes
