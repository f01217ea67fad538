"""Reads the thirteen tables of a nuScenes root, whole or a few rows at a time; errors name file, row and key."""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from math import isfinite
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import msgspec

from harness.data.sensor_files import check_file
from harness.errors import InputError, input_error_on_os_error

if TYPE_CHECKING:
    from nuscenes.nuscenes import NuScenes

Rows = list[dict[str, Any]]
Tables = Mapping[str, Rows]


@dataclass(frozen=True)
class Rule:
    """What the values of a column have to be."""

    good: Callable[[list[Any]], bool]
    """Says so of a whole list at once: there are tens of millions of values."""
    wrong: str
    """What a value is that is not good."""
    stored: Literal["json", "text", "q", "?", "d"] = "json"
    """How an index stores it: as JSON, as text, or as numbers of a type of the struct module."""


@dataclass(frozen=True)
class Reference:
    """A token of another table, several of them in a list, or none as an empty string where that is allowed."""

    table: str
    many: bool = False
    optional: bool = False

    def rule(self, tokens: Mapping[str, Collection[str]]) -> Rule:
        """The rule, given the tokens of all tables, in sets or as keys."""
        known = tokens[self.table]
        if self.many:
            wrong = f"not a list of tokens of {self.table}.json"
            return Rule(lambda values: _are(values, list) and _are_among(chain.from_iterable(values), known), wrong)
        wrong = f"not the token of a row of {self.table}.json"
        if self.optional:
            return Rule(lambda values: _are(values, str) and _are_among(filter(None, values), known), wrong)
        return Rule(lambda values: _are_among(values, known), wrong)


def _are(values: Iterable, *kinds: type) -> bool:
    # Not isinstance: true is no number here.
    return set(map(type, values)) <= set(kinds)


def _are_among(values: Iterable, known: Collection[str]) -> bool:
    values = list(values)
    return _are(values, str) and all(map(known.__contains__, values))


def _are_numbers(values: list, count: int) -> bool:
    return (
        _are(values, list)
        and set(map(len, values)) <= {count}
        and _are(chain.from_iterable(values), float, int)
        and _is_finite(chain.from_iterable(values))
    )


def _is_finite(numbers: Iterable[float]) -> bool:
    # A sum is finite where all summands are: no table holds numbers near the largest ones.
    try:
        return isfinite(sum(numbers))
    except OverflowError:  # an integer beyond all floats
        return False


def _one_of(*names: str) -> Rule:
    return Rule(lambda values: _are_among(values, set(names)), f"none of {list(names)}", "text")


TEXT = Rule(lambda values: _are(values, str), "no string", "text")
NUMBER = Rule(
    lambda values: _are(values, int) and all(-(2**63) <= end(values, default=0) < 2**63 for end in (min, max)),
    "not a whole number of 64 bits",
    "q",
)
_FLAG = Rule(lambda values: _are(values, bool), "not true or false", "?")
_LIST = Rule(lambda values: _are(values, list), "no list")
_TEXTS = Rule(lambda values: _are(values, list) and _are(chain.from_iterable(values), str), "not a list of strings")
_POINT = Rule(lambda values: _are_numbers(values, 3), "not a list of 3 finite numbers", "d")
_SIZE = Rule(
    lambda values: _are_numbers(values, 3) and min(map(min, values), default=1) > 0,
    "not a list of 3 finite numbers, all above 0",
    "d",
)
_QUATERNION = Rule(
    lambda values: _are_numbers(values, 4) and all(map(any, values)), "not a list of 4 finite numbers, not all 0", "d"
)

Columns = Mapping[str, Mapping[str, Rule | Reference]]
"""Keys of tables that are looked up, and what their values must be."""

