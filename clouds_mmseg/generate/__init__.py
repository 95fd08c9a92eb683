"""Text prompts, and images made from them; see docs/architecture.md.

diffusers and transformers are imported where they are used, not here.
"""

from clouds_mmseg.utils.errors import GenerationError

__all__ = ['GenerationError']
