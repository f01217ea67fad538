"""MLflow takes the names of all parts of a study, and a deleted experiment is told of before anything is trained."""

import pytest
from mlflow import MlflowClient
from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name

from harness.errors import InputError
from harness.tracking.store import as_key, check_store

STRANGE = [
    "kd@2",
    "a+b",
    "lidar->camera",
    "train/kd@2",
    "a//b",
    "a/./b",
    "../a",
    "/a",
    "a/",
    ".",
    "..",
    "",
    'a"b',
    "ü,{}",
]


@pytest.mark.parametrize("name", [name for name in STRANGE if name] + [500 * "long@", "losses.x.weight"])
def test_mlflow_takes_every_name(name):
    for check in (_validate_metric_name, _validate_param_name, _validate_tag_name):
        check(as_key(name))


@pytest.mark.parametrize(
    "name", ["NDS", "AP/car", "train/total", "losses.feature.weight", "mlflow.note.content", "a b-c_d"]
)
def test_a_name_that_mlflow_takes_stays(name):
    assert as_key(name) == name


def test_names_that_differ_stay_apart():
    names = [*STRANGE, "kd#2", "kd2", 500 * "long@", 500 * "long@" + "er"]
    assert len({as_key(name) for name in names}) == len(names)


def test_a_deleted_experiment_is_named_before_anything_is_trained(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    check_store(uri, "paths")  # is not there yet
    client = MlflowClient(uri)
    number = client.create_experiment("paths", artifact_location=str(tmp_path))
    check_store(uri, "paths")
    client.delete_experiment(number)
    with pytest.raises(InputError, match=f"experiment 'paths' was deleted.* --experiment-id {number}"):
        check_store(uri, "paths")
    client.restore_experiment(number)
    check_store(uri, "paths")
