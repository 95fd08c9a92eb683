"""The tools with real models behind them."""

import json
import runpy

import pytest

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
