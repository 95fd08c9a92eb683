"""Checks on other versions of torch and Python, see docs/install.md.

``nox -s stack wheel`` runs them; ``make test`` runs on one version.
"""

from pathlib import Path

import nox

nox.options.default_venv_backend = 'uv'
nox.options.reuse_existing_virtualenvs = True

# Oldest, middle and newest torch 2.N that setup.cfg allows.
MINORS = (6, 10, 14)
# Oldest Python of setup.cfg, newest that the stack has been run on.
PYTHONS = ('3.10', '3.13')
# What another torch can break: networks, weights, resuming, the runner.
FAST = (
    'tests/test_compat.py',
    'tests/test_guard.py::test_losses_of_toycity',
    'tests/models/mask2former/test_reference.py',
    'tests/models/mask2former/test_mask_criterion.py',
    'tests/models/test_clip_backbone.py',
    'tests/models/test_self_training_segmentor.py',
    'tests/weights/test_unpickling.py',
    'tests/weights/test_writing.py',
    'tests/engine/test_resume.py',
    'tests/engine/test_dg_runner.py',
    'tests/engine/test_bf16.py',
)
ENVIRONMENT = dict(
    OMP_NUM_THREADS='1', PYTHONNOUSERSITE='1', HF_HUB_OFFLINE='1'
)
# Twenty iterations, ten of them with self-training, on a ToyCity of 40 images.
SMALL = (
    'train_cfg.max_iters=20',
    'train_cfg.warmup_iters=10',
    'banks.0.num=16',
    'banks.1.num=16',
)


@nox.session(python=PYTHONS)
@nox.parametrize('minor', MINORS)
def stack(session: nox.Session, minor: int) -> None:
    """Run the fast part of the suite with torch 2.MINOR."""
    # Since torch 2.0, torchvision 0.(N + 15) belongs to torch 2.N.
    pair = f'torch==2.{minor}.*', f'torchvision==0.{minor + 15}.*'
    session.install(*pair, '-e', '.[dev]')
    command = ('python', '-m', 'pytest', *FAST, *session.posargs)
    session.run(*command, env=ENVIRONMENT)


@nox.session
def audit(session: nox.Session) -> None:
    """Compare requirements.lock with the known vulnerabilities."""
    session.install('pip-audit')
    command = ('pip-audit', '--requirement', 'requirements.lock')
    session.run(*command, '--disable-pip', *session.posargs)


@nox.session
def licences(session: nox.Session) -> None:
    """Compare docs/licences.md with the packages of requirements.lock."""
    lock = ('--no-deps', '--require-hashes', '-r', 'requirements.lock')
    session.install(*lock)
    session.run('python', 'tools/licences.py', *session.posargs or ['--check'])


@nox.session
def wheel(session: nox.Session) -> None:
    """Train ToyCity for 20 iterations with the wheel alone."""
    away = Path(session.create_tmp())
    build = ('uv', 'build', '--wheel', '--clear', '--out-dir', str(away))
    session.run(*build, external=True)
    (file,) = away.glob('*.whl')
    session.install(f'{file.resolve()}[demo]')
    session.chdir(away)
    sizes = '--num-source=16 --num-source-val=4 --num-target=4'.split()
    session.run('clouds', 'toycity', 'data/toycity', *sizes, env=ENVIRONMENT)
    train = ('clouds', 'train', 'clouds_mmseg::toycity/clouds.py')
    session.run(*train, '--cfg-options', *SMALL, env=ENVIRONMENT)
