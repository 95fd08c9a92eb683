import pytest
from hypothesis import given
from hypothesis import strategies as st

from clouds_mmseg.generate.backends import (
    SEED_MODULUS,
    next_attempt,
    request_for,
    seed_of,
)
from clouds_mmseg.generate.image_bank import (
    Shard,
    parse_shard,
    shard_from_environment,
)
from clouds_mmseg.generate.run import MAX_ATTEMPTS
from clouds_mmseg.utils.errors import GenerationError

PROMPTS = [(1, 'a'), (3, 'b'), (4, 'c')]


def test_prompts_come_in_turn():
    requests = [request_for(i, PROMPTS, seed=7) for i in range(5)]
    assert [r.prompt for r in requests] == ['a', 'b', 'c', 'a', 'b']
    assert [r.line for r in requests] == [1, 3, 4, 1, 3]
    assert [r.seed for r in requests] == [7, 8, 9, 10, 11]
    assert {r.source for r in requests} == {None}


def test_a_source_meets_another_prompt_in_each_round():
    sources = [(f'{n}.png', f'/x/{n}.png') for n in range(3)]
    requests = [
        request_for(i, PROMPTS, seed=0, sources=sources) for i in range(9)
    ]
    assert [r.source for r in requests[:4]] == [
        '0.png', '1.png', '2.png', '0.png',
    ]  # fmt: skip
    pairs = {(r.source, r.prompt) for r in requests}
    assert len(pairs) == 9


@given(st.integers(0, SEED_MODULUS - 1), st.integers(0, 10**6))
def test_seeds_of_attempts_do_not_meet_those_of_other_images(seed, index):
    # Any image of a bank of a hundred million, at its first attempt.
    firsts = range(seed, seed + 10**8)
    for attempt in range(1, MAX_ATTEMPTS):
        again = seed_of(index, seed, attempt)
        assert 0 <= again < SEED_MODULUS
        assert again not in firsts and again + SEED_MODULUS not in firsts


def test_next_attempt_changes_the_seed_alone():
    first = request_for(2, PROMPTS, seed=5)
    second = next_attempt(first, 5)
    assert second.attempt == 1 and second.seed != first.seed
    assert second == request_for(2, PROMPTS, seed=5, attempt=1)


@given(st.integers(1, 9), st.integers(0, 200))
def test_every_unit_has_one_owner(world, unit):
    owners = [r for r in range(world) if Shard(r, world).owns(unit)]
    assert len(owners) == 1


@pytest.mark.parametrize(
    ('environ', 'shard'),
    [
        ({}, (0, 1, 0)),
        ({'RANK': '1', 'WORLD_SIZE': '4', 'LOCAL_RANK': '1'}, (1, 4, 1)),
        ({'RANK': '1'}, (0, 1, 0)),
        # In a batch script's own process only the job's size is known.
        ({'SLURM_PROCID': '0', 'SLURM_NTASKS': '8'}, (0, 1, 0)),
        ({'SLURM_PROCID': '5', 'SLURM_STEP_NUM_TASKS': '8',
          'SLURM_LOCALID': '1'}, (5, 8, 1)),
        ({'OMPI_COMM_WORLD_RANK': '2', 'OMPI_COMM_WORLD_SIZE': '3'},
         (2, 3, 0)),
        ({'PMI_RANK': '0', 'PMI_SIZE': '2'}, (0, 2, 0)),
    ],
)  # fmt: skip
def test_launchers(environ, shard):
    assert shard_from_environment(environ) == shard


@pytest.mark.parametrize(
    ('rank', 'world'), [('2', '2'), ('-1', '2'), ('a', '2')]
)
def test_contradicting_environment(rank, world):
    with pytest.raises(GenerationError, match=f'RANK={rank}'):
        shard_from_environment({'RANK': rank, 'WORLD_SIZE': world})


def test_parse_shard():
    assert parse_shard('1/4') == Shard(1, 4)
    for text in ('4/4', '1', 'a/b', '-1/2', '1/2/3'):
        with pytest.raises(GenerationError, match='K/N'):
            parse_shard(text)
