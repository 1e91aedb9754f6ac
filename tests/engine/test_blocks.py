import numpy as np
import pytest

from paddlemix.engine.blocks import BlockPool, Tail, block_key, root_hash
from paddlemix.engine.content import Content
from paddlemix.errors import EngineError


def chain(*contents: bytes):
    keys, parent = [], b"root"
    for content in contents:
        keys.append(block_key(parent, content))
        parent = keys[-1].hash
    return keys


def test_blocks_without_a_key_are_free_again_and_those_with_one_cached():
    pool = BlockPool(4)
    blocks = pool.allocate(3)
    pool.register(blocks[0], chain(b"a")[0])
    assert pool.counts == (1, 0, 3)
    pool.check([blocks])
    pool.release(blocks)
    assert pool.counts == (3, 1, 0)
    pool.check([])


def test_a_prefix_is_found_as_far_as_it_goes():
    pool = BlockPool(4)
    blocks = pool.allocate(3)
    for block, key in zip(blocks, chain(b"a", b"b", b"c")):
        pool.register(block, key)
    pool.release(blocks)
    assert pool.find(chain(b"a", b"b", b"x")) == blocks[:2]
    assert pool.find(chain(b"b")) == []
    found = pool.find(chain(b"a", b"b"))
    pool.acquire(found)
    pool.acquire(found)
    assert pool.counts == (1, 1, 2)
    pool.check([found, found])
    pool.release(found)
    assert pool.counts == (1, 1, 2)


def test_what_was_left_longest_ago_goes_first_and_of_a_row_its_end():
    pool = BlockPool(3)
    first = pool.allocate(2)
    for block, key in zip(first, chain(b"a", b"b")):
        pool.register(block, key)
    pool.release(first)
    pool.allocate(2)
    assert pool.find(chain(b"a", b"b")) == first[:1]


def test_a_block_with_a_known_hash_and_other_content_is_not_taken():
    pool = BlockPool(1)
    (block,) = pool.allocate(1)
    key = chain(b"a")[0]
    pool.register(block, key)
    assert pool.find([type(key)(key.hash, b"other")]) == []


def test_of_two_blocks_with_the_same_content_one_is_kept():
    pool = BlockPool(2)
    blocks = pool.allocate(2)
    for block in blocks:
        pool.register(block, chain(b"a")[0])
    pool.release(blocks)
    assert pool.counts == (1, 1, 0)


def tail_of(*ids, parent=b"root"):
    return Tail(parent, Content(np.array(ids), ()))


def test_the_last_block_of_a_row_goes_to_one_other():
    pool = BlockPool(2)
    blocks = pool.allocate(1)
    pool.keep_tail(blocks[0], tail_of(1, 2))
    assert pool.find_tail(b"root") is None  # its row has it still
    pool.release(blocks)
    assert pool.counts == (1, 1, 0) and pool.find_tail(b"other") is None
    pool.check([])
    assert pool.find_tail(b"root")[0] == blocks[0]
    pool.take_tail(blocks[0])
    assert pool.find_tail(b"root") is None and pool.counts == (1, 0, 1)
    pool.check([blocks])
    pool.release(blocks)
    assert pool.counts == (2, 0, 0)


@pytest.mark.parametrize("how", ["another", "evicted", "forgotten"])
def test_a_last_block_is_forgotten_when(how):
    pool = BlockPool(2)
    blocks = pool.allocate(1)
    pool.keep_tail(blocks[0], tail_of(1, 2))
    pool.release(blocks)
    if how == "another":
        others = pool.allocate(1)
        pool.keep_tail(others[0], tail_of(3))
        pool.release(others)
        assert pool.find_tail(b"root")[0] == others[0] and pool.counts == (1, 1, 0)
    elif how == "evicted":
        assert set(pool.allocate(2)) == {0, 1} and pool.find_tail(b"root") is None
        pool.check([[0, 1]])
        return
    else:
        pool.forget()
        assert pool.find_tail(b"root") is None and pool.counts == (2, 0, 0)
    pool.check([])


def test_contents_are_shared_up_to_the_first_difference():
    image = (1, 0, 2, b"a")
    mine = Content(np.array([5, -1, -1, 6, 7]), (image,))
    assert mine.shared(mine) == 5
    assert mine.shared(Content(np.array([5, -1, -1, 6, 8]), (image,))) == 4
    assert mine.shared(Content(np.array([5, -1]), ((1, 0, 1, b"a"),))) == 2
    assert mine.shared(Content(mine.ids, ((1, 0, 2, b"b"),))) == 1
    assert mine.shared(Content(mine.ids, ((1, 3, 2, b"a"),))) == 1
    assert mine.shared(Content(np.array([5, 6, 7]), ())) == 1
    assert mine.to_bytes() != Content(mine.ids, ((1, 0, 2, b"b"),)).to_bytes()


def test_more_than_there_is_is_refused():
    with pytest.raises(EngineError, match="3 blocks wanted, 2 available"):
        BlockPool(2).allocate(3)


def test_forgetting_frees_what_nobody_holds():
    pool = BlockPool(2)
    blocks = pool.allocate(2)
    for block, key in zip(blocks, chain(b"a", b"b")):
        pool.register(block, key)
    pool.release(blocks[1:])
    pool.forget()
    assert pool.counts == (1, 0, 1) and pool.find(chain(b"a")) == []
    pool.release(blocks[:1])
    pool.check([])


def test_the_check_finds_lost_doubled_and_foreign_blocks():
    pool = BlockPool(2)
    blocks = pool.allocate(1)
    for tables in ([], [blocks, blocks], [[1 - blocks[0]]]):
        with pytest.raises(EngineError, match="neither free, cached nor owned"):
            pool.check(tables)


def test_any_order_of_taking_sharing_and_leaving_keeps_every_block():
    pool, generator, rows = BlockPool(12), np.random.default_rng(0), []
    for _ in range(2000):
        if rows and generator.random() < 0.5:
            pool.release(rows.pop(int(generator.integers(len(rows)))))
        else:
            keys = chain(*(bytes([c]) for c in generator.integers(0, 2, generator.integers(1, 6))))
            found = pool.find(keys[:-1])
            missing = len(keys) - len(found)
            if missing + pool.unowned(found) <= pool.available:
                pool.acquire(found)
                blocks = found + pool.allocate(missing)
                for block, key in zip(blocks[len(found) :], keys[len(found) :]):
                    pool.register(block, key)
                rows.append(blocks)
        pool.check(rows)


def test_the_root_tells_model_encoding_and_salt_apart():
    roots = {root_hash(*of) for of in ((b"m", 1.0, b""), (b"m", 3.0, b""), (b"n", 1.0, b""), (b"m", 1.0, b"s"))}
    assert len(roots) == 4
    assert root_hash(b"ab", 1.0, b"c") != root_hash(b"a", 1.0, b"bc")
