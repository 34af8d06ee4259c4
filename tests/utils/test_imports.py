"""A user's own module by ``--import``; a term of his own: tests/test_own_position_term.py."""

import argparse
import sys

import pytest

from enl_detectron2.utils import imports
from enl_detectron2.utils.errors import ConfigError


def test_a_module_is_imported_once(tmp_path, monkeypatch):
    monkeypatch.setattr(imports, "IMPORTED", [])
    path = tmp_path / "a_users_module.py"
    path.write_text("import sys\nsys.times_imported = getattr(sys, 'times_imported', 0) + 1")
    for _ in range(2):
        assert imports.import_module(str(path)) == str(path)
    assert sys.__dict__.pop("times_imported") == 1
    del sys.modules["a_users_module"]


@pytest.mark.parametrize(
    "name, said",
    [("missing.py", "there is no file missing.py"), ("no_such_module", "no module 'no_such")],
)
def test_what_is_not_there_is_named(capsys, name, said):
    with pytest.raises(ConfigError, match=said):
        imports.import_module(name)
    parser = argparse.ArgumentParser()
    imports.add_import_option(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--import", name])
    assert said in capsys.readouterr().err