# The keys that the devkit, its evaluation or our reader looks up; any others may be missing.
COLUMNS: Columns = {
    "attribute": {"name": TEXT},
    "calibrated_sensor": {
        "sensor_token": Reference("sensor"),
        "translation": _POINT,
        "rotation": _QUATERNION,
        "camera_intrinsic": _LIST,
    },
    "category": {"name": TEXT},
    "ego_pose": {"translation": _POINT, "rotation": _QUATERNION},
    "instance": {"category_token": Reference("category")},
    "log": {"logfile": TEXT},
    "map": {"filename": TEXT, "log_tokens": _TEXTS},
    "sample": {
        "timestamp": NUMBER,
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
        "num_lidar_pts": NUMBER,
        "num_radar_pts": NUMBER,
    },
    "sample_data": {
        "sample_token": Reference("sample"),
        "ego_pose_token": Reference("ego_pose"),
        "calibrated_sensor_token": Reference("calibrated_sensor"),
        "timestamp": NUMBER,
        "is_key_frame": _FLAG,
        "filename": TEXT,
        "prev": Reference("sample_data", optional=True),
        "next": Reference("sample_data", optional=True),
    },
    "scene": {"name": TEXT, "log_token": Reference("log")},
    "sensor": {"channel": TEXT, "modality": _one_of("camera", "lidar", "radar")},
    # nuScenes' tokens of visibility are its levels, and our reader counts with them.
    "visibility": {"token": _one_of("1", "2", "3", "4")},
}
TABLES = tuple(COLUMNS)
OPTIONAL: Mapping[str, Mapping[str, Rule]] = {"sample_data": {"width": NUMBER, "height": NUMBER}}
"""Keys that a row may lack: to be read as 0, which says nothing."""
RELATED = ("calibrated_sensor", "log", "map", "sensor")
"""Small tables whose rows are checked against each other."""
# A test split has no annotations, and nobody needs to use attributes.
_MAY_BE_EMPTY = {"attribute", "instance", "sample_annotation", "visibility", "object_ann"}
# Of nuScenes' extensions: the devkit reads them where they are, we never do.
_EXTENSIONS = ("lidarseg.json", "panoptic.json", "image_annotations.json")
_PIECE = 2**22
"""Bytes of a table that are parsed at once."""


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
            raise InputError(f"{path} is truncated or not a nuScenes table: expected a JSON list, from [ to ]")


