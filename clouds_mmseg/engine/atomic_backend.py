"""A local file backend whose files appear whole or not at all."""

from mmengine.fileio import LocalBackend, register_backend

from clouds_mmseg.utils.atomic import atomic_path


@register_backend('atomic_local')
class AtomicLocalBackend(LocalBackend):
    """mmengine's local backend with atomic writes.

    mmengine writes a checkpoint by ``put`` of the chosen backend, so that
    ``backend_args=dict(backend='atomic_local')`` is all that a hook needs.
    """

    def put(self, obj, filepath):
        """Write bytes under a temporary name, then rename.

        Args:
            obj (bytes): What to write.
            filepath (str | Path): The final path.
        """
        with atomic_path(filepath) as temporary:
            super().put(obj, temporary)

    def put_text(self, obj, filepath, encoding='utf-8'):
        """Write text under a temporary name, then rename.

        Args:
            obj (str): What to write.
            filepath (str | Path): The final path.
            encoding (str): Encoding of the file.
        """
        with atomic_path(filepath) as temporary:
            super().put_text(obj, temporary, encoding)
