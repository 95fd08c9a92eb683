"""A report of trainings and evaluations as one HTML file."""

from clouds_mmseg.report.page import write_report

__all__ = ['write_report']
