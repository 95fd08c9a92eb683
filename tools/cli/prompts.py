"""Write text prompts for street scenes, one per line.

By default they are no longer than the 77 tokens of CLIP's text encoders.
"""

import argparse

from clouds_mmseg_cli.names import PROMPT_KINDS
from clouds_mmseg_cli.options import add_pretrained_dir


def parse_args(
    argv: list[str] | None = None, prog: str | None = None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument('--out', default='data/prompts.txt')
    parser.add_argument('--num', type=int, default=100)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument(
        '--backend',
        choices=['template', 'llm'],
        default='template',
        help='a grammar, or a language model (default: %(default)s)',
    )
    parser.add_argument(
        '--kind',
        choices=PROMPT_KINDS,
        default='dense',
        help='dense: many classes with positions and materials, light, '
        'weather, lens, place; short: four classes, as the official prompts; '
        'restyle: weather, light and lens alone, for --mode img2img; edit: '
        'instructions, for --mode edit (default: %(default)s)',
    )
    parser.add_argument(
        '--classes-per-prompt', type=int, metavar='N',
        help='of --backend template --kind dense; default 8',
    )  # fmt: skip
    parser.add_argument(
        '--rare-from', metavar='SOURCE',
        help='name the classes more often that this data set (gta5, ...) or '
        'JSON file class -> pixels has less of; --kind dense',
    )  # fmt: skip
    parser.add_argument(
        '--data-root', metavar='DIR',
        help='folder of the data set of --rare-from, default data/NAME',
    )  # fmt: skip
    parser.add_argument(
        '--for-model', metavar='DIR',
        help='folder of the image pipeline: no prompt is longer than its '
        'text encoder reads; by default about the 77 tokens of CLIP',
    )  # fmt: skip
    parser.add_argument(
        '--clip', metavar='MODEL',
        help='folder or id of a CLIP model of transformers: report how far '
        'the prompts lie from each other for it',
    )  # fmt: skip
    parser.add_argument(
        '--show-instruction',
        action='store_true',
        help='print the instruction of the language model, and stop',
    )
    llm = parser.add_argument_group('options of --backend llm')
    llm.add_argument('--model', help='folder or id of a causal model')
    llm.add_argument(
        '--rewrite', metavar='PROMPTS',
        help='rewrite the prompts of this file into longer ones instead of '
        'writing new ones; --num is their number',
    )  # fmt: skip
    add_pretrained_dir(llm)
    llm.add_argument('--revision', help='commit or branch on the hub')
    llm.add_argument('--temperature', type=float, default=0.9)
    llm.add_argument('--top-p', type=float, default=0.95)
    llm.add_argument('--max-new-tokens', type=int, default=1024)
    llm.add_argument(
        '--per-call', type=int, default=10, help='prompts per call'
    )
    llm.add_argument('--device', default='auto', help='auto, cpu, cuda:N')
    llm.add_argument(
        '--dtype', default='auto', help='auto, float32, float16, bfloat16'
    )
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> None:
    """Refuse options that the others leave without use.

    Raises:
        GenerationError: An option is given beside one that excludes it.
    """
    from clouds_mmseg.utils.errors import GenerationError

    template = args.backend == 'template'
    for name, value, fine, owner in (
        ('--classes-per-prompt', args.classes_per_prompt,
         template and args.kind == 'dense', '--backend template --kind dense'),
        ('--rare-from', args.rare_from,
         args.kind == 'dense' and not args.rewrite, '--kind dense'),
        ('--data-root', args.data_root, args.rare_from, '--rare-from'),
        ('--rewrite', args.rewrite, not template, '--backend llm'),
        ('--model', args.model, not template, '--backend llm'),
        ('--for-model', args.for_model,
         args.kind != 'short' or not template, 'another --kind than short'),
    ):  # fmt: skip
        if value is not None and not fine:
            raise GenerationError(f'{name} {value} belongs to {owner}')


def make_prompts(args: argparse.Namespace) -> tuple[list[str], dict]:
    from clouds_mmseg.generate.dense_prompts import (
        CLASSES_PER_PROMPT,
        make_prompts,
        naming_shares,
    )
    from clouds_mmseg.generate.pipeline_parts import TextLimit

    check_args(args)
    limit = TextLimit(args.for_model) if args.for_model else None
    pixels = None
    if args.rare_from:
        from clouds_mmseg.engine.image_sources import dataset_pixels

        pixels = dataset_pixels(args.rare_from, args.data_root)
    if args.backend == 'llm':
        return write_by_llm(args, limit, pixels)
    number = args.classes_per_prompt or CLASSES_PER_PROMPT
    shares = naming_shares(pixels, number) if args.kind == 'dense' else None
    prompts, duplicates = make_prompts(
        args.kind,
        args.num,
        seed=args.seed,
        shares=shares,
        per_prompt=number,
        fits=limit and limit.fits,
    )
    how = dict(
        backend='template',
        kind=args.kind,
        seed=args.seed,
        duplicates=duplicates,
    )
    if shares is not None:
        how['shares'] = {k: round(v, 4) for k, v in shares.items()}
    return prompts, how | described(limit, args.rare_from)


def described(limit, rare_from) -> dict:
    """Return where the limit and the rarity of classes come from."""
    how = {}
    if limit is not None:
        how.update(for_model=limit.name, tokens=limit.tokens)
    if rare_from is not None:
        how['rare_from'] = rare_from
    return how


def write_by_llm(
    args: argparse.Namespace, limit, pixels
) -> tuple[list[str], dict]:
    from clouds_mmseg.generate.llm import PromptWriter
    from clouds_mmseg.generate.prompts import read_prompts
    from clouds_mmseg.utils.errors import GenerationError

    if not args.model:
        raise GenerationError(
            '--backend llm needs --model: the folder or id of an '
            'instruction-tuned language model'
        )
    old = None
    if args.rewrite:
        old = [text for _, text in read_prompts(args.rewrite)]
    writer = PromptWriter(
        args.model,
        device=args.device,
        dtype=args.dtype,
        temperature=args.temperature,
        top_p=args.top_p,
        max_new_tokens=args.max_new_tokens,
        per_call=args.per_call,
        revision=args.revision,
        kind=args.kind,
        tokens=limit.tokens if limit else 77,
        fits=limit and limit.fits,
        pixels=pixels,
    )
    if old is not None:
        written = writer.rewrite(old, seed=args.seed)
    else:
        written = writer.write(args.num, seed=args.seed)
    return written.prompts, dict(
        written.how,
        duplicates=written.duplicates,
        rejected=written.rejected,
        calls=written.calls,
        **described(limit, args.rare_from),
    )


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    from clouds_mmseg.generate.llm import (
        DENSE_INSTRUCTION,
        INSTRUCTION,
        REWRITING,
    )
    from clouds_mmseg.generate.prompt_report import (
        clip_spread,
        diversity,
        diversity_lines,
    )
    from clouds_mmseg.generate.prompts import (
        class_coverage,
        coverage_lines,
        write_prompts,
    )
    from clouds_mmseg.weights.locate import use_pretrained_dir

    use_pretrained_dir(args.pretrained_dir)
    if args.show_instruction:
        new = DENSE_INSTRUCTION if args.kind == 'dense' else INSTRUCTION
        print(REWRITING if args.rewrite else new)
        return
    prompts, how = make_prompts(args)
    found = diversity(prompts)
    if args.clip:
        found['clip_spread'] = clip_spread(prompts, args.clip)
    beside = write_prompts(args.out, prompts, dict(how, diversity=found))
    print(
        f'{args.out}: {len(prompts)} prompts, {how["duplicates"]} duplicates '
        f'dropped; how they were made is in {beside}'
    )
    print('\n'.join(diversity_lines(found)))
    print('prompts that name each class:')
    print('\n'.join(coverage_lines(class_coverage(prompts), len(prompts))))
