import pickle

import pytest

from histoquant import errors
from histoquant.errors import HistoquantError

KINDS = sorted(
    (kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, HistoquantError)),
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize(
    ("where", "fix", "text"),
    [
        ("", "", "no pixel size"),
        ("a.tif", "", "a.tif: no pixel size"),
        ("", "give --mpp", "no pixel size; give --mpp"),
        ("a.tif", "give --mpp", "a.tif: no pixel size; give --mpp"),
    ],
)
def test_says_what_where_and_what_to_do(where: str, fix: str, text: str) -> None:
    assert str(HistoquantError("no pixel size", where, fix)) == text


@pytest.mark.parametrize("kind", KINDS)
def test_survives_the_way_back_from_a_worker(kind: type[HistoquantError]) -> None:
    error = kind("is damaged", "张三.svs", "copy it again")
    back = pickle.loads(pickle.dumps(error))
    assert type(back) is kind
    assert (back.what, back.where, back.fix, str(back)) == (error.what, error.where, error.fix, str(error))


def test_a_scale_is_a_slides_matter() -> None:
    assert issubclass(errors.ScaleError, errors.SlideError)
    assert len(KINDS) >= 9
