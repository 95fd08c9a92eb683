import pytest
from mmengine.config import Config
from tiny_run import read_config

from clouds_mmseg.cli.preflight import missing_inputs, require_inputs
from clouds_mmseg.utils.errors import UserError


@pytest.fixture
def shipped(repo_root, tmp_path, monkeypatch, pretrained_folder):
    """Read a shipped config where no data and no weights are."""
    monkeypatch.setenv('CLOUDS_DATA_ROOT', str(tmp_path / 'data'))
    monkeypatch.setenv('HF_HUB_CACHE', str(tmp_path / 'cache'))

    def read(name, **changes):
        cfg = Config.fromfile(repo_root / 'configs' / name)
        cfg.work_dir = str(tmp_path / 'work')
        cfg.merge_from_dict(changes)
        return cfg

    return read


def words(cfg, phase):
    return '\n'.join(need.what for need in missing_inputs(cfg, phase))


def test_all_that_training_lacks_is_one_error(shipped, tmp_path):
    with pytest.raises(UserError) as caught:
        require_inputs(shipped('clouds/gta2cs_r101.py'), 'train')
    said = str(caught.value)
    data = tmp_path / 'data'
    for what in (
        f'gta5: there is no folder {data}/gta5',
        f'cityscapes: there is no folder {data}/cityscapes',
        f'bdd100k: there is no folder {data}/bdd100k',
        f'mapillary: there is no folder {data}/mapillary',
        f'generated images: {data}/generated is missing or unfinished',
        "model.backbone: pretrained='openai' of RN101",
        'custom_hooks[5].refiner: SAMRefiner',
    ):
        assert said.count(what) == 1, what
    for remedy in (
        f'clouds prepare gta5 --src DOWNLOADS --out {data}',
        '--data-root FOLDER',
        f'clouds generate --prompts {data}/generated_prompts',
        'hf download timm/resnet101_clip.openai',
        '--pretrained-dir DIR',
    ):
        assert remedy in said, remedy


def test_a_refiner_says_whose_weights_it_lacks(shipped):
    said = words(shipped('clouds/gta2cs_sam3.py'), 'train')
    assert (
        'custom_hooks[5].refiner: weights of ConceptRefiner=facebook/sam3: '
        'config.json is not here'
    ) in said
    assert 'hf download facebook/sam3' in said
    assert 'MobileSAM' not in said and 'SAMRefiner' not in said


def test_a_test_needs_its_targets_and_the_checkpoint(shipped):
    cfg = shipped('clouds/gta2cs_r101.py', load_from='nowhere.pth')
    said = words(cfg, 'test')
    assert 'load_from names nowhere.pth' in said
    for domain in ('cityscapes', 'bdd100k', 'mapillary'):
        assert f'{domain}: there is no folder' in said
    for other in ('gta5', 'generated', 'CLIP', 'SAM'):
        assert other not in said


def test_a_folder_that_lacks_its_images_is_named(shipped, tmp_path):
    (tmp_path / 'data' / 'gta5' / 'images').mkdir(parents=True)
    said = words(shipped('warmup/gta2cs_r50.py'), 'train')
    assert f'gta5: there is no folder {tmp_path}/data/gta5/labels' in said
    assert f'{tmp_path}/data/gta5/images' not in said


def test_what_is_made_in_training_is_not_missing(shipped, tmp_path):
    cfg = shipped('toycity/clouds.py')
    found = missing_inputs(cfg, 'train')
    assert not any('generated images' in need.what for need in found)
    assert {
        need.remedy.split(';')[0] for need in found if 'toycity' in need.what
    } == {f'clouds toycity {tmp_path}/data/toycity'}
    cfg.launcher = 'pytorch'
    said = words(cfg, 'train')
    assert f'generated images: {tmp_path}/data/toycity/generated' in said


def test_weights_that_can_be_fetched_are_no_error(
    shipped, tmp_path, monkeypatch
):
    cfg = shipped('warmup/gta2cs_r50.py')
    for name in ('train', 'val', 'test'):
        cfg.pop(f'{name}_dataloader')
    with pytest.raises(
        UserError, match='of RN50[^!]*hf download timm/resnet50'
    ):
        require_inputs(cfg, 'train')
    monkeypatch.delenv('HF_HUB_OFFLINE')
    said = []
    monkeypatch.setattr(
        'clouds_mmseg.cli.preflight.print_log',
        lambda text, **kwargs: said.append(text),
    )
    require_inputs(cfg, 'train')
    assert len(said) == 1
    assert said[0].startswith(
        "To be fetched: model.backbone: pretrained='openai' of RN50"
    )
    # A checkpoint holds the backbone as well.
    checkpoint = tmp_path / 'iter_1.pth'
    checkpoint.touch()
    cfg.load_from = str(checkpoint)
    assert missing_inputs(cfg, 'train') == []


def test_sets_that_the_config_cannot_make(tiny_config, tmp_path):
    cfg = read_config(tiny_config, tmp_path / 'work')
    out = str(tmp_path / 'my restyled')
    augment = dict(type='DiffusionAugment', bank=out)
    cfg.train_dataloader.dataset.pipeline.insert(2, augment)
    (need,) = missing_inputs(cfg, 'train')
    assert 'banks of the config does not say how' in need.what
    assert need.remedy == (
        'clouds generate --prompts FILE --mode img2img --source IMAGES '
        f"--num N --out '{out}'"
    )
    cfg.banks = [dict(out=out, num=5, mode='edit', source='data/x')]
    (need,) = missing_inputs(cfg, 'train')
    assert '--num 5 --mode edit --source data/x' in need.remedy


def test_nothing_is_missing_in_a_run_that_works(tiny_config, tmp_path):
    cfg = read_config(tiny_config, tmp_path / 'work')
    assert missing_inputs(cfg, 'train') == missing_inputs(cfg, 'test') == []


def test_self_training_needs_a_warm_up(shipped):
    cfg = shipped('clouds/gta2cs_r50.py', **{'train_cfg.warmup_iters': 0})
    assert (
        'a finished source-only training, and load_from names none'
        in words(cfg, 'train')
    )
