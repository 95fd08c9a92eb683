"""tools/benchmark.py at sizes of seconds."""

import json
import runpy

import numpy as np
import open_clip
import pytest
import torch
from mmengine.registry import DefaultScope

from benchmark.measure import BenchmarkCase, interleave
from benchmark.memory import peak_memory
from benchmark.parts import RegionTimer, TimedMethod
from benchmark.random_sam import build_sam
from benchmark.reference import load_reference
from benchmark.refining import COMPONENTS, drifted, make_label
from benchmark.roofline import MATMUL_SIDES
from benchmark.setting import Setting
from clouds_mmseg.refine.sam_prompts import find_components
from clouds_mmseg.utils.errors import UserError

CPU = torch.device('cpu')
TOWER = 'bench-rn'
SMALL = [
    '--model',
    'decode_head.feat_channels=32',
    'decode_head.out_channels=32',
    'decode_head.num_queries=20',
    'decode_head.num_encoder_layers=1',
    'decode_head.num_decoder_layers=2',
    'decode_head.encoder_ffn_channels=32',
    'decode_head.decoder_ffn_channels=32',
    'decode_head.loss.num_points=64',
]
QUICK = ['--repeats', '1', '--warmup', '0']
STEP = [*QUICK, '--size', '64x64', '--tower', TOWER, *SMALL]


