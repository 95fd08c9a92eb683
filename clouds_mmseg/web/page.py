"""What the page shows, and what its controls do."""

import html
import logging
import re
import secrets
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clouds_mmseg.models.mask2former.classifier import TextClassifier
from clouds_mmseg.predict.prediction import Prediction
from clouds_mmseg.predict.predictor import Predictor
from clouds_mmseg.predict.segmenter import Segmenter
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.images import read_image
from clouds_mmseg.web.results import ResultStore
from clouds_mmseg.web.style import CHOOSE_EXAMPLE, SET_OPACITY, SET_VIEW
from clouds_mmseg.web.upload import (
    Limits,
    RefusedUpload,
    read_upload,
    reduce_image,
)

_MOST_CLASSES = 64
_LONGEST_NAME = 50
# Requests that wait; more are told to come back.
_QUEUE = 8
_EXAMPLES = 8
_SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.bmp', '.tif', '.tiff')
# A street with most of the classes in view.
_SCENE = 10
# Megapixels.
_EXAMPLE_SIZE = 1
# Seconds between two searches for forgotten uploads, and their age.
_DELETE_CACHE = (60, 300)
_HINT = 'Upload a photograph of a street, or choose an example.'

logger = logging.getLogger(__name__)


class Demo:
    """Models, and what a visitor can ask of them. One prediction at a time.

    Args:
        models: Name that is shown -> model; one or two.
        store: Receives the results.
        limits: Limits of an upload.
        examples: Name -> image (H, W, 3) uint8 RGB.
    """

    def __init__(
        self,
        models: dict[str, Predictor],
        store: ResultStore,
        limits: Limits,
        examples: dict[str, np.ndarray],
    ):
        self.models = models
        self.store = store
        self.limits = limits
        self.examples = examples
        self._lock = threading.Lock()
        # The last models with classes of a visitor.
        self._chosen: tuple[tuple[str, ...], dict[str, Predictor]] = ((), {})

    @property
    def takes_classes(self) -> bool:
        """Whether a model can be given its classes as text."""
        return any(_takes_classes(model) for model in self.models.values())

    def upload(self, payload: bytes, classes: str) -> tuple[str, str]:
        """Predict a file.

        Args:
            payload: The file.
            classes: As :func:`class_names`.

        Returns:
            The result as HTML, and its token.

        Raises:
            RefusedUpload: The visitor is told why.
        """
        return self.predict(read_upload(payload, self.limits), classes)

    def predict(self, image: np.ndarray, classes: str) -> tuple[str, str]:
        """Predict an image (H, W, 3) uint8 RGB, see :meth:`upload`."""
        size = image.shape[1::-1]
        image = reduce_image(image, self.limits.predicted_megapixels)
        with self._lock:
            models = self._models_for(class_names(classes))
            found = {
                name: model(image, confidence=model.has_scores)
                for name, model in models.items()
            }
            token = self.store.add(list(found.values()))
        return result_html(found, token, size), token

    def _models_for(self, names):
        if not names:
            return self.models
        if self._chosen[0] != names:
            models = dict(self.models)
            for name, model in models.items():
                if isinstance(model, Segmenter) and _takes_classes(model):
                    models[name] = model.with_classes(list(names))
            self._chosen = (names, models)
        return self._chosen[1]


def _takes_classes(model):
    return isinstance(model, Segmenter) and any(
        isinstance(part, TextClassifier) for part in model.model.modules()
    )


def class_names(text: str) -> tuple[str, ...]:
    """Return the names in a text with commas or lines.

    Raises:
        RefusedUpload: There are too few or too many, one is too long or
            stands there twice.
    """
    found = [name.strip() for name in re.split(r'[,\n]', text or '')]
    names = tuple(name for name in found if name)
    if not names:
        return ()
    if not 2 <= len(names) <= _MOST_CLASSES:
        raise RefusedUpload(
            f'Give 2 to {_MOST_CLASSES} classes, separated by commas; these '
            f'are {len(names)}.'
        )
    if len(set(names)) < len(names):
        raise RefusedUpload('A class stands there twice.')
    for name in names:
        if len(name) > _LONGEST_NAME or not name.isprintable():
            raise RefusedUpload(
                f'A class has at most {_LONGEST_NAME} characters, all of '
                'them printable.'
            )
    return names


