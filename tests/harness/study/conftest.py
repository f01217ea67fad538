"""Studies from texts, as they load and as they are refused."""

import pytest

from harness.errors import InputError
from harness.study.load import load_study


@pytest.fixture
def load(study_text, tmp_path):
    """``load(text, *overrides)``; without a text it is the study of the tests' file, its fixture ``study_text``."""

    def load(text=study_text, *overrides):
        path = tmp_path / "study.yaml"
        path.write_text(text)
        return load_study(path, overrides)

    return load


@pytest.fixture
def refusal(load, study_text):
    """The message of the InputError that a study or an override must end in."""

    def refusal(text=study_text, *overrides):
        with pytest.raises(InputError) as caught:
            load(text, *overrides)
        return str(caught.value)

    return refusal
