"""What begins anew, and which rows of classes are kept."""

import pytest
import torch

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.load import CheckpointMismatchError
from clouds_mmseg.weights.partial import (
    LoadOptions,
    check_class_names,
    class_layer,
    load_options,
    parts_that_differ,
    reinitialise_parts,
)

HEAD = 'decode_head.cls_embed'
OLD, NEW = ['road', 'sky', 'lamp'], ['sky', 'tram', 'Road', 'dog']


def model_of(classes, value):
    """Weights of one value but for rows, which are value + row."""
    rows = torch.arange(len(classes) + 1.0) + value
    return {
        'backbone.conv.weight': torch.full((2, 2), value),
        'decode_head.query.weight': torch.full((5, 2), value),
        f'{HEAD}.weight': rows[:, None].repeat(1, 2),
        f'{HEAD}.bias': rows,
    }


def anew(names, **changes):
    options = LoadOptions.of(dict(reinit=names, **changes))
    return reinitialise_parts(
        model_of(NEW, 100.0),
        model_of(OLD, 0.0),
        options,
        found=OLD,
        classes=NEW,
    )


def test_rows_of_equal_names_are_carried_over():
    weights, lines = anew([HEAD])
    # sky was row 1, road row 0; tram and dog are new; no object stays last.
    assert weights[f'{HEAD}.bias'].tolist() == [1, 101, 0, 103, 3]
    assert weights[f'{HEAD}.weight'][:, 1].tolist() == [1, 101, 0, 103, 3]
    assert (weights['decode_head.query.weight'] == 0).all()
    text = '\n'.join(lines)
    assert '2 tensors are loaded, 2 begin anew: decode_head.cls_embed' in text
    assert 'carried over (2): sky, Road' in text
    assert 'new (2): tram, dog' in text
    assert 'left behind (1): lamp' in text


def test_all_rows_can_begin_anew():
    weights, lines = anew([HEAD], class_rows='new')
    assert weights[f'{HEAD}.bias'].tolist() == [100, 101, 102, 103, 104]
    assert 'class_rows=new' in '\n'.join(lines)


def test_rows_by_position():
    weights, _ = anew([HEAD], class_rows='by_position')
    assert weights[f'{HEAD}.bias'].tolist() == [0, 1, 2, 103, 3]


def test_a_whole_head_begins_anew_with_its_rows():
    weights, _ = anew(['decode_head'])
    assert weights[f'{HEAD}.bias'].tolist() == [100, 101, 102, 103, 104]
    assert (weights['decode_head.query.weight'] == 100).all()
    assert (weights['backbone.conv.weight'] == 0).all()


def test_unknown_classes_begin_anew_and_it_is_said():
    options = LoadOptions(reinit=[HEAD])
    weights, lines = reinitialise_parts(
        model_of(NEW, 100.0), model_of(OLD, 0.0), options, classes=NEW
    )
    assert weights[f'{HEAD}.bias'].min() == 100
    assert 'the checkpoint does not name its classes' in '\n'.join(lines)


def test_a_teacher_follows_what_begins_anew():
    def with_teacher(weights, steps):
        copies = {
            f'teacher.module.{k}': v
            for k, v in weights.items()
            if k.startswith('decode_head')
        }
        return {**weights, **copies, 'teacher.steps': torch.tensor(steps)}

    old = with_teacher(model_of(OLD, 0.0), 9)
    own = with_teacher(model_of(NEW, 100.0), 0)
    options = LoadOptions(reinit=[HEAD])
    weights, lines = reinitialise_parts(
        own, old, options, found=OLD, classes=NEW
    )
    # Zero updates: it will be copied from the student.
    assert weights['teacher.steps'] == 0
    assert weights.keys() == own.keys()
    assert 'copy of the student' in '\n'.join(lines)
    # Without a teacher in the model, that of the checkpoint is left out.
    alone = model_of(NEW, 100.0)
    weights, _ = reinitialise_parts(
        alone, old, options, found=OLD, classes=NEW
    )
    assert weights.keys() == alone.keys()
    # A part of which it is no copy leaves it as it is.
    own['auxiliary_head.x'] = torch.ones(1)
    options = LoadOptions(reinit=['auxiliary_head'])
    weights, _ = reinitialise_parts(own, old, options)
    assert weights['teacher.steps'] == 9


@pytest.mark.parametrize('name', ['cls_embed', 'decode_head.cls_emebd'])
def test_a_name_that_matches_nothing_lists_near_ones(name):
    with pytest.raises(UserError, match=f"'{name}'.*near are: {HEAD}"):
        anew([name])


def test_the_whole_model_is_refused():
    with pytest.raises(UserError, match='nothing would be loaded'):
        anew(['backbone', 'decode_head'])
    with pytest.raises(UserError, match='it has: backbone, decode_head'):
        anew(['zzzzz'])


