"""Command lines of the tools, parsed before anything heavy is imported.

Importing ``clouds_mmseg`` registers every module and with that imports torch
and the OpenMMLab packages, which takes seconds. ``--help`` and a mistyped
option should not wait for it: this package uses the standard library only,
and the tools import ``clouds_mmseg`` once their options are read.
"""
