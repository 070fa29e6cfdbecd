"""How rows become steps, micro-batches and ranks' shares."""

from __future__ import annotations

from trainer.batches import (
    Shape,
    deal,
    micro_batches,
    n_tokens,
    padded,
    shuffled,
    steps_by_count,
    steps_by_prompt,
    steps_by_tokens,
)

IDS = [f"id{n}" for n in range(50)]
MIXED = [Shape(n, n % 7 + 1, (n % 13 + 1, 3)) for n in range(50)]


def test_the_order_depends_on_seed_epoch_and_id_but_not_on_position() -> None:
    order = [IDS[i] for i in shuffled(IDS, seed=1, epoch=0)]
    turned = IDS[::-1]
    assert [turned[i] for i in shuffled(turned, seed=1, epoch=0)] == order
    assert [IDS[i] for i in shuffled(IDS, seed=2, epoch=0)] != order
    assert [IDS[i] for i in shuffled(IDS, seed=1, epoch=1)] != order


def test_steps_hold_every_row_once() -> None:
    lengths = [n % 13 + 1 for n in range(50)]
    for steps in (list(steps_by_count(range(50), 8)), list(steps_by_tokens(range(50), lengths, 40))):
        assert sorted(i for step in steps for i in step) == list(range(50))


def test_steps_by_count_are_of_one_size_up_to_one_row() -> None:
    assert [len(step) for step in steps_by_count(range(50), 16)] == [12, 13, 12, 13]
    assert [len(step) for step in steps_by_count(range(3), 16)] == [3]
    assert list(steps_by_count([], 16)) == []


def test_steps_by_prompt_hold_every_prompt_whole_and_do_not_depend_on_the_rows_order() -> None:
    shapes = [Shape(n // 4, 5, (3, 4)) for n in range(50)]
    steps = list(steps_by_prompt(IDS, shapes, 7, 0, 3))
    assert [len({shapes[i].prompt for i in step}) for step in steps] == [2, 3, 2, 3, 3]
    assert all(
        {i for i in range(50) if shapes[i].prompt in {shapes[j].prompt for j in step}} == set(step) for step in steps
    )
    turned = list(steps_by_prompt(IDS[::-1], shapes[::-1], 7, 0, 3))
    assert [[IDS[::-1][i] for i in step] for step in turned] == [[IDS[i] for i in step] for step in steps]


def test_micro_batches_keep_the_budget_unless_one_item_alone_exceeds_it() -> None:
    shapes = [Shape(i, 10, (size, 5)) for i, size in enumerate([100, 3, 4, 50, 7, 300])]
    parts = micro_batches(range(6), shapes, 120)
    assert sorted(i for part in parts for i in part) == list(range(6))
    assert all(len(part) == 1 or n_tokens(part, shapes) <= 120 for part in parts)


def test_items_of_one_prompt_stay_together_and_their_prompt_counts_once() -> None:
    shapes = [Shape("p", 40, (10, 10)), Shape("q", 40, (10, 10)), Shape("p", 40, (10, 10)), Shape("q", 40, (10, 10))]
    assert micro_batches(range(4), shapes, 100) == [[0, 2], [1, 3]]
    assert n_tokens([0, 2], shapes) == 80


def test_a_prompt_with_more_completions_than_the_budget_is_cut_and_counts_in_every_part() -> None:
    shapes = [Shape("p", 40, (10, 10))] * 5
    parts = micro_batches(range(5), shapes, 80)
    assert parts == [[0, 1], [2, 3], [4]]
    assert [n_tokens(part, shapes) for part in parts] == [80, 80, 60]


def test_padded_rows_share_nothing() -> None:
    shapes = padded([Shape("p", 40, (10, 30)), Shape("p", 40, (10, 30))])
    assert n_tokens([0, 1], shapes) == 4 * 70


def test_ranks_share_all_micro_batches_evenly() -> None:
    parts = micro_batches(range(50), MIXED, 60)
    shares = [deal(parts, MIXED, 3, rank) for rank in range(3)]
    assert sorted(map(sorted, (part for share in shares for part in share))) == sorted(map(sorted, parts))
    work = [sum(n_tokens(p, MIXED) for p in share) for share in shares]
    assert max(work) - min(work) <= 60
