"""How rows become steps, micro-batches and ranks' shares."""

from __future__ import annotations

from trainer.batches import deal, micro_batches, shuffled, steps_by_count, steps_by_tokens

IDS = [f"id{n}" for n in range(50)]


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


def test_micro_batches_keep_the_budget_unless_one_item_alone_exceeds_it() -> None:
    widths = [100, 3, 4, 50, 7, 300]
    parts = micro_batches(range(6), widths, 2, 220)
    assert sorted(i for part in parts for i in part) == list(range(6))
    assert all(len(part) == 1 or 2 * len(part) * max(widths[i] for i in part) <= 220 for part in parts)


def test_ranks_share_all_micro_batches_evenly() -> None:
    widths = [n % 13 + 1 for n in range(50)]
    parts = micro_batches(range(50), widths, 2, 60)
    shares = [deal(parts, widths, 3, rank) for rank in range(3)]
    assert sorted(map(sorted, (part for share in shares for part in share))) == sorted(map(sorted, parts))
    work = [sum(len(p) * max(widths[i] for i in p) for p in share) for share in shares]
    assert max(work) - min(work) <= 60
