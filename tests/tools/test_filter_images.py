"""The command line of the filter, and its measurement on ToyCity."""

import numpy as np
import pytest

from ablation.spoil import KINDS, report, spoil_bank
from clouds_mmseg.generate.run import generate_images
from clouds_mmseg.image_filter import filter_bank
from clouds_mmseg.predict.prediction import Prediction
from clouds_mmseg.utils.cityscapes import CLASSES, PALETTE
from clouds_mmseg.utils.image_set import read_entries
from clouds_mmseg.utils.images import decode_ids
from clouds_mmseg_cli.filter import main, parse_args


@pytest.fixture
def bank(tmp_path, tool_data):
    """Restyled images of the training set."""
    root = tmp_path / 'bank'
    generate_images(
        root, num=7, backend='photometric', mode='img2img',
        source=tool_data / 'day_train' / 'images', styles=['sun', 'camera'],
        contact_sheet=False,
    )  # fmt: skip
    return root


def test_labels_are_those_of_the_training_set(bank, trained, capsys):
    before = (bank / 'manifest.jsonl').read_bytes()
    command = [str(bank), '--checkpoint', str(trained[1]), '--device', 'cpu']
    main([*command, '--min-kept', '0', '--sheet', '4'])
    said = capsys.readouterr().out
    assert '7 of 7 images are used' in said and '--undo' in said
    assert 'without a label' not in said
    assert 'off their prompts were not looked for' in said
    for entry in read_entries(bank).values():
        label = decode_ids((bank / entry['filter']['label']).read_bytes())
        number = entry['index']
        given = bank / f'filter/given_labels/{number:06d}.png'
        known = decode_ids(given.read_bytes()) != 255
        kept = (label[known] != 255).mean()
        assert entry['filter']['kept'] == pytest.approx(kept, abs=1e-4)
    assert (bank / 'filter/contact_sheet.png').is_file()
    main([*command, '--k', '0.01', '--min-kept', '1', '--workers', '2'])
    said = capsys.readouterr().out
    assert '0 of 7 images are used' in said and '7 left out: loss' in said
    main([str(bank), '--undo'])
    assert '7 images are used again' in capsys.readouterr().out
    assert (bank / 'manifest.jsonl').read_bytes() == before
    assert not (bank / 'filter').exists()


def test_wrong_options(tmp_path, capsys):
    for words, message in (
        (['bank'], '--checkpoint is needed, or --undo'),
        (['bank', '--checkpoint', 'c', '--clip-weights', 'w'], 'belongs to'),
    ):
        with pytest.raises(SystemExit):
            parse_args(words)
        assert message in capsys.readouterr().err


def test_spoilt_images_of_the_measurement(tmp_path):
    prompts = tmp_path / 'prompts.txt'
    prompts.write_text('a road\n')
    bank, out = tmp_path / 'bank', tmp_path / 'out'
    generate_images(
        bank, prompts=prompts, num=10, size=(64, 32), keep_labels=True,
        contact_sheet=False,
    )  # fmt: skip
    spoilt = spoil_bank(bank, out, share=0.3)
    assert sorted(spoilt.values()) == sorted(KINDS)
    true = {
        n: decode_ids((bank / e['evaluation_label']).read_bytes())
        for n, e in read_entries(bank).items()
    }

    class Perfect:
        """Predicts the true label of an image."""

        classes, palette = CLASSES, np.array(PALETTE, np.uint8)
        text_tower = None

        def __init__(self):
            import torch

            self.model = torch.nn.Linear(1, 1)
            self.turn = iter(sorted(true))

        def __call__(self, image, **_):
            number = next(self.turn)
            ids = np.where(true[number] == 255, 0, true[number])
            scores = np.full((19, *ids.shape), 0.01, np.float32)
            np.put_along_axis(scores, ids[None].astype(int), 1.0, axis=0)
            return Prediction(
                image, ids, self.classes, self.palette,
                confidence=scores.max(0), scores=scores,
            )  # fmt: skip

    checkpoint = tmp_path / 'model.pth'
    checkpoint.write_bytes(b'weights')
    filter_bank(out, Perfect(), checkpoint=checkpoint, sheet=0)
    lines = report(out, spoilt)
    assert lines[-2].split() == 'all spoilt 3 of 3 left out (100.0 %)'.split()
    assert lines[-1].split() == 'not spoilt 0 of 7 left out (0.0 %)'.split()
