"""The files of results, and what the page makes of a request."""

import io

import numpy as np
import pytest
from PIL import Image
from web_page import noise

from clouds_mmseg import Segmenter
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.web import server
from clouds_mmseg.web.page import (
    Demo,
    class_names,
    example_images,
    folder_images,
    guarded,
    model_names,
)
from clouds_mmseg.web.results import ResultStore
from clouds_mmseg.web.upload import Limits, RefusedUpload
from clouds_mmseg_cli.command import main
from clouds_mmseg_cli.demo import _toycity_checkpoints


@pytest.fixture
def store(tmp_path):
    (tmp_path / 'results').mkdir()
    return ResultStore(tmp_path / 'results', capacity=2)


def test_files_of_a_result(store, small_segmenter):
    image = noise(40, 60)
    found = small_segmenter(image, confidence=True)
    token = store.add([found, found])
    assert np.array_equal(store.image(token), image)
    labels = np.asarray(Image.open(store.file(token, 1, 'labels.png')))
    assert np.array_equal(labels, found.labels)
    for opacity in (0.0, 0.3, 1.0):
        body = store.overlay(token, 0, opacity)
        overlay = np.asarray(Image.open(io.BytesIO(body)))
        assert np.array_equal(overlay, np.asarray(found.overlay(opacity)))
    grey = np.asarray(Image.open(store.file(token, 0, 'confidence.png')))
    assert np.allclose(grey / 255, found.confidence, atol=1 / 255)


def test_what_is_no_file_of_a_result(store, small_segmenter, tmp_path):
    (tmp_path / 'secret.png').write_bytes(b'secret')
    (tmp_path / 'results/secret.png').write_bytes(b'secret')
    token = store.add([small_segmenter(noise(32, 32))])
    assert store.file(token, 0, 'image.jpg') is not None
    # A model of one output has no confidence.
    assert store.file(token, 0, 'confidence.png') is None
    for index, name in (
        (1, 'labels.png'),
        (-1, 'labels.png'),
        (0, '../image.png'),
        (0, '../../secret.png'),
        (0, 'image.png'),
    ):
        assert store.file(token, index, name) is None
    for other in ('', '..', 'secret.png', '../results', 'A' * 22):
        assert store.file(other, 0, 'labels.png') is None
        assert store.overlay(other, 0, 0.5) is None
        assert store.image(other) is None


def test_old_results_are_deleted(store, small_segmenter):
    found = small_segmenter(noise(32, 32))
    tokens = [store.add([found]) for _ in range(3)]
    assert store.file(tokens[0], 0, 'labels.png') is None
    assert store.image(tokens[0]) is None
    assert sorted(p.name for p in store.folder.iterdir()) == sorted(tokens[1:])


def demo_of(models, store, **limits):
    return Demo(models, store, Limits(**limits), {})


def test_result_of_two_models(small_segmenter, store):
    models = {'<b>left</b>': small_segmenter, 'right': small_segmenter}
    demo = demo_of(models, store, predicted_megapixels=0.001)
    html, token = demo.predict(noise(64, 96), '')
    assert '&lt;b&gt;left' in html and '<b>left' not in html.split('&lt;')[0]
    assert 'reduced from 96 x 64 to 38 x 25 pixels' in html
    assert 'agree on 100.0% of the pixels' in html
    assert store.file(token, 1, 'labels.png') is not None
    labels = np.asarray(Image.open(store.file(token, 0, 'labels.png')))
    share = (labels == np.bincount(labels.ravel()).argmax()).mean()
    assert f'<span>{share:.1%}</span>' in html


def test_classes_are_read_from_a_text():
    assert class_names(' tram, kerb\nroad,, ') == ('tram', 'kerb', 'road')
    assert class_names('') == class_names(' ,\n') == ()
    for text, message in (
        ('tram', '2 to 64 classes.*these are 1'),
        (','.join(map(str, range(65))), 'these are 65'),
        ('tram, tram', 'twice'),
        ('tram, ' + 'x' * 51, 'at most 50 characters'),
        ('tram, \x1b[2J', 'printable'),
    ):
        with pytest.raises(RefusedUpload, match=message):
            class_names(text)


def test_classes_are_for_models_with_text(small_segmenter, store):
    demo = demo_of({'a': small_segmenter}, store)
    assert not demo.takes_classes
    # The field is not shown; a request with classes changes nothing.
    html, _ = demo.predict(noise(32, 32), 'tram, kerb')
    assert 'tram' not in html


def test_an_error_is_a_number_for_the_visitor(caplog):
    def fail():
        raise OSError(13, 'Permission denied', '/home/me/secret.pth')

    html, token = guarded(fail)
    assert token is None and 'secret' not in html and '/home' not in html
    (record,) = caplog.records
    number = record.args[0]
    assert f'error {number}' in html
    assert 'secret.pth' in caplog.text and 'Traceback' in caplog.text

    def refuse():
        raise RefusedUpload('<too> large')

    assert '&lt;too&gt; large' in guarded(refuse)[0]


def test_examples(tmp_path):
    examples = example_images()
    assert list(examples) == ['clear', 'fog', 'night', 'rain', 'snow']
    assert {image.shape for image in examples.values()} == {(128, 256, 3)}
    for index in range(9):
        image = Image.fromarray(noise(20, 30, index))
        image.save(tmp_path / f'{index}.png')
    own = folder_images(tmp_path)
    assert list(own) == list('01234567')
    assert np.array_equal(own['3'], noise(20, 30, 3))


def test_names_of_models_show_no_path():
    assert model_names(['/home/me/all_plus/iter_400.pth']) == [
        'all_plus, iter_400'
    ]
    assert model_names(['/home/me/gta.safetensors']) == ['gta']
    assert model_names(['a/gta.pth', 'b/gta.pth']) == ['1: gta', '2: gta']


def test_mistakes_are_told(small_checkpoint, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(server, 'find_spec', lambda name: name)
    monkeypatch.chdir(tmp_path)
    file = str(small_checkpoint)
    for words, message in (
        ([], 'run make demo first'),
        (['none.pth'], 'no such file'),
        ([file] * 3, 'one checkpoint, or compares two; got 3'),
        ([file, '--name', 'a', 'b'], '--name must give each'),
        ([file, '--max-megapixels', '0'], 'megapixels must be above 0'),
        (
            [file, '--examples', str(tmp_path / 'x')],
            'is no folder with images',
        ),
        ([file, '--port', '99999', '--device', 'cpu'], 'cannot listen on'),
    ):
        with pytest.raises(SystemExit) as left:
            main(['demo', *words])
        said = capsys.readouterr().err
        assert left.value.code == 1 and message in said, (words, said)


def test_the_models_of_the_demo_are_the_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('source/iter_50', 'all_plus/iter_400', 'all_plus/iter_50'):
        path = tmp_path / f'work_dirs/toycity/demo/short/seed0/{name}.pth'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = [path.parts[-2:] for path in _toycity_checkpoints()]
    assert found == [('all_plus', 'iter_400.pth'), ('source', 'iter_50.pth')]


def test_gradio_is_asked_for(monkeypatch):
    monkeypatch.setattr(server, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match=r'pip install "clouds_mmseg\[web\]"'):
        server.require_gradio()
    with pytest.raises(UserError, match='needs gradio'):
        server.serve({'a': Segmenter})
