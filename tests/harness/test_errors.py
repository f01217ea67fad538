"""What messages may show."""

import pytest

from harness.errors import without_password


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://user:p:w@host:5432/db", "postgresql://user:***@host:5432/db"),
        ("no answer from mysql+pymysql://me:pw@host/x today", "no answer from mysql+pymysql://me:***@host/x today"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
        ("http://localhost:5000", "http://localhost:5000"),
        ("runs/journal.log", "runs/journal.log"),
    ],
)
def test_a_password_in_a_url_is_not_shown(url, shown):
    assert without_password(url) == shown
