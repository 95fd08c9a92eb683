"""Say what became of every tensor, in a table that can be read."""

from clouds_mmseg.checkpoints.layouts import TITLES

# What tensors are counted under, longest first.
_GROUPS = (
    'backbone.clip_model.visual',
    'backbone.clip_model',
    'sem_seg_head.pixel_decoder',
    'sem_seg_head.predictor',
    'sem_seg_head_ema',
    'teacher.module.decode_head',
    'decode_head.pixel_decoder',
    'decode_head.transformer_decoder',
    'backbone.visual',
)
# Tower of an official checkpoint -> what the names of its configs end with.
_CONFIGS = {'convnext_large_d_320': '', 'RN50': '_r50', 'RN101': '_r101'}


def group_of(key):
    """Name the part of a model that a tensor is counted under.

    Args:
        key (str): Whole name.

    Returns:
        str: A prefix with ``*``, or the name itself.
    """
    for group in _GROUPS:
        if key.startswith(group + '.'):
            return f'{group}.*'
    first, dot, _ = key.partition('.')
    return f'{first}.*' if dot else first


def report_lines(outcome, every=False):
    """Describe a conversion.

    Args:
        outcome (Outcome): What was done.
        every (bool): A line for each tensor, not for each part.

    Returns:
        list[str]: Lines of a table, under headings.
    """
    result = outcome.conversion
    name = str if every else group_of
    lines = [f'{outcome.source}: {outcome.layout.title}']
    pairs = {}
    for old, new in result.moved:
        pairs.setdefault((name(old), name(new)), []).append((old, new))
    rows = []
    for (old, new), members in pairs.items():
        if len(members) == 1:
            old, new = members[0]
        same = all(one == other for one, other in members)
        text = old if same else f'{old} -> {new}'
        rows.append((len(members), text))
    _table(lines, 'taken', rows)
    _reasons(lines, 'not taken', result.unused, name)
    left = {
        key: 'training state' if tensors else 'no weights'
        for key, tensors in outcome.leftovers.items()
    }
    if left:
        _table(
            lines,
            'left out, beside the weights',
            [(outcome.leftovers[k], f'{k}: {why}') for k, why in left.items()],
        )
    _reasons(lines, 'made', result.made, name)
    _reasons(lines, 'absent', result.absent, name)
    filled = len(result.weights)
    values = sum(value.numel() for value in result.weights.values())
    size = outcome.target.stat().st_size
    what = (
        'the model'
        if outcome.destination == 'ours'
        else TITLES[outcome.destination]
    )
    lines += [
        f'{filled} of {len(result.wanted)} tensors of {what} '
        f'({outcome.model}) are filled.',
        f'{outcome.target}: {values / 1e6:.2f} M values, '
        f'{size / 2**20:.1f} MiB, sha256 {outcome.sha256}',
    ]
    return lines + _next_step(outcome)


def _next_step(outcome):
    """Name a config for what was an official checkpoint."""
    clouds = outcome.layout.kind == 'clouds' and not outcome.layout.text
    tower = next(
        (t for t in _CONFIGS if f'CLIPBackbone {t},' in outcome.model), None
    )
    if not clouds or tower is None or outcome.destination != 'ours':
        return []
    name = f'gta2cs{_CONFIGS[tower]}.py'
    if outcome.layout.teacher:
        return [
            f'It is for configs/clouds/{name} and its like. A test needs no '
            'moving average: for a test alone convert with --config '
            f'configs/warmup/{name}.'
        ]
    return [
        f'Test it: python tools/test.py configs/warmup/{name} {outcome.target}'
    ]


def _reasons(lines, title, reasons, name):
    """Add a table of what has a reason, grouped by both."""
    groups = {}
    for key, reason in reasons.items():
        groups.setdefault((name(key), reason), []).append(key)
    rows = [
        (len(keys), f'{group if len(keys) > 1 else keys[0]}: {reason}')
        for (group, reason), keys in groups.items()
    ]
    _table(lines, title, rows)


def _table(lines, title, rows):
    if rows:
        total = sum(number for number, _ in rows)
        lines.append(f'  {total:>6}  {title}')
        lines += [f'  {number:>6}    {text}' for number, text in rows]