@pytest.mark.parametrize(
    ('load_cfg', 'words'),
    [
        (dict(reinti=['x']), 'no option .reinti.; perhaps .reinit.. There a'),
        (dict(reinit=3), r'load_cfg.reinit must be a list .* got 3'),
        (dict(class_rows='all'), 'by_name, by_position, new, got .all.'),
    ],
)
def test_wrong_options_are_named(load_cfg, words):
    with pytest.raises(UserError, match=words):
        LoadOptions.of(load_cfg)


def test_a_single_name_is_a_list():
    assert LoadOptions.of(dict(reinit=HEAD)).reinit == [HEAD]
    assert LoadOptions.of(None) == LoadOptions()


def test_what_holds_for_a_test_and_for_resuming():
    load_cfg = dict(
        reinit=['decode_head'],
        allow_missing=['teacher.', 'backbone'],
        allow_unexpected=['x'],
    )
    model = torch.nn.Module()
    model.optional_in_checkpoint = ('teacher.',)
    tested = load_options(load_cfg, 'test', model)
    assert tested.reinit == [] and tested.allow_missing == ['teacher.']
    assert tested.allow_unexpected == ['x']
    assert load_options(load_cfg, 'resume', model) == LoadOptions()
    assert load_options(load_cfg, 'train', model).reinit == ['decode_head']


def test_equal_numbers_of_other_classes_are_refused():
    own, old = model_of(OLD, 1.0), model_of(OLD, 0.0)

    def check(found, classes, **options):
        check_class_names(
            own, old, found, classes, LoadOptions(**options), 'w.pth'
        )

    check(OLD, ['Road', 'sky', 'lamp'])
    check(None, OLD)
    turned = ['sky', 'road', 'lamp']
    with pytest.raises(UserError) as caught:
        check(OLD, turned)
    text = str(caught.value)
    assert 'w.pth was trained for 3 classes with other names' in text
    assert '0: road in the checkpoint, sky in the data' in text
    assert f'load_cfg.reinit="[{HEAD}]"' in text and '2:' not in text
    check(OLD, turned, reinit=[HEAD])
    check(OLD, turned, class_rows='by_position')
    # A text classifier has no rows: it is told its classes.
    own = {k: v for k, v in own.items() if 'cls_embed' not in k}
    check(OLD, turned)


def test_layers_with_rows():
    assert class_layer('decode_head.cls_embed.weight') == (HEAD, 1)
    assert class_layer('auxiliary_head.conv_seg.bias')[1] == 0
    assert class_layer('decode_head.empty_weight')[1] == 1
    assert class_layer('decode_head.cls_embedding.weight') is None


def differing(own, old):
    shapes = {k: tuple(v.shape) for k, v in old.items()}
    ours = {k: tuple(v.shape) for k, v in own.items()}
    error = CheckpointMismatchError(
        '',
        missing={k: s for k, s in ours.items() if k not in old},
        unexpected={k: s for k, s in shapes.items() if k not in own},
        shape_mismatches={
            k: (shapes[k], s)
            for k, s in ours.items()
            if k in old and shapes[k] != s
        },
    )
    return parts_that_differ(error, [*own, *old])


def test_the_largest_parts_are_named():
    own, old = model_of(NEW, 1.0), model_of(OLD, 0.0)
    assert differing(own, old) == [HEAD]
    # The classifier alone, even where the head has nothing else.
    del own['decode_head.query.weight'], old['decode_head.query.weight']
    assert differing(own, old) == [HEAD]
    own['backbone.bn.num_batches_tracked'] = torch.tensor(1)
    old['backbone.bn.num_batches_tracked'] = torch.tensor(1)
    old['backbone.bn.weight'] = own['backbone.conv.weight'] = torch.ones(9)
    assert differing(own, old) == ['backbone', HEAD]


def test_at_most_eight_parts_are_named():
    own = {
        f'backbone.l{i}.{n}': torch.ones(1) for i in range(20) for n in 'ab'
    }
    old = {k: torch.ones(2) if k[-1] == 'a' else v for k, v in own.items()}
    assert differing(own, old) == ['backbone']


@pytest.mark.parametrize(
    ('named', 'filled'),
    [
        ([], True),
        (['decode_head.cls_embed'], True),
        # A part of another name, and parts of this one.
        (['backbone2', 'back'], True),
        (['backbone'], False),
        (['backbone.'], False),
        (['backbone.stem'], False),
        ([''], False),
    ],
)
def test_a_checkpoint_fills_what_nothing_exempts(named, filled):
    for key in ('reinit', 'allow_missing'):
        assert LoadOptions.of({key: named}).fills('backbone') is filled
