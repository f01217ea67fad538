"""The thirteen tables of a nuScenes root: opened by the devkit, or what is wrong with them said by row and key."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from math import isfinite
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.data.sensor_files import check_file
from harness.errors import InputError

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes

Tables = Mapping[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Reference:
    """A token of another table, several of them in a list, or none as an empty string where that is allowed."""

    table: str
    many: bool = False
    optional: bool = False


@dataclass(frozen=True)
class _Numbers:
    """A list of so many finite numbers, of which something else may be asked."""

    count: int
    asked: Callable[[list[list[float]]], bool] = lambda values: True
    words: str = ""


_Kind = type | tuple[type, ...] | Reference | _Numbers
Columns = Mapping[str, Mapping[str, _Kind]]
"""Keys of tables that are looked up, and what their values must be."""
_POINT = _Numbers(3)
_SIZE = _Numbers(3, lambda values: min(map(min, values), default=1) > 0, ", all above 0")
_QUATERNION = _Numbers(4, lambda values: all(map(any, values)), ", not all 0")

# The keys that the devkit, its evaluation or our reader looks up; any others may be missing.
_COLUMNS: Columns = {
    "attribute": {"name": str},
    "calibrated_sensor": {
        "sensor_token": Reference("sensor"),
        "translation": _POINT,
        "rotation": _QUATERNION,
        "camera_intrinsic": list,
    },
    "category": {"name": str},
    "ego_pose": {"translation": _POINT, "rotation": _QUATERNION},
    "instance": {"category_token": Reference("category")},
    "log": {"logfile": str},
    "map": {"filename": str, "log_tokens": list},
    "sample": {
        "timestamp": int,
        "prev": Reference("sample", optional=True),
        "next": Reference("sample", optional=True),
        "scene_token": Reference("scene"),
    },
    "sample_annotation": {
        "sample_token": Reference("sample"),
        "instance_token": Reference("instance"),
        "visibility_token": Reference("visibility", optional=True),
        "attribute_tokens": Reference("attribute", many=True),
        "translation": _POINT,
        "size": _SIZE,
        "rotation": _QUATERNION,
        "prev": Reference("sample_annotation", optional=True),
        "next": Reference("sample_annotation", optional=True),
        "num_lidar_pts": int,
        "num_radar_pts": int,
    },
    "sample_data": {
        "sample_token": Reference("sample"),
        "ego_pose_token": Reference("ego_pose"),
        "calibrated_sensor_token": Reference("calibrated_sensor"),
        "timestamp": int,
        "is_key_frame": bool,
        "filename": str,
        "prev": Reference("sample_data", optional=True),
        "next": Reference("sample_data", optional=True),
    },
    "scene": {"name": str, "log_token": Reference("log")},
    "sensor": {"channel": str, "modality": str},
    "visibility": {},
}
TABLES = tuple(_COLUMNS)
# A test split has no annotations, and nobody needs to use attributes.
_MAY_BE_EMPTY = {"attribute", "instance", "sample_annotation", "visibility", "object_ann"}
_NAMES = {str: "string", bool: "true or false", list: "list", dict: "object"}
# Of nuScenes' extensions: the devkit reads them where they are, we never do.
_EXTENSIONS = ("lidarseg.json", "panoptic.json", "image_annotations.json")


def table_path(folder: Path, table: str) -> Path:
    """The file of a table in a version folder."""
    return folder / f"{table}.json"


def detection_class(category: str) -> str | None:
    """The one of the ten classes that a category of nuScenes belongs to; None where it belongs to none."""
    # The devkit takes seconds to import, which a report of stored runs need not wait.
    from nuscenes.eval.detection.utils import category_to_detection_name

    return category_to_detection_name(category)


def check_table_files(folder: Path) -> None:
    """Raise InputError for a table that is missing, empty, a git-LFS pointer or cut off, without parsing any."""
    for table in TABLES:
        path = table_path(folder, table)
        check_file(path, f"one of the {len(TABLES)} tables of a nuScenes root")
        with path.open("rb") as file:
            first = file.read(64).lstrip()
            file.seek(-min(64, path.stat().st_size), 2)
            last = file.read().rstrip()
        if not (first.startswith(b"[") and last.endswith(b"]")):
            raise InputError(f"{path} is truncated or no nuScenes table: expected a JSON list, from [ to ]")


def open_tables(root: Path, version: str) -> "NuScenes":
    """The devkit's view of a root, every row of it checked; raises InputError for what neither it nor we can read."""
    from nuscenes.nuscenes import NuScenes

    folder = root / version
    check_table_files(folder)
    # A map table without log_tokens makes the devkit raise a bare Exception, which is too wide to be caught below.
    read_tables(folder, ("map",))
    try:
        devkit = NuScenes(version=version, dataroot=str(root), verbose=False)
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError, OSError) as error:
        # Only now are tables parsed a second time: that of a whole nuScenes takes a minute.
        check_tables(root, version, {table: _rows(folder, table) for table in TABLES})
        extensions = [name for name in _EXTENSIONS if (folder / name).exists()]
        if not extensions:
            raise
        raise InputError(f"{folder}: the devkit cannot open {', '.join(extensions)}: {error!r}") from error
    check_tables(root, version, {table: getattr(devkit, table) for table in TABLES})
    return devkit


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises InputError where it is not."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}") from error
    except (ValueError, RecursionError) as error:  # also an integer of thousands of digits
        raise InputError(f"{path} is not valid JSON: {error}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def read_tables(folder: Path, names: Iterable[str], columns: Columns = _COLUMNS) -> Tables:
    """A few tables of a version folder that refer to no others, without the devkit, checked all the same."""
    tables = {table: _rows(folder, table) for table in names}
    tokens = {table: _tokens(folder, table, rows) for table, rows in tables.items()}
    for table in tables:
        _check_columns(folder, tables, columns[table], table, tokens)
    return tables


def check_tables(root: Path, version: str, tables: Tables) -> None:
    """Raise InputError for the first row without a needed key, with a wrong value, or with a token that leads nowhere.

    Args:
        root: Where the files of the map table are.
        version: The folder in it that the tables come from.
        tables: Rows of all tables.
    """
    folder = root / version
    tokens = {table: _tokens(folder, table, rows) for table, rows in tables.items()}
    for table in tables:
        _check_columns(folder, tables, _COLUMNS[table], table, tokens)
    for i, row in enumerate(tables["map"]):
        try:
            (root / row["filename"]).stat()
        except OSError as error:
            where = f"{_row(folder, 'map', i)} names it as a map"
            raise InputError(
                f"{root / row['filename']} is missing or cannot be read: {error.strerror}; {where}"
            ) from error
    named = tables["map"]
    _check_column(folder, "map", "log_tokens", named, lambda v: _are(chain.from_iterable(v), str), "no list of strings")
    mapped = {token for row in tables["map"] for token in row["log_tokens"]}
    _check_column(folder, "log", "token", tables["log"], mapped.issuperset, "in no log_tokens of map.json")
    modalities = {"camera", "lidar", "radar"}
    _check_column(
        folder, "sensor", "modality", tables["sensor"], modalities.issuperset, f"none of {sorted(modalities)}"
    )
    # nuScenes' tokens of visibility are its levels, and our reader counts with them.
    levels = {"1", "2", "3", "4"}
    _check_column(folder, "visibility", "token", tables["visibility"], levels.issuperset, f"none of {sorted(levels)}")
    cameras = {row["token"] for row in tables["sensor"] if row["modality"] == "camera"}
    for i, row in enumerate(tables["calibrated_sensor"]):
        matrix = row["camera_intrinsic"]
        if row["sensor_token"] in cameras and not (len(matrix) == 3 and _are_numbers(matrix, 3)):
            where = f"{_row(folder, 'calibrated_sensor', i)}: camera_intrinsic {_short(matrix)}"
            raise InputError(f"{where} is no 3 x 3 matrix, but its sensor is a camera")


def _rows(folder: Path, table: str) -> list[dict[str, Any]]:
    """A table read by ourselves; its files have been looked at before, so that it begins and ends as a list."""
    rows = read_json(table_path(folder, table))
    if not isinstance(rows, list):
        raise InputError(f"{table_path(folder, table)} is no table: expected a JSON list, from [ to ]")
    if not _are(rows, dict):
        index = next(i for i, row in enumerate(rows) if type(row) is not dict)
        raise InputError(f"{_row(folder, table, index)} must be an object, not {_short(rows[index])}")
    return rows


def _tokens(folder: Path, table: str, rows: list[dict[str, Any]]) -> set[str]:
    """The tokens of a table that has rows where it must, all of them with a token of their own."""
    if not rows and table not in _MAY_BE_EMPTY:
        raise InputError(f"{table_path(folder, table)} has no row; expected at least one")
    _check_column(folder, table, "token", rows, lambda values: _are(values, str), "no string")
    column = _column(folder, table, "token", rows)
    tokens = set(column)
    if len(tokens) < len(rows):
        token, count = Counter(column).most_common(1)[0]
        raise InputError(f"{table_path(folder, table)}: {count} rows have the token {_short(token)}")
    return tokens


def _check_columns(
    folder: Path, tables: Tables, columns: Mapping[str, _Kind], table: str, tokens: Mapping[str, set[str]]
) -> None:
    for key, kind in columns.items():
        good, wrong = _rule(kind, tokens)
        _check_column(folder, table, key, tables[table], good, wrong)


def _rule(kind: _Kind, tokens: Mapping[str, set[str]]) -> tuple[Callable[[list], bool], str]:
    """Whether all values of a list are good, and what one is that is not."""
    match kind:
        case _Numbers(count, asked, words):
            return (
                lambda values: _are_numbers(values, count) and asked(values),
                f"no list of {count} finite numbers{words}",
            )
        case Reference(table, many=True):
            known = tokens[table]
            return (
                lambda values: _are(values, list) and _are_tokens(list(chain.from_iterable(values)), known),
                f"no list of tokens of {table}.json",
            )
        case Reference(table, optional=optional):
            known = {*tokens[table], ""} if optional else tokens[table]
            return lambda values: _are_tokens(values, known), f"the token of no row of {table}.json"
        case tuple():
            return lambda values: _are(values, *kind), "no object or null"
        case type() if kind is int:
            return lambda values: _are(values, int) and _fits(values), "no whole number of 64 bits"
        case _:
            return lambda values: _are(values, kind), f"no {_NAMES[kind]}"


def _are(values: Iterable, *kinds: type) -> bool:
    # Not isinstance: true is no number here.
    return set(map(type, values)) <= set(kinds)


def _are_tokens(values: list, known: set[str]) -> bool:
    return _are(values, str) and known.issuperset(values)


def _are_numbers(values: list, count: int) -> bool:
    return (
        _are(values, list)
        and set(map(len, values)) <= {count}
        and _are(chain.from_iterable(values), float, int)
        and _is_finite(chain.from_iterable(values))
    )


def _fits(numbers: list[int]) -> bool:
    return not numbers or -(2**63) <= min(numbers) <= max(numbers) < 2**63


def _is_finite(numbers: Iterable[float]) -> bool:
    # A sum is finite where all summands are: no table holds numbers near the largest ones.
    try:
        return isfinite(sum(numbers))
    except OverflowError:  # an integer beyond all floats
        return False


def _check_column(
    folder: Path, table: str, key: str, rows: list[dict[str, Any]], good: Callable[[list], bool], wrong: str
) -> None:
    """Raise InputError for the first value of a column that is not good.

    `good` says so of a whole list at once: there are tens of millions of values.
    """
    values = _column(folder, table, key, rows)
    if not good(values):
        index = next(i for i, value in enumerate(values) if not good([value]))
        raise InputError(f"{_row(folder, table, index)}: {key} {_short(values[index])} is {wrong}")


def _column(folder: Path, table: str, key: str, rows: list[dict[str, Any]]) -> list[Any]:
    try:
        return list(map(itemgetter(key), rows))
    except KeyError:
        lacking = next(i for i, row in enumerate(rows) if key not in row)
        raise InputError(f"{_row(folder, table, lacking)} has no key {key!r}") from None


def _row(folder: Path, table: str, index: int) -> str:
    return f"{table_path(folder, table)}: row {index}"


def _short(value: Any) -> str:
    """A value from a file, as much of it as fits a message."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
