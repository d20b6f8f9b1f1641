from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from tests.conftest import write_images

from finepoint.data.checking import check_images
from finepoint.data.dataset import DataSet
from finepoint.data.finding import find_images
from finepoint.data.manifests import read_manifest, write_manifest
from finepoint.data.splitting import split_images
from finepoint.errors import DataError


@pytest.mark.parametrize("name", ["valid", "val", "validation", "validate"])
def test_the_names_of_the_validation_part_mean_the_same(tmp_path: Path, name: str) -> None:
    write_images(tmp_path / "train", 6)
    write_images(tmp_path / name, 3, seed=1)
    data = check_images(find_images(tmp_path))
    assert data.counts()["valid"] == 9
    assert data.counts()["test"] == 3  # one of six of each class


def test_one_folder_of_classes_gets_both_parts(tmp_path: Path) -> None:
    data = check_images(find_images(write_images(tmp_path, 20)))
    assert data.counts() == {"train": 48, "valid": 6, "test": 6}
    assert data.classes == ("blue & <b>", "green", "red")


def test_the_split_is_seeded_stratified_and_moves_no_file(tmp_path: Path) -> None:
    write_images(tmp_path, 20)
    before = sorted(path for path in tmp_path.rglob("*"))
    first, again, other = (check_images(find_images(tmp_path), seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.images != other.images
    assert {counts["test"] for counts in first.class_counts().values()} == {2}
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_new_images_hardly_move_the_old_ones(tmp_path: Path) -> None:
    write_images(tmp_path, 40)
    before = {image.path: image.split for image in check_images(find_images(tmp_path)).images}
    write_images(tmp_path, 2, seed=9)
    after = {image.path: image.split for image in check_images(find_images(tmp_path)).images}
    moved = [path for path, split in before.items() if after[path] != split]
    assert len(moved) <= 4


def test_groups_are_never_divided(tmp_path: Path) -> None:
    write_images(tmp_path, 30)
    lines = ["path,label,group"]
    lines += [
        f"{path.relative_to(tmp_path)},{path.parent.name},{path.parent.name}-{int(path.stem[2:]) // 3}"
        for path in sorted(tmp_path.rglob("*.png"))
    ]
    manifest = tmp_path / "labels.csv"
    manifest.write_text("\n".join(lines))
    data = check_images(find_images(manifest))
    splits: dict[str, set[str]] = {}
    for image in data.images:
        splits.setdefault(image.group, set()).add(image.split)
    assert all(len(found) == 1 for found in splits.values())
    assert min(data.counts().values()) > 0


def test_stray_and_broken_files_are_named_and_left_out(tmp_path: Path) -> None:
    write_images(tmp_path, 12)
    (tmp_path / "red" / "empty.png").touch()
    (tmp_path / "red" / "text.jpg").write_text("no image")
    (tmp_path / "red" / "notes.txt").write_text("notes")
    good = (tmp_path / "red" / "0-000.png").read_bytes()
    (tmp_path / "red" / "cut.png").write_bytes(good[: len(good) // 2])
    (tmp_path / "red" / "gone.png").symlink_to(tmp_path / "nowhere")
    for stray in (".ipynb_checkpoints", "__MACOSX", ".git"):
        write_images(tmp_path / stray, 1, classes=("red",))
    (tmp_path / "nothing").mkdir()
    data = check_images(find_images(tmp_path))
    assert data.classes == ("blue & <b>", "green", "red")
    reasons = {image.path: image.reason for image in data.skipped}
    assert set(reasons) == {f"red/{name}" for name in ("empty.png", "text.jpg", "notes.txt", "cut.png", "gone.png")}
    assert "empty" in reasons["red/empty.png"]
    assert "UnreadableImages" in {finding.name for finding in data.findings}


def test_the_same_bytes_in_two_splits_are_kept_out_of_the_evaluation(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "valid", "test")):
        write_images(tmp_path / split, 6, seed=number)
    copy = (tmp_path / "train" / "red" / "0-000.png").read_bytes()
    (tmp_path / "test" / "red" / "copy.png").write_bytes(copy)
    (tmp_path / "valid" / "green" / "copy.png").write_bytes(copy)
    data = check_images(find_images(tmp_path))
    assert {leak.dropped for leak in data.leaks} == {"test/red/copy.png", "valid/green/copy.png"}
    assert {leak.kept for leak in data.leaks} == {"train/red/0-000.png"}
    assert data.counts() == {"train": 18, "valid": 18, "test": 18}
    assert {"SameImageInTwoSplits", "ContradictoryLabels"} <= {finding.name for finding in data.findings}


def test_copies_within_an_undivided_folder_end_in_one_split(tmp_path: Path) -> None:
    write_images(tmp_path, 20)
    for path in sorted((tmp_path / "red").glob("*.png")):
        (path.parent / f"copy-{path.name}").write_bytes(path.read_bytes())
    splits: dict[str, set[str]] = {}
    for image in check_images(find_images(tmp_path)).images:
        splits.setdefault(image.sha256, set()).add(image.split)
    assert all(len(found) == 1 for found in splits.values())


def test_manifests_say_everything_that_is_wrong_at_once(tmp_path: Path) -> None:
    write_images(tmp_path, 1)
    manifest = tmp_path / "labels.csv"
    manifest.write_text("\ufeffpath,label,split\nred/0-000.png,,train\nnix.png,red,\nred/0-000.png,red,tset\n")
    with pytest.raises(DataError) as caught:
        find_images(manifest)
    for words in ("line 2: label is empty", "line 3: 'nix.png'", "line 4: split is 'tset'"):
        assert words in str(caught.value)


def test_json_lines_and_csv_mean_the_same(tmp_path: Path) -> None:
    write_images(tmp_path, 3)
    rows = [{"path": str(path.relative_to(tmp_path)), "label": path.parent.name} for path in tmp_path.rglob("*.png")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "a.csv").write_text("path,label\n" + "".join(f"{row['path']},{row['label']}\n" for row in rows))
    assert find_images(tmp_path / "a.jsonl").images == find_images(tmp_path / "a.csv").images


def test_useless_paths_are_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        find_images(tmp_path / "nix")
    with pytest.raises(DataError, match="no images"):
        find_images(tmp_path)
    write_images(tmp_path, 3, classes=("red",))
    with pytest.raises(DataError, match="only one class"):
        check_images(find_images(tmp_path))
    loose = tmp_path / "loose"
    loose.mkdir()
    (loose / "1.jpg").touch()
    with pytest.raises(DataError, match="1 images, but no class folders"):
        find_images(loose)


def test_data_json_survives_a_round_trip(tmp_path: Path) -> None:
    data = check_images(find_images(write_images(tmp_path / "images", 10)))
    data.save(tmp_path / "data.json")
    assert DataSet.load(tmp_path / "data.json") == data
    assert DataSet.load(tmp_path / "data.json").fingerprint() == data.fingerprint()


def test_every_class_keeps_training_images() -> None:
    from finepoint.data.dataset import LabelledImage

    images = [
        LabelledImage(f"{label}/{n}", label)
        for label, count in (("a", 1), ("b", 2), ("c", 3), ("d", 50))
        for n in range(count)
    ]
    split = split_images(images, seed=3, test_fraction=0.3, valid_fraction=0.3)
    for label in "abcd":
        assert any(image.split == "train" for image in split if image.label == label)


def test_folders_that_are_not_used_are_named(tmp_path: Path) -> None:
    write_images(tmp_path / "train", 6)
    write_images(tmp_path / "more", 6, seed=1)
    write_images(tmp_path / "train", 1, classes=("red",)).joinpath("red").rename(tmp_path / "train" / ".net")
    write_images(tmp_path / "train", 6, classes=("red",))
    (tmp_path / "train" / "nothing").mkdir()
    (tmp_path / "valid").mkdir()
    finding = next(item for item in check_images(find_images(tmp_path)).findings if item.name == "UnusedFolders")
    assert finding.evidence["count"] == 4
    for words in (
        "more/ (not a split)",
        "train/.net/ (hidden)",
        "train/nothing/ (no images in it)",
        "valid/ (no class",
    ):
        assert words in finding.message


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write_images(tmp_path, 6)
    (tmp_path / "red").rename(tmp_path / "train")
    assert find_images(tmp_path).classes == ("blue & <b>", "green", "train")


def test_a_link_upwards_is_not_followed(tmp_path: Path) -> None:
    write_images(tmp_path, 4)
    (tmp_path / "red" / "up").symlink_to("..")
    found = find_images(tmp_path)
    assert len(found.images) == 12
    assert found.ignored == ("red/up/ (a link to a folder that was read already)",)


def test_classes_that_were_never_trained_are_named_with_what_they_may_mean(tmp_path: Path) -> None:
    write_images(tmp_path / "train", 6)
    write_images(tmp_path / "valid", 2, seed=1)
    (tmp_path / "valid" / "red").rename(tmp_path / "valid" / "Red")
    finding = next(item for item in check_images(find_images(tmp_path)).findings if item.severity == "error")
    assert finding.message == "2 images belong to classes without training images: 'Red'"
    assert finding.remedy == "spell them alike: 'Red' is not 'red'"


def test_names_that_are_no_text_are_refused_or_left_out(tmp_path: Path) -> None:
    write_images(tmp_path, 6)
    odd = os.fsdecode(b"\xff.png")
    shutil.copy(tmp_path / "red" / "0-000.png", tmp_path / "red" / odd)
    (skipped,) = find_images(tmp_path).skipped
    assert skipped.path == "red/?.png"
    assert "UTF-8" in skipped.reason
    for name in (" ", os.fsdecode(b"\xff")):
        (tmp_path / "red").rename(tmp_path / name)
        with pytest.raises(DataError, match="rename"):
            find_images(tmp_path)
        (tmp_path / name).rename(tmp_path / "red")


def test_a_manifest_of_ours_takes_every_name_that_a_folder_may_have(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "images", 4)
    names = ["back\\slash", "new\nline", "u2028\u2028x", '"quoted", it is', "[bold]"]
    for number, name in enumerate(names):
        shutil.copytree(folder / "red", folder / name)
        (folder / name / "0-000.png").rename(folder / name / f"{name}{number}.png")
    found = find_images(folder)
    rows = [{"path": str(folder / image.path), "label": image.label} for image in found.images]
    again = read_manifest(write_manifest(tmp_path, rows))
    assert [(image.path, image.label) for image in again] == [(row["path"], row["label"]) for row in rows]


def test_manifests_of_other_systems_are_understood(tmp_path: Path) -> None:
    write_images(tmp_path, 1)
    manifest = tmp_path / "labels.csv"
    manifest.write_bytes(b'\xef\xbb\xbfPath,Label\r\nred\\0-000.png,"a\r\nb"\r\n green/0-000.png ,c\r\n')
    first, second = read_manifest(manifest)
    assert (first.path, first.label) == ("red/0-000.png", "a\nb")
    assert (second.path, second.label) == ("green/0-000.png", "c")


@pytest.mark.parametrize("path", ["x" * 5000, "nul\0", "\udcff.png"])
def test_paths_that_no_file_can_have_are_mistakes_not_defects(tmp_path: Path, path: str) -> None:
    manifest = tmp_path / "labels.jsonl"
    manifest.write_text(json.dumps({"path": path, "label": "a"}))
    with pytest.raises(DataError, match="a wrong line"):
        find_images(manifest)
    with pytest.raises(DataError, match="no such folder"):
        find_images(Path(path))


def test_a_group_that_the_user_divided_is_named(tmp_path: Path) -> None:
    folder = write_images(tmp_path, 12)
    lines = [
        f"{path.relative_to(folder)},{path.parent.name},{('train', 'valid', 'test')[number % 3]},g{number // 6}"
        for number, path in enumerate(sorted(folder.rglob("*.png")))
    ]
    (folder / "labels.csv").write_text("path,label,split,group\n" + "\n".join(lines))
    names = {finding.name for finding in check_images(find_images(folder / "labels.csv")).findings}
    assert "GroupInTwoSplits" in names


def test_a_class_whose_every_file_is_unusable_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, 6)
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / "a.jpg").touch()
    finding = next(item for item in check_images(find_images(tmp_path)).findings if item.name == "ClassWithoutImages")
    assert finding.message == "1 class has no usable image and is not learned: 'lost'"


def test_images_that_went_or_changed_since_the_check_are_named(tmp_path: Path) -> None:
    data = check_images(find_images(write_images(tmp_path, 10)))
    for split in ("train", "valid", "test"):
        data.require_files(split)
    gone, changed = data.part("train")[:2]
    data.path_of(gone).unlink()
    data.path_of(changed).write_bytes(b"another image")
    data.require_files("test")
    with pytest.raises(DataError, match="2 of the train images are gone or changed") as caught:
        data.require_files("train")
    assert gone.path in str(caught.value)
    assert changed.path in str(caught.value)
