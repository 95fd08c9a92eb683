"""The config that a checkpoint was trained with, read without running it.

A config's text is a program. What mmengine saves of it is assignments of
literals and ``dict(...)``, and only those are read.
"""

import ast

# Settings of a model that change training, or only what weights begin with.
_TRAINING = {
    'init_cfg',
    'pretrained',
    'weights',
    'train_cfg',
    'test_cfg',
    'loss',
    'loss_decode',
    'sampler',
    'ignore_index',
    'frozen_stages',
    'norm_eval',
    'with_cp',
    'batch_augments',
    'size',
    'size_divisor',
    'pad_val',
    'seg_pad_val',
    # Told by the config of each test: which texts, and where they are.
    'text_embeddings',
}
_PARTS = ('data_preprocessor', 'backbone', 'neck', 'decode_head')


def read_saved_config(text):
    """Read the text of a config without running it.

    Args:
        text (str): As mmengine saves it in ``meta['cfg']``.

    Returns:
        dict | None: Name -> value, of what is a literal; None for what is no
        config.
    """
    try:
        tree = ast.parse(str(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    found = {}
    for line in tree.body:
        if isinstance(line, ast.Assign) and len(line.targets) == 1:
            target = line.targets[0]
            try:
                if isinstance(target, ast.Name):
                    found[target.id] = _value(line.value)
            except (ValueError, TypeError, RecursionError):
                continue
    return found or None


def _value(node):
    """Evaluate literals and ``dict(...)``."""
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or node.func.id != 'dict':
            raise ValueError('another call than dict')
        if node.args or any(keyword.arg is None for keyword in node.keywords):
            raise ValueError('dict of something else than keywords')
        return {k.arg: _value(k.value) for k in node.keywords}
    if isinstance(node, ast.Dict):
        return {
            ast.literal_eval(k): _value(v)
            for k, v in zip(node.keys, node.values, strict=True)
        }
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_value(item) for item in node.elts]
    return ast.literal_eval(node)


def model_differences(meta, cfg):
    """Compare a model's settings with those it was trained with.

    Weights of one shape fit models that compute different things: another
    mean of the pixels, number of attention heads, dilation.

    Args:
        meta (dict | None): Of a checkpoint.
        cfg (Config): Of the test.

    Returns:
        list[str]: ``model.name: value there -> value here``, without what
        changes training alone; empty where the checkpoint has no config.
    """
    text = meta.get('cfg') if isinstance(meta, dict) else None
    saved = read_saved_config(text) if text else None
    if not saved or not isinstance(saved.get('model'), dict):
        return []
    there, here = saved['model'], cfg.get('model') or {}
    # Test-time augmentation wraps the model.
    here = here.get('module', here)
    there = there.get('module', there)
    lines = []
    for part in _PARTS:
        # Configs of mmseg 0.x have no preprocessor.
        if part in there and part in here:
            _compare(f'model.{part}', there[part], here[part], lines)
    return lines


def _compare(name, there, here, lines):
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys([*there, *here]):
            # Dropping out is for training, whatever it is called.
            if key in _TRAINING or 'drop' in str(key):
                continue
            default = 'the default'
            _compare(
                f'{name}.{key}',
                there.get(key, default),
                here.get(key, default),
                lines,
            )
    elif _plain(there) != _plain(here):
        lines.append(f'{name}: {there!r} -> {here!r}')


def _plain(value):
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    # They differ in training only.
    return 'BN' if value == 'SyncBN' else value
