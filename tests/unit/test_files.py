"""A file is replaced whole or not at all."""

from pathlib import Path

import pytest
from tests.faults import full_disk

from dflmoe.errors import OutputError
from dflmoe.files import replace_file


def test_a_file_is_replaced_whole_and_its_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "result.json"
    for text in ("first", "ein längerer Satz ✓", ""):
        replace_file(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert [entry.name for entry in path.parent.iterdir()] == ["result.json"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_disk_that_is_full_half_way_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    replace_file(path, "old")
    with full_disk(1000), pytest.raises(OutputError, match="cannot be written"):
        replace_file(path, "new " * 1000)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]
    replace_file(path, "new " * 1000)
    assert path.read_text() == "new " * 1000


def test_a_folder_that_cannot_be_made_is_an_output_error_and_costs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    replace_file(file, "old")
    with pytest.raises(OutputError, match="choose another folder"):
        replace_file(file / "result.json", "new")
    assert file.read_text() == "old"


def test_a_folder_of_that_name_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "result.json"
    replace_file(folder / "inside", "old")
    with pytest.raises(OutputError):
        replace_file(folder, "new")
    assert (folder / "inside").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.json"]