@pytest.fixture(autouse=True)
def scope():
    """As the tool sets it."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        yield


@pytest.fixture(scope='module', autouse=True)
def tiny_tower(tmp_path_factory):
    """Add a tiny tower to those that open_clip knows."""
    folder = tmp_path_factory.mktemp('open_clip_configs')
    content = dict(
        embed_dim=24,
        vision_cfg=dict(
            layers=[1, 1, 1, 1], width=16, head_width=64, image_size=64
        ),
        text_cfg=dict(
            context_length=8, vocab_size=64, width=64, heads=1, layers=1
        ),
    )
    (folder / f'{TOWER}.json').write_text(json.dumps(content))
    open_clip.add_model_config(folder)


@pytest.fixture(scope='module')
def bench(repo_root, tmp_path_factory):
    """Run the tool in this process; returns the report."""
    main = runpy.run_path(str(repo_root / 'tools' / 'benchmark.py'))['main']
    folder = tmp_path_factory.mktemp('reports')

    def run(*words):
        path = folder / 'report.json'
        main([*map(str, words), '--out', str(path)])
        return json.loads(path.read_text())

    with pytest.MonkeyPatch.context() as patch:
        # Emulated bfloat16 takes seconds for the products that measure it.
        patch.setitem(MATMUL_SIDES, 'cpu', 256)
        yield run


def row(report, name):
    (found,) = [r for r in report['rows'] if r['name'] == name]
    return found


def test_inference_agrees_with_the_plain_one(bench, capsys):
    report = bench('infer', '--against', 'plain', *STEP)
    agreement = row(report, 'agreement')
    assert agreement['ours'] > 0.999
    # On one class anything would agree.
    assert agreement['classes'] > 2
    median = row(report, 'median')
    assert median['ratio'] == pytest.approx(median['plain'] / median['ours'])
    for part in ('tower', 'pixel decoder', 'decoder', 'class maps'):
        assert row(report, part)['ratio'] > 0
    assert 'ratio' not in row(report, 'spread')
    assert report['options']['size'] == [64, 64] and report['machine']
    shown = capsys.readouterr().out
    assert 'infer 1 x 64x64 fp32' in shown and '%' in shown


def test_options_change_the_model():
    setting = Setting(
        size=(64, 64),
        tower=TOWER,
        model={
            'decode_head.num_queries': 3,
            'decode_head.num_encoder_layers': 1,
        },
    )
    head = setting.build_model().decode_head
    assert head.query_embed.num_embeddings == 3
    assert len(head.pixel_decoder.encoder.layers) == 1


def test_bfloat16_is_compared_with_the_plain_float32(bench):
    report = bench('infer', '--against', 'plain', '--dtype', 'bf16', *STEP)
    assert 0.5 < row(report, 'agreement')['ours'] <= 1


@pytest.mark.parametrize('work', ['train', 'selftrain'])
def test_steps_are_divided_into_parts(bench, work):
    report = bench(work, '--against', 'plain', *STEP)
    rows = {r['name']: r for r in report['rows'] if r['work'] != 'update'}
    parts = ['tower', 'pixel decoder', 'decoder', 'matching', 'losses']
    parts += ['backward', 'optimiser']
    if work == 'selftrain':
        parts.append('teacher')
        assert any(r['work'].startswith('update') for r in report['rows'])
    for part in parts:
        assert rows[part]['plain'] > 0 and rows[part]['ours'] > 0
    counted = {
        name.removeprefix('arithmetic of '): r['ours']
        for name, r in rows.items()
        if name.startswith('arithmetic of ')
    }
    assert counted.pop('whole') == sum(counted.values())
    assert counted.keys() == set(parts) - {'optimiser'}
    assert ('teacher' in rows) == (work == 'selftrain')


def test_ours_alone_has_no_ratio(bench):
    report = bench('train', '--dtype', 'bf16', *STEP)
    assert not any('ratio' in r or 'plain' in r for r in report['rows'])


def test_cached_features_are_compared_in_the_same_run(bench, capsys):
    words = ['--cache-features', 'float32', '--warmup', '1']
    report = bench('selftrain', *STEP, *words)
    assert row(report, 'tower')['changed'] > 0
    step, update = [r for r in report['rows'] if r['name'] == 'median']
    assert step['increase'] > 0 and 'changed' not in update
    assert 'MiB of 1 images' in capsys.readouterr().out


def test_changed_settings_are_compared_in_the_same_run(bench):
    report = bench('train', '--changed', 'decode_head.num_queries=3', *STEP)
    median = row(report, 'median')
    assert median['increase'] == median['changed'] / median['ours'] > 0
    assert 'ratio' not in median


def test_refinement_of_an_image_that_comes_again(bench):
    pytest.importorskip('segment_anything')
    report = bench(
        'refine',
        '--against',
        'plain',
        '--size',
        160,
        '--sam-size',
        128,
        *QUICK,
    )
    again = [
        r
        for r in report['rows']
        if r['work'] == 'refine 160x160, second epoch'
    ]
    # Neither half of SAM runs.
    assert not {'encoder', 'decoder'} & {
        r['name'] for r in again if 'ours' in r and r['ours']
    }
    median = next(r for r in again if r['name'] == 'median')
    assert median['ratio'] > 1


def test_resuming_takes_the_same_time_anywhere(bench):
    report = bench(
        'resume',
        '--against',
        'plain',
        '--size',
        '96x64',
        '--crop',
        64,
        '--replayed',
        2,
        '--tower',
        TOWER,
        *QUICK,
        *SMALL,
    )
    late = row(report, 'resume at iteration 40,000')
    early = row(report, 'resume at iteration 1')
    assert late['ratio'] > 1
    # Not the time of 40,000 batches.
    assert late['ours'] < early['ours'] + 5


@pytest.mark.parametrize(
    'words, said',
    [
        (['infer', '--size', '65x64'], '--size 65x64'),
        (['infer', '--repeats', '0'], '--repeats must be at least 1, got 0'),
        (['infer', '--batch', '0'], '--batch must be at least 1'),
        (['infer', '--device', 'gpu'], '--device gpu'),
        (['resume', '--iteration', '1'], '--iteration must be at least 2'),
    ],
)
def test_mistakes_are_one_line(run_tool, capsys, words, said):
    assert run_tool('benchmark.py', *words) == 1
    assert said in capsys.readouterr().err.splitlines()[0]


def test_a_size_is_width_by_height(run_tool, capsys):
    assert run_tool('benchmark.py', 'infer', '--size', '512') == 2
    assert "'512' is no size" in capsys.readouterr().err


def test_without_a_checkout_there_is_nothing_plain(tmp_path):
    with pytest.raises(UserError, match='which is not there: run'):
        load_reference(tmp_path / 'plain')


def test_the_plain_code_needs_nothing_of_ours(repo_root):
    plain = load_reference(repo_root / 'tests' / 'reference')
    assert load_reference(repo_root / 'tests' / 'reference') is plain
    for path in (repo_root / 'tests' / 'reference').glob('*.py'):
        assert 'import clouds_mmseg' not in path.read_text()
        assert 'from clouds_mmseg' not in path.read_text()


def test_contenders_take_turns():
    order = []
    found = interleave(
        {
            name: BenchmarkCase(order.append, lambda name=name: name)
            for name in 'AB'
        },
        device=CPU,
        warmup=1,
        repeats=2,
    )
    assert ''.join(order[:6]) == 'ABABAB'
    assert [len(m.seconds) for m in found.values()] == [2, 2]


class Clockwork:
    """Work that takes as long as it says."""

    def __init__(self):
        self.time = 0.0

    def outer(self):
        self.time += 1
        self.inner()
        self.inner()
        self.time += 2

    def inner(self):
        self.time += 4


def test_a_part_does_not_count_what_is_inside_of_it():
    work = Clockwork()
    clock = RegionTimer(lambda: None, lambda: work.time)
    with clock.watching(
        [
            TimedMethod(work, 'inner', 'small'),
            TimedMethod(work, 'outer', 'large'),
        ]
    ):
        work.outer()
    assert clock.seconds == {'small': 8, 'large': 3}
    assert not {'inner', 'outer'} & set(vars(work))
    clock = RegionTimer(lambda: None, lambda: work.time)
    with clock.watching(
        [
            TimedMethod(work, 'inner', 'small'),
            TimedMethod(work, 'outer', 'large', whole=True),
        ]
    ):
        work.outer()
        work.inner()
    assert clock.seconds == {'small': 4, 'large': 11}


def test_the_peak_of_a_block_is_seen_and_an_earlier_one_is_not():
    size = 64 * 2**20
    with peak_memory(CPU) as large:
        torch.ones(4 * size // 4).sum()
    with peak_memory(CPU) as small:
        torch.ones(size // 4).sum()
    if large.bytes is None:
        pytest.skip('this system does not tell the peak of a block')
    # Some pages were there already.
    assert 0.9 * size < small.bytes < 2 * size < 3 * size < large.bytes


def test_labels_have_the_components_of_the_published_timing():
    label = make_label(768)
    assert len(find_components(label, 5000)) == COMPONENTS
    moved = drifted(label, 1)
    share = (moved != label).mean()
    assert 0 < share < 0.1 and moved.dtype == np.int64
    assert len(find_components(moved, 5000)) == COMPONENTS


def test_the_larger_sam_is_segment_anythings():
    segment_anything = pytest.importorskip('segment_anything')
    with torch.device('meta'):
        ours = build_sam('vit_b').state_dict()
        theirs = segment_anything.sam_model_registry['vit_b']().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {
        k: v.shape for k, v in theirs.items()
    }


def test_heads_are_compared_on_one_tower(bench, capsys):
    report = bench(
        'heads',
        *QUICK,
        *('--size', '64x64', '--tower', 'test_vit'),
        *('--model', 'decode_head.num_queries=5'),
    )
    faster = [r for r in report['rows'] if r['name'] == 'times faster']
    assert [r['CLOUDSHead'] for r in faster] == ['1.00', '1.00']
    assert float(faster[0]['PMTHead']) > 0
    assert float(faster[1]['EoMTHead']) > 0 and 'EoMTHead' not in faster[0]
    alone, whole = [r for r in report['rows'] if r['name'] == 'operations']
    for head in ('CLOUDSHead', 'PMTHead'):
        assert whole[head] > alone[head] > 0
    shown = capsys.readouterr().out
    assert 'parameters of the head' in shown and 'tower and head' in shown