def result_html(
    found: dict[str, Prediction], token: str, size: tuple[int, int]
) -> str:
    """Return a result as HTML.

    Args:
        found: Name of a model -> its prediction.
        token: Of the result in the store.
        size: Width and height before the image was reduced.
    """
    parts = [
        _model_html(name, prediction, f'result/{token}/{index}')
        for index, (name, prediction) in enumerate(found.items())
    ]
    kind = 'cl-models cl-two' if len(parts) > 1 else 'cl-models'
    text = f'<div class="{kind}">{"".join(parts)}</div>'
    first, *others = found.values()
    height, width = first.labels.shape
    notes = []
    if (width, height) != tuple(size):
        notes.append(
            f'The image was reduced from {size[0]} x {size[1]} to {width} x '
            f'{height} pixels.'
        )
    for other in others:
        if other.classes == first.classes:
            share = float((other.labels == first.labels).mean())
            notes.append(f'Both models agree on {share:.1%} of the pixels.')
    if notes:
        text += f'<p class="cl-quiet cl-notes">{" ".join(notes)}</p>'
    return text


def _model_html(name, prediction, url):
    caption = f'<b>{html.escape(name)}</b>'
    confidence = scale = link = ''
    if prediction.confidence is not None:
        mean = float(prediction.confidence.mean())
        caption += f' <span class="cl-quiet">mean confidence {mean:.2f}</span>'
        confidence = (
            f'<img class="cl-map cl-confidence" src="{url}/confidence.png" '
            'alt="Confidence of each pixel">'
        )
        scale = '<div class="cl-scale">0<i></i>1</div>'
        link = (
            f'<a href="{url}/confidence.png" download="confidence.png">'
            'Confidence (PNG)</a>'
        )
    return (
        f'<figure><figcaption>{caption}</figcaption>'
        f'<div class="cl-stack"><img src="{url}/image.jpg" alt="The image">'
        f'<img class="cl-map cl-colors" src="{url}/colors.png" '
        f'alt="Predicted classes">{confidence}</div>{scale}'
        f'{_legend_html(prediction)}'
        f'<div class="cl-links"><a href="{url}/labels.png" '
        'download="labels.png">Labels (PNG)</a>'
        f'<a href="{url}/overlay.png" data-overlay="{url}/overlay.png" '
        f'download="overlay.png">Overlay (PNG)</a>{link}</div></figure>'
    )


def _legend_html(prediction):
    """Return the classes that were found with their shares, largest first."""
    count = np.bincount(
        prediction.labels.ravel(), minlength=len(prediction.classes)
    )
    shares = count / prediction.labels.size
    items = []
    for index in np.argsort(-shares, kind='stable'):
        if not shares[index]:
            continue
        color = ', '.join(str(int(x)) for x in prediction.palette[index])
        items.append(
            f'<li><i style="background: rgb({color})"></i>'
            f'<b>{html.escape(prediction.classes[index])}</b>'
            f'<span>{_percent(shares[index])}</span></li>'
        )
    return f'<ul class="cl-legend">{"".join(items)}</ul>'


def _percent(share):
    return f'{share:.1%}' if share >= 0.0005 else '< 0.1%'


def error_html(message: str) -> str:
    """Return a message for the visitor."""
    return f'<div class="cl-error" role="alert">{html.escape(message)}</div>'


def guarded(
    action: Callable[..., tuple[str, str]], *args: Any
) -> tuple[str, str | None]:
    """Run an action of a visitor; an error becomes one message.

    Returns:
        HTML, and the token of a result if there is one. An error that is not
        the visitor's has a number, under which the log has the details.
    """
    try:
        return action(*args)
    except RefusedUpload as error:
        return error_html(str(error)), None
    except Exception:
        number = secrets.token_hex(4)
        logger.exception('error %s of the demo page', number)
        return error_html(
            'Something went wrong with this request, and the page goes on. '
            f'Whoever runs it finds the details in its log: error {number}.'
        ), None


