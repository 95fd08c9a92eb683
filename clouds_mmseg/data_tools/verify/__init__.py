"""Verification of data sets: read every file, report errors, quarantine."""

from clouds_mmseg.data_tools.verify.listing import (
    VERIFIED_SETS,
    Task,
    named_tasks,
)
from clouds_mmseg.data_tools.verify.report import advice_text, reports_text
from clouds_mmseg.data_tools.verify.run import accept, fix, keep, verify

__all__ = [
    'VERIFIED_SETS',
    'Task',
    'accept',
    'advice_text',
    'fix',
    'keep',
    'named_tasks',
    'reports_text',
    'verify',
]