def open_devkit(root: Path, version: str) -> "NuScenes":
    """The devkit's view of a root whose tables were checked; raises InputError for an extension that it cannot read."""
    from nuscenes.nuscenes import NuScenes

    folder = root / version
    try:
        return NuScenes(version=version, dataroot=str(root), verbose=False)
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError, RecursionError, OSError) as error:
        extensions = [name for name in _EXTENSIONS if (folder / name).exists()]
        if not extensions:
            raise
        raise InputError(f"{folder}: the devkit cannot open {', '.join(extensions)}: {error!r}") from error


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises InputError where it is not."""
    try:
        return json.loads(path.read_bytes())
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: byte {error.start} is {error.object[error.start]:#04x}") from error
    except (ValueError, RecursionError) as error:  # also an integer of thousands of digits
        raise InputError(f"{path} is not valid JSON: {error}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def read_tables(folder: Path, names: Iterable[str], columns: Columns = COLUMNS) -> Tables:
    """A few tables of a version folder that refer to no others, checked."""
    tables = {table: _rows(folder, table) for table in names}
    tokens = {table: number_tokens(folder, table, [rows]) for table, rows in tables.items()}
    for table, rows in tables.items():
        for key, rule in columns[table].items():
            checked_column(folder, table, key, rows, rule.rule(tokens) if isinstance(rule, Reference) else rule)
    return tables


def stream(folder: Path, table: str, keys: Iterable[str]) -> Iterator[Rows]:
    """The rows of a table in their order, some at a time, so that a large table never is in memory as a whole.

    Args:
        folder: The version folder.
        table: Name of the table.
        keys: What is read of each row, as far as it is there.

    Raises:
        InputError: The file is no list of objects; or it cannot be read.
    """
    path, count = table_path(folder, table), 0
    row = TypedDict("row", dict.fromkeys(keys, Any), total=False)  # type: ignore[misc]
    decoder: msgspec.json.Decoder[Rows] = msgspec.json.Decoder(list[row])
    with input_error_on_os_error(f"{path} cannot be read"):
        for text in _pieces(path):
            try:
                text.decode()  # parsers look only at what they return
                rows = decoder.decode(text)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                # Python's parser names the place of an error. It also reads NaN, which may stand where nobody looks.
                yield _rows(folder, table)[count:]
                return
            yield rows
            count += len(rows)


def _pieces(path: Path) -> Iterator[bytes]:
    """A file that is a list, as shorter lists.

    It is cut at commas between braces. Where these stand inside of a row, a piece ends within that row and is no JSON,
    so that no wrong cut stays unnoticed.
    """
    text = b""
    with path.open("rb") as file:
        while block := file.read(_PIECE):
            text += block
            if comma := _last_cut(text):
                yield text[:comma] + b"]"
                text = b"[" + text[comma + 1 :]
    yield text


def _last_cut(text: bytes) -> int:
    """Where the last comma between two braces is; 0 where there is none."""
    comma = text.rfind(b",")
    while comma > 0:
        before, after = text[max(0, comma - 64) : comma], text[comma + 1 : comma + 65]
        if before.rstrip().endswith(b"}") and after.lstrip().startswith(b"{"):
            return comma
        comma = text.rfind(b",", 0, comma)
    return 0


def check_related(root: Path, version: str, tables: Tables) -> None:
    """Raise InputError for a map that is not there, a log without one, or a camera without intrinsics.

    Args:
        root: Where the files of the map table are.
        version: The folder in it that the tables come from.
        tables: Rows of the `RELATED` tables, each checked by itself.
    """
    folder = root / version
    for i, row in enumerate(tables["map"]):
        path, where = root / row["filename"], f"{_row(folder, 'map', i)} names it as a map"
        with input_error_on_os_error(f"{path} is missing or cannot be read", f"; {where}"):
            path.stat()
    mapped = {token for row in tables["map"] for token in row["log_tokens"]}
    checked_column(folder, "log", "token", tables["log"], Rule(mapped.issuperset, "in no log_tokens of map.json"))
    cameras = {row["token"] for row in tables["sensor"] if row["modality"] == "camera"}
    for i, row in enumerate(tables["calibrated_sensor"]):
        matrix = row["camera_intrinsic"]
        if row["sensor_token"] in cameras and not (len(matrix) == 3 and _are_numbers(matrix, 3)):
            where = f"{_row(folder, 'calibrated_sensor', i)}: camera_intrinsic {_short(matrix)}"
            raise InputError(f"{where} is not a 3 x 3 matrix, but its sensor is a camera")


def _rows(folder: Path, table: str) -> Rows:
    """A whole table; its file has been looked at before, so that it begins and ends as a list."""
    rows = read_json(table_path(folder, table))
    if not isinstance(rows, list):
        raise InputError(f"{table_path(folder, table)} is not a table: expected a JSON list, from [ to ]")
    if not _are(rows, dict):
        index = next(i for i, row in enumerate(rows) if type(row) is not dict)
        raise InputError(f"{_row(folder, table, index)} must be an object, not {_short(rows[index])}")
    return rows


def number_tokens(folder: Path, table: str, pieces: Iterable[Rows]) -> dict[str, int]:
    """Row numbers by token of a table that has rows where it must, all of them with a token of their own.

    Args:
        folder: The version folder.
        table: Name of the table.
        pieces: Its rows, some at a time.
    """
    numbers: dict[str, int] = {}
    count = 0
    for rows in pieces:
        column = checked_column(folder, table, "token", rows, TEXT, count)
        numbers.update(zip(column, range(count, count + len(rows)), strict=True))
        count += len(rows)
    if not count and table not in _MAY_BE_EMPTY:
        raise InputError(f"{table_path(folder, table)} has no rows; expected at least one")
    if len(numbers) < count:
        token, times = Counter(row["token"] for row in _rows(folder, table)).most_common(1)[0]
        raise InputError(f"{table_path(folder, table)}: {times} rows have the token {_short(token)}")
    return numbers


def checked_column(folder: Path, table: str, key: str, rows: Rows, rule: Rule, first: int = 0) -> list[Any]:
    """The values of a column; raises InputError for the first one that is not there or not good.

    Args:
        folder: The version folder.
        table: Name of the table.
        key: Name of the column.
        rows: Some of the table.
        rule: What its values have to be.
        first: Number of the first of these rows.
    """
    try:
        values = list(map(itemgetter(key), rows))
    except KeyError:
        lacking = next(i for i, row in enumerate(rows) if key not in row)
        raise InputError(f"{_row(folder, table, first + lacking)} has no key {key!r}") from None
    if not rule.good(values):
        index = next(i for i, value in enumerate(values) if not rule.good([value]))
        raise InputError(f"{_row(folder, table, first + index)}: {key} {_short(values[index])} is {rule.wrong}")
    return values


def _row(folder: Path, table: str, index: int) -> str:
    return f"{table_path(folder, table)}: row {index}"


def _short(value: Any) -> str:
    """A value from a file, as much of it as fits a message."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
