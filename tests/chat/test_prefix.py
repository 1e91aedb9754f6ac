from types import SimpleNamespace

import pytest

from paddlemix.chat.prefix import CachedPrefix

IMG, SLOTS = 90, 2
SPAN = [IMG, 92, 92, 91]


def reusable(prompt, answer, length, new, old_images=(), new_images=()):
    prefix = CachedPrefix(SimpleNamespace(length=length), prompt, list(old_images), answer)
    return prefix.reusable(new, list(new_images), IMG, SLOTS)


@pytest.mark.parametrize(
    ("new", "shared"),
    [
        ([1, 2, 3, 4, 5, 6], 4),  # only what was fed
        ([1, 2, 3, 9, 9], 3),
        ([1, 2, 3, 4], 3),  # the last id must be fed
        ([9, 2, 3], 0),
        ([1], 0),
    ],
)
def test_the_longest_common_start_is_shared(new, shared):
    assert reusable([1, 2, 3], [4, 5], 4, new) == shared


@pytest.mark.parametrize(("key", "shared"), [("a", 6), ("b", 1)])
def test_an_image_is_shared_if_it_is_the_same(key, shared):
    assert reusable([1, *SPAN, 7], [], 6, [1, *SPAN, 7, 8], ["a"], [key]) == shared


def test_images_before_a_changed_one_stay_shared():
    prompt = [1, *SPAN, *SPAN, 7]
    assert reusable(prompt, [], 10, [*prompt, 8], ["a", "b"], ["a", "c"]) == 5


@pytest.mark.parametrize("fed", [2, 3, 4])
def test_no_image_is_cut(fed):
    assert reusable([1, *SPAN, 7], [], fed, [1, *SPAN, 7, 8], ["a"], ["a"]) == 1


def test_an_image_tag_in_an_answer_ends_what_is_shared():
    assert reusable([1, 2], [IMG, 3, 4], 5, [1, 2, IMG, 3, 4, 5]) == 2
