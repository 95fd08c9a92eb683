"""Upload of a published folder to the Hugging Face hub.

Name, token, account and repository are checked before anything is written
anywhere, and all files are uploaded as one commit: the repository never holds
a part of a model. The token is read from the environment alone.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import (
    HFValidationError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from clouds_mmseg.utils.errors import UserError
from clouds_mmseg.weights.locate import (
    OFFLINE_VARIABLE,
    check_hub_reachable,
    is_offline,
)

TOKEN_VARIABLE = 'HF_TOKEN'
_HIDDEN = '(token)'
_TOKENS = 'https://huggingface.co/settings/tokens'
_BUGS = (TypeError, AttributeError, NameError, LookupError, AssertionError)
_MESSAGE = 'Publish {name}'


@dataclass
class Upload:
    """A repository that may be written to.

    Attributes:
        repository: ``user/name``.
        private: Whether only its owners see it.
        exists: Whether it was there before.
        token: Not shown.
    """

    repository: str
    private: bool
    exists: bool
    token: str = field(repr=False)


def check_upload(
    repository: str, *, public: bool = False, overwrite: bool = False
) -> Upload:
    """Check that a repository can be written, without changing anything.

    Args:
        repository: ``user/name`` or ``organisation/name``.
        public: Everybody may see it.
        overwrite: It may exist.

    Raises:
        UserError: The name is not valid, there is no token, the hub does not
            answer or does not know the token, the account may not write
            there, or the repository exists.
    """
    owner = _check_name(repository)
    if is_offline():
        raise UserError(
            f'--push-to-hub {repository}: {OFFLINE_VARIABLE} is set, which '
            'forbids it; unset it, or publish into a folder without '
            '--push-to-hub and upload that later: '
            f'hf upload {repository} FOLDER'
        )
    token = os.environ.get(TOKEN_VARIABLE, '').strip()
    if not token:
        raise UserError(
            f'--push-to-hub {repository} needs a token with write access in '
            f'the environment variable {TOKEN_VARIABLE} ({_TOKENS})'
        )
    with _hub_errors(repository, token):
        check_hub_reachable()
        account = HfApi().whoami(token=token)
    names = [account.get('name')]
    names += [o.get('name') for o in account.get('orgs') or []]
    if owner not in names:
        raise UserError(
            f'--push-to-hub {repository}: the token belongs to {names[0]}, '
            f'which may not write for {owner}; it may for '
            f'{", ".join(map(str, names))}'
        )
    access = (account.get('auth') or {}).get('accessToken') or {}
    if access.get('role') == 'read':
        raise UserError(
            f'--push-to-hub {repository}: the token in {TOKEN_VARIABLE} may '
            f'only read; make one with write access ({_TOKENS})'
        )
    with _hub_errors(repository, token):
        try:
            there = HfApi().model_info(repository, token=token)
        except RepositoryNotFoundError:
            return Upload(repository, not public, False, token)
    if not overwrite:
        raise UserError(
            f'--push-to-hub {repository}: the repository exists; --overwrite '
            'adds a commit to it, which replaces the files of the same names'
        )
    if not there.private and not public:
        raise UserError(
            f'--push-to-hub {repository}: the repository exists and is '
            'public, so everybody would see the upload; say so with --public, '
            'or make it private in its settings'
        )
    return Upload(repository, bool(there.private), True, token)


def upload_folder(upload: Upload, folder: str | Path) -> str:
    """Upload all files of a folder as one commit.

    Args:
        upload: Of :func:`check_upload`.
        folder: Of
            :func:`~clouds_mmseg.conversion.hub_folder.publish_folder`.

    Returns:
        The address of the commit.

    Raises:
        UserError: The hub refuses it, or the connection breaks; the
            repository is as it was then, or empty.
    """
    api = HfApi()
    repository, token = upload.repository, upload.token
    with _hub_errors(repository, token):
        if not upload.exists:
            api.create_repo(repository, token=token, private=upload.private)
        commit = api.create_commit(
            repository,
            [
                CommitOperationAdd(path.name, path)
                for path in sorted(Path(folder).iterdir())
                if path.is_file()
            ],
            commit_message=_MESSAGE.format(name=repository),
            token=token,
        )
    return str(commit.commit_url)


def _check_name(repository):
    """Check the name of a repository; return its owner."""
    parts = repository.split('/')
    try:
        if len(parts) != 2 or not all(parts):
            raise HFValidationError('it has the form user/name')
        validate_repo_id(repository)
    except HFValidationError as error:
        reason = re.sub(r"[:,]? ?'[^']*'\.?$", '', str(error))
        raise UserError(
            f'--push-to-hub {repository!r} is no name of a repository: '
            f'{reason}'
        ) from None
    return parts[0]


@contextmanager
def _hub_errors(repository: str, token: str) -> Iterator[None]:
    """Turn errors of the hub's client into one message without the token."""
    message = None
    try:
        yield
    except (UserError, *_BUGS):
        raise
    except Exception as error:
        # Those of the hub and of whichever HTTP library its client uses.
        message = _first_lines(error)
        status = getattr(getattr(error, 'response', None), 'status_code', 0)
        if status == 401:
            message = f'the hub does not know the token in {TOKEN_VARIABLE}'
        elif status == 403:
            message = f'the token in {TOKEN_VARIABLE} may not write there'
    if message is not None:
        # Raised outside, so that no traceback carries the request.
        raise UserError(
            f'--push-to-hub {repository}: ' + message.replace(token, _HIDDEN)
        )


def _first_lines(error):
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line for line in lines if line]
    return ' '.join(lines[:3]) or type(error).__name__
