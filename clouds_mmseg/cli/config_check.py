"""Checks of a config for misspelt keys and unknown types."""

import ast
import functools
import inspect
import logging
import textwrap
from collections.abc import Iterator

import mmengine.registry
import mmseg.registry
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import Registry, init_default_scope
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from clouds_mmseg.engine.hooks.mask_annealing import late_end
from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.utils.options import closest_names

# Keys read by mmengine besides its runner's arguments, or by this package.
_MORE_KEYS = (
    'runner_type',
    'custom_imports',
    'cfg',
    'compile',
    'model_wrapper_cfg',
    'find_unused_parameters',
    'detect_anomalous_params',
    'sync_bn',
    'auto_scale_lr',
    'strategy',
    'tta_model',
    'tta_pipeline',
    'load_cfg',
    'resume_cfg',
    'dataset_options',
    'test_pipeline',
    'total_batch_size',
    'banks',
)
# Keys that builders remove before they call a constructor.
_BUILDERS_KEYS = frozenset(
    {
        'type',
        '_scope_',
        '_delete_',
        # Runner.register_hook, build_norm_layer, build_param_scheduler.
        'priority',
        'requires_grad',
        'convert_to_iter_based',
        # build_optim_wrapper and its constructor.
        'constructor',
        'paramwise_cfg',
        'optimizer',
    }
)
_LOADER_KEYS = (
    *inspect.signature(DataLoader).parameters,
    'dataset',
    'collate_fn',
    'sampler',
    'batch_sampler',
    'num_batch_per_epoch',
    'persistent_workers',
    'worker_init_fn',
    'seed',
)
_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
# Minimal values; a loop of -1 iterations would end silently.
_MINIMA = {
    'train_cfg.max_iters': 1,
    'train_cfg.max_epochs': 1,
    'train_cfg.val_interval': 1,
    'train_cfg.warmup_iters': 0,
    'total_batch_size': 1,
    'randomness.seed': 0,
    # -1: no checkpoints but the last.
    'default_hooks.checkpoint.interval': -1,
    'default_hooks.logger.interval': 1,
    **{f'{loader}.batch_size': 1 for loader in _LOADERS},
    **{f'{loader}.num_workers': 0 for loader in _LOADERS},
}
# Required sections.
_SECTIONS = dict(
    train=('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'),
    test=('model', 'test_dataloader', 'test_evaluator', 'test_cfg'),
)
_DICTS = (
    'model',
    'train_cfg',
    'val_cfg',
    'test_cfg',
    'optim_wrapper',
    'default_hooks',
    'env_cfg',
    'randomness',
    'load_cfg',
    *_LOADERS,
)
# Sections whose types are in no registry, or that take other keys as well.
_SKIPPED_SECTIONS = frozenset(
    {'init_cfg', 'env_cfg', 'banks', 'cfg', 'plugins'}
)


def known_keys() -> list[str]:
    """Return the sorted top-level keys that a runner reads."""
    own = inspect.signature(Runner.__init__).parameters
    return sorted({*own, *_MORE_KEYS} - {'self'})


def check_config(cfg: Config) -> None:
    """Refuse a config with unknown names or invalid numbers.

    Unknown top-level keys are variables of the config file and are allowed,
    unless one is spelt almost like a key of the runner and is used in no
    other part of the config. In all sections, each ``type`` has to be
    registered, and the keys beside it have to be arguments of its
    constructor, if that names all of its arguments.

    Args:
        cfg: As read.

    Raises:
        UserError: Lists all unknown names and all invalid numbers of
            iterations, images or workers.
    """
    init_default_scope(cfg.get('default_scope') or 'mmseg')
    problems = [*_wrong_sections(cfg), *_misspelt_top_keys(cfg)]
    known, registered = set(known_keys()), _registered()
    for key in cfg:
        if key in known and key not in _SKIPPED_SECTIONS:
            problems.extend(_problems(cfg[key], key, registered))
    problems.extend(_wrong_numbers(cfg))
    level = cfg.get('log_level') or 'INFO'
    # getLevelName returns 'Level NAME' for an unknown name.
    if str(logging.getLevelName(level)).startswith('Level '):
        problems.append(f'log_level must be INFO, DEBUG, ..., got {level!r}')
    # Sections may occur twice: validation and test.
    lines = [f'  {line}' for line in dict.fromkeys(problems)]
    if lines:
        raise UserError(
            f'{cfg.filename or "the config"} has settings that cannot be:\n'
            + '\n'.join(lines)
        )


