"""Warnings that belong beside the numbers of a run.

A warning in the middle of a log of 40,000 iterations is not read. What makes
a result doubtful is kept with the run and said again under its final table
and in ``results.json``.
"""

import logging
from collections.abc import Iterable

from mmengine.logging import MessageHub, print_log

_PREFIX = 'result_warning/'


def warn_about_results(
    message: str, *, key: str | None = None, hub: MessageHub | None = None
) -> None:
    """Log a warning, and repeat it with the results of the run.

    Warnings live in the message hub of the run: a checkpoint saves them, a
    resumed run has those of its first part and its own. One that is given
    during an evaluation is about that evaluation and ends with it.

    In a distributed run only the first process writes results: call this
    there, or in all of them.

    Args:
        message: What makes the numbers doubtful, and what to do.
        key: Name of the warning; a later one of the same name replaces it.
            Defaults to the message, so that the same one is kept once.
        hub: Of the run. Defaults to that of the latest runner.
    """
    if keep_for_results(message, key=key, hub=hub):
        print_log(message, logger='current', level=logging.WARNING)


def keep_for_results(
    message: str, *, key: str | None = None, hub: MessageHub | None = None
) -> bool:
    """Keep a warning for the results without logging it now.

    Args:
        message: See :func:`warn_about_results`.
        key: See :func:`warn_about_results`.
        hub: See :func:`warn_about_results`.

    Returns:
        Whether the run did not have this warning before.
    """
    hub = hub or MessageHub.get_current_instance()
    name = f'{_PREFIX}{key or message}'
    known = hub.get_info(name) == message
    hub.update_info(name, message)
    return not known


def result_warnings(hub: MessageHub | None = None) -> dict[str, str]:
    """All warnings of a run so far.

    Args:
        hub: Of the run. Defaults to that of the latest runner.

    Returns:
        Key -> message, in the order in which they were given.
    """
    hub = hub or MessageHub.get_current_instance()
    return {
        name.removeprefix(_PREFIX): message
        for name, message in hub.runtime_info.items()
        if name.startswith(_PREFIX) and message is not None
    }


def forget_result_warnings(
    keys: Iterable[str], hub: MessageHub | None = None
) -> None:
    """Drop warnings that were about an evaluation that is over.

    Args:
        keys: As :func:`result_warnings` returns them.
        hub: Of the run. Defaults to that of the latest runner.
    """
    hub = hub or MessageHub.get_current_instance()
    for key in keys:
        # mmengine complains on resume about a key that was popped.
        hub.update_info(f'{_PREFIX}{key}', None)
