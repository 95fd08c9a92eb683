"""The tools with real models behind them."""

import json
import runpy
import shutil

import pytest

from clouds_mmseg.utils.errors import GenerationError
from clouds_mmseg.utils.image_set import read_bank, read_entries

pytestmark = pytest.mark.usefixtures('one_process')


def tool(root, name):
    return runpy.run_path(str(root / 'tools' / f'{name}.py'))['main']


def test_llm_backend(repo_root, tmp_path, tiny_lm):
    out = tmp_path / 'p.txt'
    tool(repo_root, 'generate_prompts')(
        ['--backend', 'llm', '--model', str(tiny_lm()), '--num', '3',
         '--out', str(out), '--max-new-tokens', '120', '--device', 'cpu']
    )  # fmt: skip
    how = json.loads((tmp_path / 'p.json').read_text())
    assert how['num'] == 3 and how['calls'] >= 1
    assert how['max_new_tokens'] == 120
    assert 'one prompt a line' in how['instruction']


def test_diffusers_options_reach_the_pipeline(
    repo_root, tmp_path, prompt_file, tiny_sd
):
    tool(repo_root, 'generate_images')(
        ['--prompts', str(prompt_file), '--num', '2', '--out',
         str(tmp_path / 'bank'), '--backend', 'diffusers', '--model',
         str(tiny_sd), '--size', '32', '--steps', '1', '--guidance', '2',
         '--scheduler', 'model', '--negative-prompt', 'blurry',
         '--batch-size', '2', '--device', 'cpu', '--seed', '8']
    )  # fmt: skip
    recipe = read_bank(tmp_path / 'bank')['recipe']
    assert recipe['scheduler'] == 'DDIMScheduler'
    assert recipe['negative_prompt'] == 'blurry'
    assert (recipe['steps'], recipe['guidance']) == (1, 2.0)
    assert read_entries(tmp_path / 'bank')[1]['seed'] == 9


def test_options_of_label_maps_reach_the_pipeline(
    repo_root, tmp_path, prompt_file, tiny_sd, tiny_controlnet, label_maps
):
    tool(repo_root, 'generate_images')(
        ['--prompts', str(prompt_file), '--num', '1', '--out',
         str(tmp_path / 'bank'), '--backend', 'diffusers', '--model',
         str(tiny_sd), '--mode', 'label2img', '--labels', str(label_maps),
         '--label-end', '.png', '--controlnet', str(tiny_controlnet),
         '--control-scale', '0.5', '--palette', 'cityscapes',
         '--unknown-classes', 'ignore', '--ignore-border', '1', '--size',
         '16', '--steps', '1', '--device', 'cpu']
    )  # fmt: skip
    recipe = read_bank(tmp_path / 'bank')['recipe']
    assert recipe['control_scale'] == 0.5 and recipe['palette'] == 'cityscapes'
    assert recipe['ignore_border'] == 1
    assert read_entries(tmp_path / 'bank')[0]['label'] == 'labels/000000.png'


def test_prompts_for_a_source_and_a_model(
    repo_root, tmp_path, tiny_sd, capsys
):
    (tmp_path / 'pixels.json').write_text('{"road": 1000000, "train": 1}')
    # Configs and tokenizer are enough.
    model = tmp_path / 'model'
    shutil.copytree(tiny_sd / 'tokenizer', model / 'tokenizer')
    shutil.copy(tiny_sd / 'model_index.json', model)
    config = model / 'tokenizer/tokenizer_config.json'
    entries = json.loads(config.read_text())
    config.write_text(json.dumps(dict(entries, model_max_length=150)))
    out = tmp_path / 'p.txt'
    main = tool(repo_root, 'generate_prompts')
    main(['--num', '4', '--out', str(out), '--for-model', str(model),
          '--rare-from', str(tmp_path / 'pixels.json'),
          '--classes-per-prompt', '2'])  # fmt: skip
    how = json.loads((tmp_path / 'p.json').read_text())
    assert how['kind'] == 'dense' and how['tokens'] == 150
    assert how['shares']['train'] > 100 * how['shares']['road']
    # A token a letter with this tokenizer, and two around them.
    lines = [line.replace(' ', '') for line in out.read_text().splitlines()]
    assert all(40 < len(line) <= 148 for line in lines)
    assert 'classes and' in capsys.readouterr().out
    assert set(how['diversity']) >= {'words', 'classes', 'distinct_2'}


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--kind', 'edit', '--rare-from', 'gta5'], '--rare-from gta5 bel'),
        (['--kind', 'short', '--classes-per-prompt', '3'], 'belongs to --b'),
        (['--data-root', 'x'], '--data-root x belongs to --rare-from'),
        (['--rewrite', 'x'], '--rewrite x belongs to --backend llm'),
        (['--model', 'x'], '--model x belongs to --backend llm'),
    ],
)
def test_options_of_other_prompts(repo_root, options, message):
    with pytest.raises(GenerationError, match=message):
        tool(repo_root, 'generate_prompts')(options)
