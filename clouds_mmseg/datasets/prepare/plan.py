"""What has to be done: one job for each file of a prepared folder."""

from collections import Counter
from dataclasses import dataclass

from clouds_mmseg.datasets.errors import DataError
from clouds_mmseg.datasets.prepare.sources import Member

_NAMED = 10


@dataclass(frozen=True, slots=True)
class Job:
    """One file to be made.

    Attributes:
        part (str): ``image`` or ``label``.
        key (tuple): The same for image and label of a pair.
        split (str): The split.
        target (str): Path below the output folder.
        source (int): Number of the source.
        member (Member): The file there.
        convert (callable, optional): What makes train ids of a label.
        label_source (str): See :class:`Rule`.
    """

    part: str
    key: tuple
    split: str
    target: str
    source: int
    member: Member
    convert: object = None
    label_source: str = 'train_ids'


@dataclass(kw_only=True)
class Plan:
    """All jobs, and what is wrong with the source.

    Attributes:
        jobs (list[Job]): Sorted by source and place in it.
        splits (dict[str, int]): Split -> number of images.
        label_source (str): What the labels are made from.
        unpaired (list[str]): Messages about files without a partner, whose
            pairs are not in ``jobs``.
        left_out (list[str]): The images among them.
    """

    jobs: list
    splits: dict
    label_source: str
    unpaired: list
    left_out: list


def make_plan(layout, rules, found):
    """Decide which file becomes what.

    Args:
        layout (Layout): Of the set.
        rules (Sequence[Rule]): Its rules.
        found (list): Pairs of a source and its members.

    Returns:
        Plan: The jobs.

    Raises:
        DataError: There is no image or no label of the set, or two
            different files would become the same.
    """
    images, labels = {}, {}
    for number, (_, members) in enumerate(found):
        for member in members:
            for rank, rule in enumerate(rules):
                match = rule.match(member.name)
                if match is None:
                    continue
                job = _job(layout, rule, match, number, member)
                table = images if rule.part == 'image' else labels
                _enter(table, rank, job, found)
                break
    images = {key: job for key, (_, job) in images.items()}
    labels = {key: job for key, (_, job) in labels.items()}
    if not images or not labels:
        raise _nothing_found(layout, bool(images), found)
    return _pair(layout, images, labels, found)


def _job(layout, rule, match, number, member):
    groups = match.groupdict()
    convert = rule.convert
    if hasattr(convert, 'for_file'):
        convert = convert.for_file(groups['file'])
    return Job(
        part=rule.part,
        key=tuple(sorted(groups.items())),
        split=groups.get('split') or layout.split,
        target=rule.target.format(**groups),
        source=number,
        member=member,
        convert=convert,
        label_source=rule.source,
    )


def _enter(table, rank, job, found):
    """Keep the file of the best rule; of equal ones the first source's."""
    other = table.get(job.key)
    if other is None or rank < other[0]:
        table[job.key] = (rank, job)
    elif rank == other[0] and job.member.size != other[1].member.size:
        places = [
            found[j.source][0].describe(j.member) for j in (other[1], job)
        ]
        raise DataError(
            f'two different files would become {job.target}:\n'
            f'  {places[0]} ({other[1].member.size} bytes)\n'
            f'  {places[1]} ({job.member.size} bytes)\n'
            'One of them may be unpacked incompletely: delete it, or give '
            'only one of the two places as --src.'
        )


def _pair(layout, images, labels, found):
    unpaired, left_out, jobs = [], [], []
    splits = Counter()
    for key, image in images.items():
        label = labels.get(key)
        if label is None and image.split not in layout.unlabelled:
            if not layout.labelled_only:
                where = found[image.source][0].describe(image.member)
                unpaired.append(f'{where}: there is no label for this image')
                left_out.append(image.target)
            continue
        splits[image.split] += 1
        jobs.append(image)
        if label is not None:
            jobs.append(label)
    for key, label in labels.items():
        if key not in images:
            where = found[label.source][0].describe(label.member)
            unpaired.append(f'{where}: there is no image for this label')
    jobs.sort(key=lambda job: (job.source, str(job.member.place)))
    sources = sorted({j.label_source for j in jobs if j.part == 'label'})
    return Plan(
        jobs=jobs,
        splits=dict(sorted(splits.items())),
        label_source=', '.join(sources),
        unpaired=unpaired,
        left_out=left_out,
    )


def _nothing_found(layout, has_images, found):
    part = 'labels' if has_images else 'images'
    lines = [f'no {part} of {layout.title} in']
    for source, members in found:
        lines.append(f'  {source.title} (files: {len(members)})')
        lines += [f'    {m.name}' for m in members[:3]]
    lines.append('Expected files such as')
    lines += [f'  {example}' for example in layout.examples]
    lines.append(
        'at any depth. Give all archives of the set, or the folder that '
        'holds them, as --src; docs/datasets.md names them.'
    )
    return DataError('\n'.join(lines))
