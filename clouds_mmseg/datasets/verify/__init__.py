"""Verification of data sets: every file is opened, what is found is kept."""

from clouds_mmseg.datasets.verify.known_sets import SETS, named_tasks
from clouds_mmseg.datasets.verify.mend import accept, fix
from clouds_mmseg.datasets.verify.run import Task, keep, verify
from clouds_mmseg.datasets.verify.text import advice_text, reports_text

__all__ = [
    'SETS',
    'Task',
    'accept',
    'advice_text',
    'fix',
    'keep',
    'named_tasks',
    'reports_text',
    'verify',
]
