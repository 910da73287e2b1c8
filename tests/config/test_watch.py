import os
from pathlib import Path

from config.watch import Snapshot, Watcher


def test_watcher_sees_each_change_once(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("a: 1")
    watcher = Watcher(file)
    assert not watcher.changed()
    file.write_text("a: 2")
    assert watcher.changed()
    assert not watcher.changed()


def test_watcher_sees_an_edit_that_keeps_length_and_time(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("a: 1")
    watcher = Watcher(file)
    status = file.stat()
    file.write_text("a: 2")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert watcher.changed()


def test_watcher_does_not_take_a_touch_for_a_change(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("a: 1")
    watcher = Watcher(file)
    os.utime(file, ns=(1, 1))
    assert not watcher.changed()
    (tmp_path / "new").write_text("a: 1")
    (tmp_path / "new").rename(file)
    assert not watcher.changed()


def test_watcher_follows_a_swapped_link(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f.yaml").write_text(name)
    (tmp_path / "data").symlink_to("one")
    file = tmp_path / "f.yaml"
    file.symlink_to("data/f.yaml")
    watcher = Watcher(file)
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(tmp_path / "data")
    assert watcher.changed()
    assert not watcher.changed()


def test_watcher_waits_while_the_file_is_gone(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("a: 1")
    watcher = Watcher(file)
    file.unlink()
    assert not watcher.changed()
    file.write_text("a: 1")
    assert not watcher.changed()
    file.unlink()
    file.write_text("a: 2")
    assert watcher.changed()


def test_watcher_of_a_file_that_appears_later_sees_it(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path / "f.yaml")
    assert watcher.snapshot is None
    (tmp_path / "f.yaml").write_text("a: 1")
    assert watcher.changed()


def test_snapshot_holds_size_and_inode(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("a: 1")
    snapshot = Snapshot.of(file)
    assert snapshot is not None
    assert (snapshot.size, snapshot.inode) == (4, file.stat().st_ino)
    assert Snapshot.of(tmp_path) is None
