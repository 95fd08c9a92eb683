"""Write text prompts for street scenes, one per line."""

import argparse

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
        '--show-instruction',
        action='store_true',
        help='print the instruction of the language model, and stop',
    )
    llm = parser.add_argument_group('options of --backend llm')
    llm.add_argument('--model', help='folder or id of a causal model')
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


def make_prompts(args: argparse.Namespace) -> tuple[list[str], dict]:
    from clouds_mmseg.generate.llm import PromptWriter
    from clouds_mmseg.generate.prompts import template_prompts
    from clouds_mmseg.utils.errors import GenerationError

    if args.backend == 'template':
        prompts, duplicates = template_prompts(args.num, seed=args.seed)
        return prompts, dict(
            backend='template', seed=args.seed, duplicates=duplicates
        )
    if not args.model:
        raise GenerationError(
            '--backend llm needs --model: the folder or id of an '
            'instruction-tuned language model'
        )
    writer = PromptWriter(
        args.model,
        device=args.device,
        dtype=args.dtype,
        temperature=args.temperature,
        top_p=args.top_p,
        max_new_tokens=args.max_new_tokens,
        per_call=args.per_call,
        revision=args.revision,
    )
    written = writer.write(args.num, seed=args.seed)
    return written.prompts, dict(
        written.how,
        duplicates=written.duplicates,
        rejected=written.rejected,
        calls=written.calls,
    )


def main(argv: list[str] | None = None, prog: str | None = None) -> None:
    args = parse_args(argv, prog)
    from clouds_mmseg.generate.llm import INSTRUCTION
    from clouds_mmseg.generate.prompts import (
        class_coverage,
        coverage_lines,
        write_prompts,
    )
    from clouds_mmseg.weights.locate import use_pretrained_dir

    use_pretrained_dir(args.pretrained_dir)
    if args.show_instruction:
        print(INSTRUCTION)
        return
    prompts, how = make_prompts(args)
    beside = write_prompts(args.out, prompts, how)
    print(
        f'{args.out}: {len(prompts)} prompts, {how["duplicates"]} duplicates '
        f'dropped; how they were made is in {beside}'
    )
    print('prompts that name each class:')
    print('\n'.join(coverage_lines(class_coverage(prompts), len(prompts))))