def require_sections(cfg: Config, phase: str) -> None:
    """Refuse a config without the sections that a run needs.

    Args:
        phase: ``'train'`` or ``'test'``.

    Raises:
        UserError: Sections are missing; all of them are named.
    """
    lacking = [name for name in _SECTIONS[phase] if cfg.get(name) is None]
    if lacking:
        raise UserError(
            f'{cfg.filename or "the config"} has no {", no ".join(lacking)}, '
            f'which a {phase} run needs; give a config that has them'
        )


def apply_options(cfg: Config, options: dict) -> None:
    """Apply ``--cfg-options`` to a config, and refuse unknown keys.

    Args:
        cfg: Changed in place.
        options: Dotted key -> value.

    Raises:
        UserError: A key is unknown or misspelt.
    """
    known = known_keys()
    for key, value in options.items():
        _check_option(cfg, key, value, known)
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        said = error.args[0] if error.args else type(error).__name__
        raise UserError(
            f'--cfg-options {" ".join(options)} does not fit the config: '
            f'{said}'
        ) from error


def _check_option(cfg, key, value, known):
    """Refuse an unknown key, or warn about a new one."""
    first, *rest = key.split('.')
    if first not in known:
        if first not in cfg:
            raise UserError(
                f'--cfg-options {key}: neither the config nor the runner '
                f'knows {first}{_near(first, [*known, *cfg])}'
            )
        print_log(
            f'--cfg-options {key}: {first} is a variable of the config file. '
            'Settings that the file computed from it do not change; '
            'override these settings',
            logger='current',
            level=logging.WARNING,
        )
    here, path = cfg.get(first), first
    for name in rest:
        if isinstance(here, (list, tuple)):
            if not name.isdigit() or int(name) >= len(here):
                raise UserError(
                    f'--cfg-options {key}: {path} is a list of '
                    f'{len(here)}; give an index from 0 to {len(here) - 1} '
                    f'in place of {name}, or the whole list'
                )
            here = here[int(name)]
        elif isinstance(here, dict):
            if name not in here:
                _check_new_key(here, path, name, key)
                return
            here = here[name]
        elif here is None:
            return
        else:
            raise UserError(
                f'--cfg-options {key}: {path} is {here!r}, which has no {name}'
            )
        path = f'{path}.{name}'
    whole = isinstance(here, dict) and here
    if whole and value is not None and not isinstance(value, dict):
        raise UserError(
            f'--cfg-options {key}={value!r} replaces a whole section of the '
            f'config ({", ".join(map(str, here))}); name one of its keys, '
            f'such as {key}.{next(iter(here))}'
        )


def _check_new_key(parent, path, name, key):
    """Refuse a new key that is a misspelling; warn about any other."""
    if path in _LOADERS or parent.get('type'):
        # check_config compares it with the constructor.
        return
    if not parent:
        return
    near = [old for old in parent if _is_near(name, str(old))]
    if near:
        raise UserError(
            f'--cfg-options {key}: {path} has no {name}; '
            f'did you mean {path}.{near[0]}?'
        )
    print_log(
        f'--cfg-options {key}: new in the config; {path} has '
        f'{", ".join(map(str, parent))}',
        logger='current',
        level=logging.WARNING,
    )


def _wrong_sections(cfg):
    """Report sections of a wrong type."""
    for name in _DICTS:
        if cfg.get(name) is not None and not isinstance(cfg[name], dict):
            yield f'{name} must be a dict, got {cfg[name]!r}'
    hooks = cfg.get('custom_hooks') or []
    if not isinstance(hooks, (list, tuple)) or any(
        isinstance(hook, (str, int)) for hook in hooks
    ):
        yield f'custom_hooks must be a list of dicts, got {hooks!r}'


