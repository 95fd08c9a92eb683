"""The loop with a backend that fails for chosen seeds."""

import numpy as np
import pytest
from generate_helpers import tree

from clouds_mmseg.generate.backends import GeneratedImage
from clouds_mmseg.generate.image_bank import ImageBank, Shard
from clouds_mmseg.generate.run import ImageMaker
from clouds_mmseg.utils.image_set import read_entries

PROMPTS = [(1, 'a'), (2, 'b')]


class Noise:
    """Noise images; NaN or black for the first attempts at some."""

    keeps_labels = False

    def __init__(self, batch_size=1, blanks=None):
        self.batch_size = batch_size
        self.blanks = blanks or {}
        self.sizes = []

    def recipe(self):
        return dict(backend='noise', model='noise', mode='txt2img')

    def generate(self, requests):
        self.sizes.append(len(requests))
        return [GeneratedImage(self._image(r)) for r in requests]

    def _image(self, request):
        failures, value = self.blanks.get(request.index, (0, 0))
        if request.attempt < failures:
            return np.full((8, 8, 3), value, np.float32)
        # The place in the batch matters, as it does for rounding.
        rng = np.random.default_rng(request.seed)
        return rng.random((8, 8, 3), np.float32)


def fill(root, backend, num, shard=Shard()):  # noqa: B008
    bank = ImageBank(
        root, backend.recipe(), info={}, num=num, writer=shard.writer
    )
    try:
        return ImageMaker(bank, backend, PROMPTS, seed=3).make(shard)
    finally:
        bank.close()


def test_blank_images_are_made_again_and_counted(tmp_path):
    blanks = {1: (1, np.nan), 2: (3, 0.0), 4: (2, 0.5)}
    summary = fill(tmp_path, Noise(2, blanks), 5)
    assert dict(summary.blank) == {'nan': 1, 'black': 3, 'constant': 2}
    assert summary.created == 5 and summary.complete
    entries = read_entries(tmp_path)
    assert [e['attempt'] for e in entries.values()] == [0, 1, 3, 0, 2]
    assert len({e['sha256'] for e in entries.values()}) == 5
    assert entries[0]['seed'] == 3 and entries[3]['seed'] == 6


def test_batches_are_whole_and_second_attempts_alone(tmp_path):
    backend = Noise(4, {2: (1, 0.0)})
    fill(tmp_path, backend, 6)
    assert backend.sizes == [4, 1, 4]
    backend.sizes.clear()
    assert fill(tmp_path, backend, 6).existing == 6
    assert backend.sizes == []


@pytest.mark.parametrize('world', [2, 3, 5])
def test_any_number_of_processes_makes_the_same_files(tmp_path, world):
    blanks = {1: (1, np.nan), 6: (2, 0.0)}
    fill(tmp_path / 'one', Noise(2, blanks), 9)
    for rank in reversed(range(world)):
        fill(tmp_path / 'many', Noise(2, blanks), 9, Shard(rank, world))
    assert tree(tmp_path / 'many') == tree(tmp_path / 'one')


def test_a_changed_number_of_processes_continues(tmp_path):
    fill(tmp_path / 'one', Noise(), 7)
    fill(tmp_path / 'many', Noise(), 7, Shard(1, 3))
    summary = fill(tmp_path / 'many', Noise(), 7)
    assert summary.existing == 2 and summary.created == 5
    assert tree(tmp_path / 'many') == tree(tmp_path / 'one')
