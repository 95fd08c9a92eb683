"""Verification of data sets: read every file, report errors, quarantine."""

from clouds_mmseg.data_tools.verify.known_sets import SETS, named_tasks
from clouds_mmseg.data_tools.verify.listing import Task
from clouds_mmseg.data_tools.verify.quarantine import accept, fix
from clouds_mmseg.data_tools.verify.report import advice_text, reports_text
from clouds_mmseg.data_tools.verify.run import keep, verify

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