def _wrong_numbers(cfg):
    """Report numbers that loops and loaders accept but misinterpret."""
    for path, least in _MINIMA.items():
        value = cfg
        for key in path.split('.'):
            is_section = isinstance(value, (dict, Config))
            value = value.get(key) if is_section else None
        if value is None:
            continue
        whole = isinstance(value, (int, float)) and float(value).is_integer()
        if not whole or isinstance(value, bool) or value < least:
            yield (
                f'{path} must be a whole number of at least {least}, got '
                f'{value!r}'
            )
    loop = cfg.get('train_cfg')
    loop = loop if isinstance(loop, dict) else {}
    warmup, planned = loop.get('warmup_iters'), loop.get('max_iters')
    numbers = all(isinstance(n, (int, float)) for n in (warmup, planned))
    if numbers and warmup > planned:
        yield (
            f'train_cfg.warmup_iters={warmup} is more than '
            f'train_cfg.max_iters={planned}: change both, or give the same '
            'number for a run without self-training'
        )
    for hook in hook_configs(cfg):
        end = hook.get('end')
        annealing = hook.get('type') == 'MaskAnnealingHook'
        if annealing and end and isinstance(planned, int):
            if late := late_end(end, planned):
                yield late
    wrapper = cfg.get('optim_wrapper')
    wrapper = wrapper if isinstance(wrapper, dict) else {}
    decay = (wrapper.get('paramwise_cfg') or {}).get('layer_decay')
    name = 'LayerDecayConstructor'
    if decay is not None and name not in str(wrapper.get('constructor')):
        yield (
            f'optim_wrapper.paramwise_cfg.layer_decay={decay} has an effect '
            f"with optim_wrapper.constructor='{name}' only"
        )


def hook_configs(cfg: Config) -> Iterator[dict]:
    """Yield the configs of all hooks."""
    default = cfg.get('default_hooks')
    hooks = list(default.values()) if isinstance(default, dict) else []
    custom = cfg.get('custom_hooks')
    hooks += custom if isinstance(custom, (list, tuple)) else []
    yield from (hook for hook in hooks if isinstance(hook, dict))


def _misspelt_top_keys(cfg):
    """Report unused top-level keys that are almost keys of the runner."""
    known = known_keys()
    for key in cfg:
        if key in known:
            continue
        near = [name for name in known if _is_near(key, name)]
        if near and not _is_used(cfg, key):
            yield (
                f'{key}: did you mean {near[0]}? A variable of your own '
                'needs a name that is less like it'
            )


def _is_near(name, known):
    """Return whether a name is a misspelling of another, not an extension."""
    if name == known or min(len(name), len(known)) < 3:
        return False
    # val_dataloader_fog, model_2, train_cfgs2: deliberately derived names.
    if name.startswith(known) and not name[len(known) :].isalpha():
        return False
    max_edits = 1 if len(known) < 9 else 2
    return (
        abs(len(name) - len(known)) <= max_edits
        and _distance(name, known) <= max_edits
    )


def _distance(a, b):
    """Return the Damerau-Levenshtein distance of two words."""
    rows = [list(range(len(b) + 1))]
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            best = min(
                row[-1] + 1, rows[-1][j] + 1, rows[-1][j - 1] + (x != y)
            )
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                best = min(best, rows[-2][j - 2] + 1)
            row.append(best)
        rows.append(row)
    return rows[-1][-1]


def _is_used(cfg, key):
    """Return whether another part of a config contains a top-level value."""
    value = cfg[key]
    if not isinstance(value, (dict, list, tuple)) or not value:
        return False

    def inside(part):
        if part == value:
            return True
        parts = part.values() if isinstance(part, dict) else part
        return isinstance(part, (dict, list, tuple)) and any(
            inside(child) for child in parts
        )

    return any(inside(cfg[other]) for other in cfg if other != key)


