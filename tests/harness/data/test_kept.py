"""What was decoded is kept as far as it fits, and read again where it does not."""

from harness.data.kept import Kept


def test_what_fits_is_decoded_once_and_what_does_not_each_time():
    decoded = []
    kept = Kept(lambda index: decoded.append(index) or "x" * index, len)
    kept.limit = 5
    # 3 and 2 fill the 5; 1 would not fit any more.
    assert [kept[index] for index in (3, 2, 1, 3, 2, 1)] == ["xxx", "xx", "x"] * 2
    assert decoded == [3, 2, 1, 1]
