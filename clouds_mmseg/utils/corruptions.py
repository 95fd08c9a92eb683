"""The common corruptions of the robustness benchmarks, by name.

Fifteen kinds at five severities. Source: Hendrycks and Dietterich,
"Benchmarking Neural Network Robustness to Common Corruptions and
Perturbations", ICLR 2019; applied to Cityscapes by Michaelis et al.,
"Benchmarking Robustness in Object Detection" (arXiv 1907.07484), whose
package makes images of any size, and by Kamann and Rother, "Benchmarking the
Robustness of Semantic Segmentation Models", CVPR 2020.

``datasets`` makes corrupted images and ``evaluation`` reports on them; this
is what both know.
"""

from clouds_mmseg.utils.errors import UserError

CATEGORIES = dict(
    noise=('gaussian_noise', 'shot_noise', 'impulse_noise'),
    blur=('defocus_blur', 'glass_blur', 'motion_blur', 'zoom_blur'),
    weather=('snow', 'frost', 'fog', 'brightness'),
    digital=(
        'contrast',
        'elastic_transform',
        'pixelate',
        'jpeg_compression',
    ),
)
CORRUPTIONS = tuple(name for names in CATEGORIES.values() for name in names)
SEVERITIES = (1, 2, 3, 4, 5)
# The domain of the same images as they are.
CLEAN = 'clean'


def domain_of(corruption, severity):
    """Name the domain of a corruption: ``fog``, 3 -> ``fog_3``."""
    return f'{corruption}_{severity}'


def split_domain(domain):
    """Take the name of a domain apart: ``fog_3`` -> ``('fog', 3)``.

    Args:
        domain (str): A name of :func:`domain_of`.

    Returns:
        tuple[str, int] | None: None if it is not such a name.
    """
    corruption, _, severity = domain.rpartition('_')
    if corruption in CORRUPTIONS and severity in map(str, SEVERITIES):
        return corruption, int(severity)
    return None


def check_choice(corruptions=None, severities=None):
    """Check names and severities, and put them into the usual order.

    Args:
        corruptions (Sequence[str], optional): Names of corruptions or of
            categories. Defaults to all.
        severities (Sequence[int], optional): In 1..5. Defaults to all.

    Returns:
        tuple[tuple[str], tuple[int]]: Corruptions and severities, each once.

    Raises:
        UserError: A name is unknown or a severity out of its range.
    """
    if corruptions is None:
        corruptions = CORRUPTIONS
    if severities is None:
        severities = SEVERITIES
    known = (*CATEGORIES, *CORRUPTIONS)
    if unknown := [name for name in corruptions if name not in known]:
        raise UserError(
            f'unknown corruptions: {", ".join(map(str, unknown))}; there are: '
            + ', '.join(CORRUPTIONS)
            + '; and the categories: '
            + ', '.join(CATEGORIES)
        )
    if wrong := [s for s in severities if s not in SEVERITIES]:
        raise UserError(
            f'severities must be integers in 1..5, got {wrong}: '
            '1 is the weakest'
        )
    if not corruptions or not severities:
        raise UserError('name at least one corruption and one severity')
    wanted = {n for c in corruptions for n in CATEGORIES.get(c, (c,))}
    return (
        tuple(name for name in CORRUPTIONS if name in wanted),
        tuple(s for s in SEVERITIES if s in severities),
    )
