"""What tools/check_parity.py runs."""

from parity import check_file

__all__ = ['check_file']