def build_page(demo: Demo, title: str) -> Any:
    """Build the page.

    Args:
        demo: What its controls do.
        title: Heading.

    Returns:
        ``gradio.Blocks``, with a queue.
    """
    import gradio as gr

    with gr.Blocks(
        title=title, analytics_enabled=False, delete_cache=_DELETE_CACHE
    ) as blocks:
        gr.HTML(f'<h1>{html.escape(title)}</h1>')
        token = gr.State(None)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                file = gr.File(
                    label='Image',
                    file_types=['image'],
                    height=140,
                    elem_id='upload',
                )
                _read_uploads_as_bytes(file, demo.limits)
                gr.HTML(
                    f'<p class="cl-quiet">{demo.limits.describe()} Of an '
                    'animation the first image is used. Nothing is kept: '
                    'results are deleted as new ones come, and when the page '
                    'ends.</p>'
                )
                examples = None
                if demo.examples:
                    examples = gr.HTML(
                        _examples_html(demo.examples),
                        js_on_load=CHOOSE_EXAMPLE,
                        elem_id='examples',
                    )
                classes = gr.Textbox(
                    label='Classes, separated by commas',
                    placeholder='empty: those of the training',
                    lines=2,
                    max_length=_MOST_CLASSES * (_LONGEST_NAME + 2),
                    visible=demo.takes_classes,
                    elem_id='classes',
                )
                again = gr.Button(
                    'Predict with these classes', visible=demo.takes_classes
                )
            with gr.Column(scale=3, min_width=300):
                with gr.Row():
                    view = gr.Radio(
                        [
                            ('Classes', 'classes'),
                            ('Confidence', 'confidence'),
                            ('Image', 'image'),
                        ],
                        value='classes',
                        label='Show',
                        elem_id='view',
                    )
                    opacity = gr.Slider(
                        0,
                        100,
                        50,
                        step=1,
                        label='Opacity (%)',
                        elem_id='opacity',
                    )
                result = gr.HTML(
                    f'<div class="cl-hint">{_HINT}</div>',
                    elem_id='result',
                    min_height=200,
                )
        own = dict(fn=None, queue=False, api_visibility='private')
        view.input(inputs=view, js=SET_VIEW, **own)
        opacity.input(inputs=opacity, js=SET_OPACITY, **own)

        def answer(action, *args):
            shown, name = guarded(action, *args)
            return shown, gr.skip() if name is None else name

        def on_upload(payload, text):
            return *answer(demo.upload, payload or b'', text), None

        def on_example(text, event: gr.EventData):
            images = list(demo.examples.values())
            return answer(lambda: demo.predict(images[event.index], text))

        def on_again(name, text):
            image = demo.store.image(name) if name else None
            if image is None:
                return error_html(_HINT), None
            return answer(demo.predict, image, text)

        served = dict(
            concurrency_limit=1,
            concurrency_id='prediction',
            api_visibility='private',
            show_progress='full',
        )
        file.upload(
            on_upload,
            [file, classes],
            [result, token, file],
            show_progress_on=result,
            **served,
        )
        if examples is not None:
            examples.example(on_example, classes, [result, token], **served)
        if demo.takes_classes:
            again.click(on_again, [token, classes], [result, token], **served)
    return blocks.queue(max_size=_QUEUE, api_open=False)


def _examples_html(examples):
    buttons = [
        f'<button type="button" data-index="{index}">'
        f'<img src="example/{index}.jpg" alt="">{html.escape(name)}</button>'
        for index, name in enumerate(examples)
    ]
    return f'<div class="cl-examples">{"".join(buttons)}</div>'


def _read_uploads_as_bytes(field, limits):
    """Let the value of one of Gradio's file fields be the bytes of the file.

    A subclass would say the same, but Gradio writes a stub file beside the
    source of each.
    """

    async def stay(path):
        # Gradio would copy the file, or download what an address names.
        return path

    def preprocess(payload):
        return payload and take_upload(payload.path, limits)

    field.async_move_resource_to_block_cache = stay
    field.preprocess = preprocess


def take_upload(path: str, limits: Limits) -> bytes:
    """Read an uploaded file and delete it.

    Args:
        path: As the browser names it: not trusted.
        limits: A larger file is not read to its end.

    Raises:
        UserError: It does not lie in the folder of uploads.
    """
    from gradio.utils import get_upload_folder

    file, folder = Path(path).resolve(), Path(get_upload_folder()).resolve()
    if not file.is_relative_to(folder) or not file.is_file():
        raise UserError('this is no uploaded file')
    with open(file, 'rb') as stream:
        payload = stream.read(limits.bytes + 1)
    file.unlink(missing_ok=True)
    return payload


def example_images() -> dict[str, np.ndarray]:
    """Render streets of ToyCity, one for each of its target domains."""
    from clouds_mmseg.toycity import STYLES, render_scene

    names = [name for name in STYLES if name not in ('source', 'generated')]
    return {name: render_scene(_SCENE, name)[0] for name in names}


def folder_images(folder: str | Path) -> dict[str, np.ndarray]:
    """Read the first images of a folder, as examples.

    Raises:
        UserError: It holds none, or one that cannot be read.
    """
    found = sorted(
        path
        for path in Path(folder).expanduser().glob('*')
        if path.suffix.lower() in _SUFFIXES
    )
    if not found:
        raise UserError(
            f'--examples: {folder} is no folder with images '
            f'({", ".join(_SUFFIXES)})'
        )
    return {
        path.stem: reduce_image(read_image(path), _EXAMPLE_SIZE)
        for path in found[:_EXAMPLES]
    }


def model_names(checkpoints: Sequence[str | Path]) -> list[str]:
    """Return a name for each checkpoint that shows no path.

    The folder of the run for a checkpoint of a training, else the file's
    name.
    """
    names = []
    for checkpoint in checkpoints:
        path = Path(checkpoint)
        folder = path.absolute().parent.name
        iterated = re.fullmatch(r'(?:iter|epoch)_\d+', path.stem)
        names.append(f'{folder}, {path.stem}' if iterated else path.stem)
    if len(set(names)) < len(names):
        names = [f'{number}: {n}' for number, n in enumerate(names, 1)]
    return names