def _problems(value, path, registered):
    """Report wrong types and keys below a path of a config."""
    if isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _problems(item, f'{path}.{index}', registered)
        return
    if not isinstance(value, dict):
        return
    kind = value.get('type')
    if path in _LOADERS:
        for key in value:
            if key not in _LOADER_KEYS:
                near = _near(key, _LOADER_KEYS)
                yield f'{path}.{key}: no argument of a data loader{near}'
    elif kind is not None:
        yield from _problems_of_type(value, kind, path, registered)
    for key, child in value.items():
        if key not in _SKIPPED_SECTIONS:
            yield from _problems(child, f'{path}.{key}', registered)


def _problems_of_type(value, kind, path, registered):
    """Report wrong types and keys of one dict that has a type."""
    classes = _find(kind, registered) if isinstance(kind, str) else [kind]
    if classes is None or (not classes and kind[:1].islower()):
        # An option of a module, not a class: classifier=dict(type='text').
        return
    if not classes:
        near = _near(kind, registered)
        yield (
            f'{path}.type: {kind} is registered nowhere{near}; a '
            'module of your own has to be in custom_imports'
        )
        return
    arguments = [_arguments(cls) for cls in classes]
    for key in value:
        if key in _BUILDERS_KEYS:
            continue
        if any(key in names for names, _ in arguments):
            continue
        names, _ = arguments[0]
        if any(is_open for _, is_open in arguments):
            # **kwargs may accept it, unless it is a misspelling.
            near = [name for name in sorted(names) if _is_near(key, name)]
            if near:
                yield f'{path}.{key}: did you mean {near[0]} of {kind}?'
            continue
        yield f'{path}.{key}: no argument of {kind}{_near(key, names)}'


def _registered() -> dict[str, list]:
    """Return all registered classes of mmseg and mmengine by name.

    ``Registry.get`` is avoided: it tries to import unknown names, once per
    registry.
    """
    found = {}
    for module in (mmseg.registry, mmengine.registry):
        for registry in vars(module).values():
            if not isinstance(registry, Registry):
                continue
            registry.import_from_location()
            for name, cls in registry.module_dict.items():
                if cls not in found.setdefault(name, []):
                    found[name].append(cls)
    return found


def _find(kind, registered):
    """Return the classes of a name in any registry; None if undecidable."""
    scope, _, name = kind.rpartition('.')
    if scope in ('', 'mmseg', 'mmengine'):
        return registered.get(name, [])
    # Another package or the path of a class: its builder reports errors.
    return None


@functools.cache
def _arguments(cls) -> tuple[set[str], bool]:
    """Return the arguments of a constructor.

    Returns:
        Their names, and whether there may be others: ``**kwargs`` that are not
        known to end in a base class.
    """
    if not inspect.isclass(cls):
        return _parameters(cls)
    names = set()
    for base in cls.__mro__:
        if base in (nn.Module, object):
            # These take no further arguments.
            return names, False
        if '__init__' not in vars(base):
            continue
        more, is_open = _parameters(base.__init__)
        names |= more
        if not is_open:
            return names, False
        if not _forwards_kwargs(base.__init__):
            return names, True
    return names, False


def _parameters(function):
    """Return parameter names of a function, and whether it takes any name."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return set(), True
    kinds = {parameter.kind for parameter in parameters.values()}
    return set(parameters) - {'self'}, inspect.Parameter.VAR_KEYWORD in kinds


def _forwards_kwargs(function):
    """Return whether a constructor only forwards ``**kwargs`` to its base."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return False
    made = tree.body[0]
    if not isinstance(made, ast.FunctionDef) or made.args.kwarg is None:
        return False  # A lambda, or what a decorator puts in its place.
    name = made.args.kwarg.arg
    uses = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id == name
    ]
    given = [
        keyword.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == 'super().__init__'
        for keyword in node.keywords
        if keyword.arg is None
    ]
    return len(uses) == 1 and given == uses


def _near(name, names):
    """Return a suffix of a message that lists similar names."""
    near = closest_names(name, sorted(map(str, names)), most=3)
    return f'; near: {", ".join(near)}' if near else ''
