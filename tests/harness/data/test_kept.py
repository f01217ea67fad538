"""What was decoded is kept as far as it fits, and read again where it does not."""

from harness.data.kept import Kept


def test_what_fits_is_decoded_once_and_what_does_not_each_time():
    decoded = []
    kept = Kept(lambda index: decoded.append(index) or "x" * index, len, count=3)
    kept.limit = 5
    # 3 and 2 fill the 5; 1 would not fit any more.
    assert [kept[index] for index in (3, 2, 1, 3, 2, 1)] == ["xxx", "xx", "x"] * 2
    assert decoded == [3, 2, 1, 1]


def test_nothing_is_kept_of_a_split_of_which_too_little_would_fit():
    decoded = []
    for count, times in ((10, 1), (11, 2)):
        kept = Kept(lambda index: decoded.append(index) or "xx", len, count)
        kept.limit = 2
        decoded.clear()
        assert [kept[0], kept[0]] == ["xx", "xx"]
        assert len(decoded) == times
