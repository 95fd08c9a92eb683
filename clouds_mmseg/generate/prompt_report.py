"""Diversity of a list of prompts."""

from collections.abc import Sequence
from typing import Any

from clouds_mmseg.generate.prompts import classes_in, normalise
from clouds_mmseg.utils.errors import GenerationError

# Prompts encoded at once.
_BATCH = 64


def diversity(prompts: Sequence[str]) -> dict[str, float]:
    """Measure how varied a list of prompts is.

    Args:
        prompts: At least one.

    Returns:
        ``words`` and ``classes`` (of Cityscapes), means per prompt;
        ``distinct_1`` to ``distinct_3``: different n-grams of words over all
        n-grams of the list. These fall with the length of the list: compare
        lists of one length.
    """
    texts = [normalise(prompt).split() for prompt in prompts]
    found = dict(
        words=sum(map(len, texts)) / len(texts),
        classes=sum(len(classes_in(p)) for p in prompts) / len(prompts),
    )
    for n in (1, 2, 3):
        grams = [
            tuple(words[i : i + n])
            for words in texts
            for i in range(len(words) - n + 1)
        ]
        found[f'distinct_{n}'] = len(set(grams)) / max(len(grams), 1)
    return {key: round(value, 4) for key, value in found.items()}


def diversity_lines(found: dict[str, float]) -> list[str]:
    """Format a diversity: a line of numbers per prompt, one of n-grams."""
    grams = ', '.join(f'{found[f"distinct_{n}"]:.3f}' for n in (1, 2, 3))
    lines = [
        f'{found["classes"]:.1f} classes and {found["words"]:.0f} words per '
        'prompt on average',
        f'different words, pairs and triples of words over all: {grams}',
    ]
    if 'clip_spread' in found:
        lines.append(
            f'spread in CLIP (1 - mean cosine of two prompts): '
            f'{found["clip_spread"]:.3f}'
        )
    return lines


def clip_spread(
    prompts: Sequence[str], model: str, device: str = 'cpu'
) -> float:
    """Measure how far prompts lie from each other for CLIP's text encoder.

    Args:
        prompts: Two or more.
        model: Folder that ``save_pretrained`` wrote, or id on the hub, of a
            CLIP model of transformers.
        device: Of torch.

    Returns:
        1 minus the mean cosine similarity of two different prompts, in
        [0, 2]; prompts are cut at the length that the encoder reads.

    Raises:
        GenerationError: It is not there or no CLIP model, or there is but
            one prompt.
    """
    if len(prompts) < 2:
        raise GenerationError(
            '--clip compares prompts: --num must be 2 or more'
        )
    import torch

    tokenizer, encoder = _load_clip(model)
    encoder.to(device)
    embedded: list[Any] = []
    with torch.inference_mode():
        for start in range(0, len(prompts), _BATCH):
            inputs = tokenizer(
                list(prompts[start : start + _BATCH]),
                padding=True,
                truncation=True,
                return_tensors='pt',
            )
            outputs = encoder(
                input_ids=inputs['input_ids'].to(device),
                attention_mask=inputs['attention_mask'].to(device),
            )
            embedded.append(outputs.text_embeds.double().cpu())
    unit = torch.nn.functional.normalize(torch.cat(embedded), dim=1)  # (N, D)
    number = len(unit)
    # The sum over all pairs, without those of a prompt and itself.
    total = unit.sum(0).square().sum().item() - number
    return round(1 - total / (number * (number - 1)), 4)


def _load_clip(model):
    from clouds_mmseg.generate.pipeline_parts import part_folder

    folder, _, _ = part_folder(model, '--clip')
    from transformers import AutoTokenizer, CLIPTextModelWithProjection

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        encoder, report = CLIPTextModelWithProjection.from_pretrained(
            str(folder), output_loading_info=True
        )
        # transformers initialises missing weights without an error.
        if report['missing_keys']:
            raise ValueError(f'it lacks {min(report["missing_keys"])}')
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise GenerationError(
            f'--clip {model} cannot be loaded as a CLIP model of '
            f'transformers ({type(error).__name__}: {error})'
        ) from error
    return tokenizer, encoder.eval()
