"""The end of a pipeline."""

from mmseg.datasets import PackSegInputs
from mmseg.registry import TRANSFORMS


@TRANSFORMS.register_module()
class PackDGInputs(PackSegInputs):
    """``PackSegInputs`` that always hands on the domain of a sample.

    Args:
        domain (str, optional): Used instead of the domain of the dataset.
        **kwargs: See :class:`mmseg.datasets.PackSegInputs`.
    """

    def __init__(self, domain=None, **kwargs):
        super().__init__(**kwargs)
        self.domain = domain
        self.meta_keys = (*dict.fromkeys((*self.meta_keys, 'domain')),)

    def transform(self, results):
        """Return ``inputs`` ((3, H, W) uint8) and ``data_samples``.

        ``data_samples.domain`` is a str in its metainfo.

        Raises:
            ValueError: Neither the dataset nor the argument names a domain.
        """
        if self.domain is not None:
            results['domain'] = self.domain
        if not results.get('domain'):
            raise ValueError(
                'PackDGInputs: the sample of '
                f'{results.get("img_path")} has no domain. Use a dataset of '
                'clouds_mmseg, or give PackDGInputs(domain=...).'
            )
        return super().transform(results)

    def __repr__(self):
        return (
            f'{type(self).__name__}(domain={self.domain!r}, '
            f'meta_keys={self.meta_keys})'
        )
